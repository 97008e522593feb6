//! Records by HTTPS.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{all, errors, problem, reported, secrets};
use crate::support::stage::{Runner, Stage};
use crate::support::{PATIENCE, free_port, signal, until, wait_for};
use crate::{MINUTE, Setup, setup};

/// A stage with a source by HTTPS.
struct Posts {
    stage: Stage,
    port: u16,
    format: &'static str,
    folder: PathBuf,
    secrets: PathBuf,
    /// Certificates of CAs that clients trust.
    trusted: Mutex<Vec<String>>,
}

impl Posts {
    fn new(setup: &Setup, name: &str, topic: &str) -> Self {
        let kafka = &setup.kafka;
        let stage = Stage::new(&kafka.bootstrap(), kafka.folder(), "none", topic);
        let folder = kafka.folder().join(format!("{name}-tls"));
        std::fs::create_dir_all(&folder).unwrap();
        let secrets = secrets(&stage, name, &[("token", "hush\n")]);
        let posts = Self {
            stage,
            port: free_port(),
            format: "Json",
            folder,
            secrets,
            trusted: Mutex::default(),
        };
        posts.renew_certificate();
        posts
    }

    /// A new key and a certificate that it has signed itself; the one from before is not trusted.
    fn renew_certificate(&self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(
            self.folder.join("tls.key"),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
        std::fs::write(self.folder.join("tls.crt"), made.cert.pem()).unwrap();
        *self.trusted.lock().unwrap() = vec![made.cert.pem()];
    }

    fn start(&self, name: &str) -> Runner {
        let document = format!(
            r#"{{"version": 1, "pipeline": "test/{name}", "revision": 1, "stage": "{name}",
                "group": "{name}", "definition": {{"delivery": "AtLeastOnce", "errors": {{}}, "blocks": [
                    {{"name": "{name}", "source": {{"http": {{"format": "{}", "bodyBytesMax": 100000,
                        "authentication": {{"token": {{"name": "{name}", "key": "token"}}}}}}}}}},
                    {{"name": "out", "from": ["{name}"], "sink": {{"kafka": {{"topic": "{}"}}}}}}]}}}}"#,
            self.format, self.stage.to
        );
        let arguments = format!(
            "--tls '{}' --http-source 127.0.0.1:{}",
            self.folder.display(),
            self.port
        );
        self.stage.start_with(&document, &arguments)
    }

    fn connect(&self) -> Option<StreamOwned<ClientConnection, TcpStream>> {
        let mut roots = RootCertStore::empty();
        for pem in &*self.trusted.lock().unwrap() {
            roots
                .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
                .unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        tcp.set_read_timeout(Some(MINUTE * PATIENCE)).unwrap();
        Some(StreamOwned::new(tls, tcp))
    }

    /// Sends a request with these lines of headers, and returns the answer; `None`: there was none.
    fn send(&self, line: &str, headers: &str, body: &[u8]) -> Option<String> {
        let mut stream = self.connect()?;
        let head = format!(
            "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        // What is too large is answered before it is read.
        let _ = stream.write_all(body).and_then(|()| stream.flush());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer)
            .ok()
            .filter(|answer| !answer.is_empty())
    }

    fn post(&self, kind: &str, key: &str, body: &str) -> Option<String> {
        let headers =
            format!("Authorization: Bearer hush\r\nContent-Type: {kind}\r\nRecord-Key: {key}\r\n");
        self.send("POST /", &headers, body.as_bytes())
    }
}

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

fn is(answer: Option<&String>, status: u16) -> bool {
    answer.is_some_and(|answer| answer.starts_with(&format!("HTTP/1.1 {status} ")))
}

/// Bodies of several forms, with their records: `number` is in each.
fn form(number: u64) -> (&'static str, String, Vec<String>) {
    let record = |part: u32| format!("{{\"number\": {number},  \"part\": {part}}}");
    match number % 3 {
        0 => (JSON, record(0), vec![record(0)]),
        1 => {
            let body = format!("[{}, {}]", record(0), record(1));
            (JSON, body, vec![record(0), record(1)])
        }
        _ => {
            let body = format!("{}\n\n{}\r\n", record(0), record(1));
            (LINES, body, vec![record(0), record(1)])
        }
    }
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn what_was_answered_is_in_the_topic_over_kills() {
    let (setup, _turn) = setup();
    setup.kafka.create_topic("posts-out", 3, &[]);
    let posts = Posts::new(setup, "posts", "posts-out");
    let (began, enough) = (Instant::now(), AtomicBool::new(false));
    // For each request: how often it was sent without an answer.
    let unanswered = thread::scope(|scope| {
        let clients: Vec<_> = (0..8_u64)
            .map(|client| {
                let (posts, enough) = (&posts, &enough);
                scope.spawn(move || {
                    let mut unanswered = Vec::new();
                    for number in (client..).step_by(8) {
                        if enough.load(Relaxed) {
                            break;
                        }
                        let (kind, body, _) = form(number);
                        let mut times = 0;
                        while !is(posts.post(kind, &format!("k{number}"), &body).as_ref(), 200) {
                            let waited = began.elapsed();
                            assert!(waited < MINUTE * PATIENCE, "request {number}");
                            times += 1;
                            thread::sleep(Duration::from_millis(50));
                        }
                        unanswered.push((number, times));
                    }
                    unanswered
                })
            })
            .collect();
        let mut runner = posts.start("posts");
        for kill in 0..5 {
            runner.wait_ready();
            thread::sleep(Duration::from_millis(150 + 70 * kill));
            runner.kill();
            runner = posts.start("posts");
        }
        runner.wait_ready();
        enough.store(true, Relaxed);
        let all: Vec<_> = clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect();
        let rss = std::fs::read_to_string(format!("/proc/{}/status", runner.pid)).unwrap();
        let rss = rss.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        eprintln!("{} requests: {:?}, {rss}", all.len(), began.elapsed());
        runner.signal("TERM");
        assert_eq!(runner.wait(MINUTE), 0);
        all
    });
    let mut seen = all(setup, "posts-out");
    for (number, times) in unanswered {
        for record in form(number).2 {
            let count = seen
                .remove(&(format!("k{number}"), record))
                .unwrap_or_default();
            assert!(
                (1..=1 + times).contains(&count),
                "{number}: {count} times, {times} unanswered"
            );
        }
    }
    assert!(seen.is_empty(), "records that nobody sent: {seen:?}");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn each_error_has_its_answer() {
    let (setup, _turn) = setup();
    setup
        .kafka
        .create_topic("refusals", 2, &[("max.message.bytes", "20000")]);
    let mut posts = Posts::new(setup, "refuse", "refusals");
    posts.stage.more = r#", "compression": "none""#.to_owned();
    let runner = posts.start("refuse");
    runner.wait_ready();
    let opened = "Authorization: Bearer hush\r\n";
    let json = format!("{opened}Content-Type: {JSON}\r\n");
    let large = format!("[\"{}\"]", "x".repeat(30_000));
    let huge = vec![b' '; 100_001];
    let cases: [(u16, &str, &str, &[u8], &str); 9] = [
        (404, "POST /other", &json, b"1", "records are sent to /"),
        (405, "GET /", &json, b"", "allow: POST"),
        (401, "POST /", "", b"1", "www-authenticate: Bearer"),
        (
            401,
            "POST /",
            "Authorization: Bearer no\r\n",
            b"1",
            "Authorization is missing or wrong",
        ),
        (415, "POST /", opened, b"1", "Content-Type must be"),
        (
            400,
            "POST /",
            &json,
            b"[1, hush]",
            "the array: expected value at line 1 column 5",
        ),
        (400, "POST /", &json, b"", "the body is empty"),
        (413, "POST /", &json, &huge, "larger than 100000 bytes"),
        (
            413,
            "POST /",
            &json,
            large.as_bytes(),
            "record 1: larger than topic refusals allows",
        ),
    ];
    for (status, line, headers, body, expected) in cases {
        // 503: Kafka is slow.
        let ask = || posts.send(line, headers, body);
        let answer = wait_for("it is not 503", MINUTE, ask, |answer| {
            !is(answer.as_ref(), 503)
        });
        assert!(is(answer.as_ref(), status), "{status} {line}: {answer:?}");
        let answer = answer.unwrap();
        assert!(
            answer.contains(expected) && !answer.contains("hush"),
            "{expected}: {answer}"
        );
    }
    // Small records are not refused because of others that they are sent together with.
    let lines: String = (0..2_000)
        .map(|number| format!("\"{number:020}\"\n"))
        .collect();
    let ask = || posts.post(LINES, "many", &lines);
    let answer = wait_for("it is not 503", MINUTE, ask, |answer| {
        !is(answer.as_ref(), 503)
    });
    let answer = answer.unwrap();
    assert!(answer.ends_with("{\"records\":2000}\n"), "{answer}");
    assert_eq!(all(setup, "refusals").len(), 2_000);
    reported(&runner, "errors are counted", MINUTE, |report| {
        errors(report, "refuse") == 5
    });
    until("records are counted", MINUTE, || {
        runner.figure("block_records_out_total{block=\"refuse\"}") >= 2_000.0
    });
    // A Secret that is missing.
    std::fs::rename(posts.secrets.join("refuse"), posts.secrets.join("gone")).unwrap();
    let named = |report: &freehold_pipeline::report::StageReport| {
        problem(report, "refuse").is_some_and(|why| why.contains("Secret refuse, key token"))
    };
    reported(&runner, "the Secret is named", MINUTE, named);
    let answer = posts.post(JSON, "k", "1");
    assert!(is(answer.as_ref(), 503), "{answer:?}");
    std::fs::rename(posts.secrets.join("gone"), posts.secrets.join("refuse")).unwrap();
    // Meanwhile another certificate.
    posts.renew_certificate();
    until("the new certificate is in force", MINUTE, || {
        is(posts.post(JSON, "k", "1").as_ref(), 200)
    });
    reported(&runner, "all is well", MINUTE, |report| {
        report.ready && report.message.is_empty()
    });
    assert!(!runner.log().contains("hush"), "{}", runner.log());
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn what_kafka_does_not_take_is_answered_and_named_until_it_does() {
    let (setup, _turn) = setup();
    let mut posts = Posts::new(setup, "later", "later-out");
    posts.format = "Text";
    let runner = posts.start("later");
    runner.wait_ready();
    let named = |why: &'static str| {
        move |report: &freehold_pipeline::report::StageReport| {
            problem(report, "out").is_some_and(|known| known.contains(why))
        }
    };
    let soon = MINUTE;
    reported(
        &runner,
        "the missing topic is named",
        soon,
        named("later-out"),
    );
    let answer = posts.post("text/plain", "k", "one").unwrap();
    assert!(
        is(Some(&answer), 503) && answer.contains("retry-after: 5"),
        "{answer}"
    );
    setup.kafka.create_topic("later-out", 1, &[]);
    until("records are taken", MINUTE, || {
        is(posts.post("text/plain", "k", "two").as_ref(), 200)
    });
    reported(&runner, "it is cleared", MINUTE, |report| {
        problem(report, "out").is_none()
    });
    signal("STOP", setup.kafka.pid(0));
    let answer = posts.post("text/plain", "k", "three");
    assert!(is(answer.as_ref(), 503), "{answer:?}");
    reported(&runner, "the silence is named", MINUTE, |report| {
        problem(report, "out").is_some() && !report.ready
    });
    signal("CONT", setup.kafka.pid(0));
    until("records are taken", MINUTE, || {
        is(posts.post("text/plain", "k", "four").as_ref(), 200)
    });
    reported(&runner, "it is cleared", MINUTE, |report| {
        report.ready && problem(report, "out").is_none()
    });
    let seen = all(setup, "later-out");
    for value in ["two", "four"] {
        assert!(
            seen.contains_key(&("k".to_owned(), value.to_owned())),
            "{seen:?}"
        );
    }
}
