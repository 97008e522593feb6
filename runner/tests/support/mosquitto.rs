//! A real MQTT broker.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Folder, free_port, until};

const MISSING: &str = "run `apt-get install mosquitto mosquitto-clients` once";

/// A broker that keeps sessions over its restarts. It is killed when this is dropped.
pub struct Mosquitto {
    pub port: u16,
    pub folder: Folder,
    process: Option<Child>,
}

impl Mosquitto {
    /// A broker with more lines of settings; `{folder}` is its folder in them.
    pub fn new(name: &str, more: &str) -> Self {
        let mut broker = Self {
            port: free_port(),
            folder: Folder::new(name),
            process: None,
        };
        let folder = broker.folder.0.display();
        let config = format!(
            "listener {} 127.0.0.1\npassword_file {folder}/passwords\npersistence true\n\
             persistence_location {folder}/\nmax_queued_messages 0\nuser root\n{}\n",
            broker.port,
            more.replace("{folder}", &folder.to_string())
        );
        std::fs::write(broker.folder.0.join("config"), config).unwrap();
        // A list of rights must be there if a setting names it.
        std::fs::write(broker.folder.0.join("acl"), "").unwrap();
        let made = Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(broker.folder.0.join("passwords"))
            .args(["me", "hush"])
            .status();
        assert!(made.expect(MISSING).success(), "mosquitto_passwd");
        broker.start();
        broker
    }

    pub fn start(&mut self) {
        let program = [
            "/usr/sbin/mosquitto",
            "/usr/bin/mosquitto",
            "/usr/local/sbin/mosquitto",
        ];
        let program = program
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists());
        let process = Command::new(program.expect(MISSING))
            .arg("-c")
            .arg(self.folder.0.join("config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.expect(MISSING));
        until("the MQTT broker listens", Duration::from_secs(60), || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Ends it as an administrator does: it writes its sessions.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            crate::support::signal("TERM", process.id());
            process.wait().unwrap();
        }
    }

    /// It reads its list of rights again.
    pub fn reload(&self) {
        crate::support::signal("HUP", self.process.as_ref().unwrap().id());
    }

    /// Writes each message of a topic to a file, over restarts of the broker. It ends when this is
    /// dropped.
    pub fn watch(&self, topic: &str) -> Watch {
        let file = self.folder.0.join("watched");
        // From now on the broker keeps messages for the session.
        let subscribed = self.subscriber(topic).arg("-E").status();
        assert!(subscribed.expect(MISSING).success(), "mosquitto_sub -E");
        let process = self
            .subscriber(topic)
            .stdout(std::fs::File::create(&file).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .expect(MISSING);
        Watch { file, process }
    }

    /// A subscriber with a session that the broker keeps.
    fn subscriber(&self, topic: &str) -> Command {
        let mut command = Command::new("mosquitto_sub");
        command
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-u", "me", "-P", "hush", "-V", "mqttv5", "-x", "3600"])
            .args(["-c", "-i", "watch", "-q", "1", "-t", topic, "-F", "%p"]);
        command
    }

    /// Publishes each line at QoS 1, and waits until the broker has them.
    pub fn publish(&self, topic: &str, lines: &str) {
        let mut client = Command::new("mosquitto_pub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-u",
                "me",
                "-P",
                "hush",
            ])
            .args(["-q", "1", "-t", topic, "-l"])
            .stdin(Stdio::piped())
            .spawn()
            .expect(MISSING);
        let mut stdin = client.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, lines.as_bytes()).unwrap();
        drop(stdin);
        assert!(client.wait().unwrap().success(), "mosquitto_pub");
    }
}

/// What a subscriber gets.
pub struct Watch {
    file: PathBuf,
    process: Child,
}

impl Watch {
    /// The messages so far.
    pub fn lines(&self) -> Vec<String> {
        let text = super::tail(&self.file, usize::MAX);
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(str::to_owned).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
