//! The runner as a process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use freehold_pipeline::report::StageReport;
use freehold_runner::config::StageConfig;

use super::broker::{Kafka, USER};
use super::{free_port, signal, tail, until, wait_for};

/// What to run.
#[derive(Clone)]
pub struct Stage {
    pub bootstrap: String,
    /// More fields of `kafka` as JSON, each with a comma before it.
    pub security: String,
    pub group: String,
    pub from: String,
    pub to: String,
    pub delivery: &'static str,
    /// Fields of `limits` as JSON, without braces.
    pub limits: String,
    /// More fields of the stage as JSON, each with a comma before it.
    pub more: String,
    pub folder: PathBuf,
    pub ordinal: u32,
    /// What the values are.
    pub format: &'static str,
    /// More fields of the source as JSON, each with a comma before it.
    pub source: &'static str,
    /// What is known of the topics, as JSON.
    pub topics: String,
    /// Blocks between source (`in`) and sink, as JSON, each with a comma behind it.
    pub blocks: &'static str,
    /// The block before the sink.
    pub last: &'static str,
    /// `errors` of the definition, as JSON.
    pub errors: &'static str,
    /// The sink, as JSON, if it is outside Kafka.
    pub sink: Option<String>,
    /// What it replays, as JSON.
    pub replay: Option<String>,
    /// More arguments.
    pub arguments: String,
    /// The address space of the process, at most: what is beyond is not allocated.
    pub address_space_kib: Option<u64>,
}

/// A running runner. It is killed when this is dropped, or when the test process ends.
pub struct Runner {
    guard: Child,
    pub pid: u32,
    port: u16,
    log: PathBuf,
}

impl Stage {
    pub fn new(bootstrap: &str, folder: &Path, from: &str, to: &str) -> Self {
        Self {
            bootstrap: bootstrap.to_owned(),
            security: String::new(),
            group: format!("group-{to}"),
            from: from.to_owned(),
            to: to.to_owned(),
            delivery: "ExactlyOnce",
            limits: r#""transactionTimeoutMs": 4000, "sessionTimeoutMs": 6000, "heartbeatMs": 500,
                "batchRecordsMax": 500"#
                .to_owned(),
            more: String::new(),
            folder: folder.to_owned(),
            ordinal: 0,
            format: "Bytes",
            source: "",
            topics: "{}".to_owned(),
            blocks: "",
            last: "in",
            errors: r#"{"deadLetter": {"topic": "dead"}}"#,
            sink: None,
            replay: None,
            arguments: String::new(),
            address_space_kib: None,
        }
    }

    /// Gives it a crash journal, which its processes share as the containers of a pod do.
    pub fn with_journal(&mut self) {
        let folder = self.folder.join(format!("work-{}", self.instance()));
        fs::create_dir_all(&folder).unwrap();
        self.arguments += &format!(" --work '{}'", folder.display());
    }

    /// Uses the listener with SASL_SSL, with the password from a file.
    pub fn secure(&mut self, kafka: &Kafka, password: &Path) {
        self.bootstrap = kafka.secure();
        self.security = format!(
            r#", "tls": {{"ca": "{}"}}, "scram": {{"user": "{USER}", "passwordFile": "{}"}}"#,
            kafka.folder().join("ca.pem").display(),
            password.display()
        );
    }

    /// The id of the replica, as the runner makes it.
    pub fn instance(&self) -> String {
        format!("{}.{}", self.group, self.ordinal)
    }

    /// The stage document: a copy of one topic to the other, through the stage's blocks.
    fn document(&self) -> String {
        let sink = match &self.sink {
            Some(sink) => sink.clone(),
            None => format!(r#"{{"kafka": {{"topic": "{}"}}}}"#, self.to),
        };
        let replay = self.replay.as_ref();
        let replay = replay.map(|replay| format!(r#""replay": {replay}, "#));
        format!(
            r#"{{"version": 1, "pipeline": "test/{to}", "revision": 1, "stage": "in", {replay}
                "topics": {topics}, "group": "{group}", "definition": {{
                    "delivery": "{delivery}", "errors": {errors},
                    "blocks": [
                        {{"name": "in", "source": {{"kafka": {{"topic": "{from}", "format": "{format}"
                            {source}}}}}}},
                        {blocks}
                        {{"name": "out", "from": ["{last}"], "sink": {sink}}}
                    ]}}}}"#,
            replay = replay.unwrap_or_default(),
            group = self.group,
            delivery = self.delivery,
            from = self.from,
            format = self.format,
            source = self.source,
            topics = self.topics,
            blocks = self.blocks,
            last = self.last,
            errors = self.errors,
            to = self.to,
        )
    }

    fn client(&self) -> String {
        format!(
            r#"{{"kafka": {{"bootstrap": "{}" {}}}, "limits": {{{}}} {}}}"#,
            self.bootstrap, self.security, self.limits, self.more
        )
    }

    /// The settings, for a stage in this process.
    pub fn config(&self) -> StageConfig {
        serde_json::from_str(&self.settings()).unwrap()
    }

    fn settings(&self) -> String {
        format!(
            r#"{{"kafka": {{"bootstrap": "{}" {}}}, "group": "{}", "instance": "{}",
                "topics": ["{}"], "delivery": "{}", "limits": {{{}}} {}}}"#,
            self.bootstrap,
            self.security,
            self.group,
            self.instance(),
            self.from,
            self.delivery,
            self.limits,
            self.more
        )
    }

    /// The folder of its secrets.
    pub fn secrets(&self) -> PathBuf {
        self.folder.join(format!("secrets-{}", self.group))
    }

    /// Writes a key of a Secret.
    pub fn write_secret(&self, secret: &str, key: &str, value: &str) {
        let folder = self.secrets().join(secret);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(key), value).unwrap();
    }

    pub fn start(&self) -> Runner {
        self.start_with(&self.document(), &self.arguments)
    }

    /// Starts a runner with a document of its own and more arguments.
    pub fn start_with(&self, stage: &str, arguments: &str) -> Runner {
        let port = free_port();
        // Each start has its own files: another one may be reading its document just now.
        let name = format!("runner-{}-{port}", self.instance());
        let file = |end: &str| self.folder.join(format!("{name}.{end}"));
        let (document, client, log) = (file("stage"), file("client"), file("log"));
        fs::write(&document, stage).unwrap();
        fs::write(&client, self.client()).unwrap();
        // The shell kills the runner when its input closes, and passes the exit code on. Behind the
        // end of the runner nothing is killed: another process may have its number.
        let limit = self
            .address_space_kib
            .map(|kib| format!("ulimit -v {kib}; "));
        let script = format!(
            "{}'{}' --stage '{}' --client '{}' --secrets '{}' --ordinal {} --listen 127.0.0.1:{port} {arguments} > '{}' 2>&1 & pid=$!; echo $pid; \
             exec 3<&0; (read _ <&3; kill -9 $pid 2>/dev/null) >/dev/null & guard=$!; \
             wait $pid; code=$?; kill $guard 2>/dev/null; exit $code",
            limit.unwrap_or_default(),
            env!("CARGO_BIN_EXE_freehold-runner"),
            document.display(),
            client.display(),
            self.secrets().display(),
            self.ordinal,
            log.display()
        );
        let mut guard = Command::new("sh")
            .args(["-c", &script])
            .env("FREEHOLD_LOG", "freehold_runner=debug,info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(guard.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        Runner {
            guard,
            pid: line.trim().parse().unwrap(),
            port,
            log,
        }
    }
}

impl Runner {
    /// The body of an answer, if the runner answers.
    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// The body of an answer, once the runner answers.
    pub fn answer(&self, path: &str) -> String {
        let ask = || self.get(path);
        let answer = wait_for("an answer", Duration::from_secs(20), ask, Option::is_some);
        answer.unwrap()
    }

    /// What it reports; an empty report if it does not answer.
    pub fn report(&self) -> StageReport {
        let answer = self.get("/status").unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
        body.and_then(|body| serde_json::from_str(body).ok())
            .unwrap_or_default()
    }

    /// A figure; 0 if the runner does not answer: only for what is asked for again.
    pub fn figure(&self, name: &str) -> f64 {
        figure(&self.get("/metrics").unwrap_or_default(), name)
    }

    /// A figure, once the runner answers.
    pub fn exact_figure(&self, name: &str) -> f64 {
        figure(&self.answer("/metrics"), name)
    }

    pub fn wait_ready(&self) {
        until("the runner is ready", Duration::from_secs(30), || {
            self.get("/readyz")
                .is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
    }

    pub fn signal(&self, name: &str) {
        signal(name, self.pid);
    }

    pub fn kill(self) {
        drop(self);
    }

    /// Waits for the end and returns the exit code.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let mut code = None;
        until("the runner ends", limit, || {
            code = self.guard.try_wait().unwrap();
            code.is_some()
        });
        code.unwrap().code().unwrap()
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.guard.try_wait().unwrap().is_some()
    }

    pub fn log(&self) -> String {
        tail(&self.log, usize::MAX)
    }
}

/// A figure in the text of `/metrics`; 0 if it is not there.
fn figure(text: &str, name: &str) -> f64 {
    let start = format!("freehold_runner_{name}");
    let line = text.lines().find(|line| line.starts_with(&start));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or(0.0)
}

impl Drop for Runner {
    fn drop(&mut self) {
        if matches!(self.guard.try_wait(), Ok(None)) {
            // A stopped process does not die before it goes on, but SIGKILL ends it all the same.
            drop(self.guard.stdin.take());
            let _ = self.guard.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- runner {}:\n{}", self.pid, tail(&self.log, 6_000));
        }
    }
}
