//! Images for a user's own cluster: `cargo xtask images --push` pushes them completely into a
//! registry, and the chart accepts the values that it prints.

use crate::world::LONG;
use freehold_e2e::shell::{self, command};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const KAFKA: &str = "4.3.1";
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

fn beside_kubectl(program: &str) -> String {
    Path::new(&std::env::var("FREEHOLD_KUBECTL").unwrap())
        .with_file_name(program)
        .to_string_lossy()
        .into_owned()
}

/// A registry in memory on the loopback address; it is killed with the test.
struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    fn start() -> Self {
        let mut process = Command::new(beside_kubectl("registry"))
            .args(["-port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        // The registry logs each request: read its output, so that it does not block.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let port = line
            .trim()
            .rsplit(' ')
            .next()
            .and_then(|port| port.parse().ok());
        Self {
            process,
            port: port.unwrap_or_else(|| panic!("no port: {line}")),
        }
    }

    /// Sends a request; returns the status, the headers in lower case, and the body.
    fn ask(&self, method: &str, path: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: {MANIFESTS}\r\n\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head, answer[end + 4..].to_vec())
    }

    /// The config of an image. Checks that the registry has its manifest, its config and all its
    /// layers.
    fn image(&self, repository: &str, tag: &str) -> Value {
        let (status, _, manifest) = self.ask("GET", &format!("/v2/{repository}/manifests/{tag}"));
        assert_eq!(
            status,
            200,
            "{repository}:{tag}: {}",
            String::from_utf8_lossy(&manifest)
        );
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        assert!(!layers.is_empty(), "{manifest}");
        for layer in layers {
            let (status, head, _) = self.ask(
                "HEAD",
                &format!(
                    "/v2/{repository}/blobs/{}",
                    layer["digest"].as_str().unwrap()
                ),
            );
            assert_eq!(status, 200, "{layer}");
            assert!(
                head.contains(&format!("content-length: {}", layer["size"])),
                "{layer}: {head}"
            );
        }
        let digest = manifest["config"]["digest"].as_str().unwrap();
        let (status, _, config) = self.ask("GET", &format!("/v2/{repository}/blobs/{digest}"));
        assert_eq!(status, 200, "{digest}");
        let found: String = Sha256::digest(&config)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(digest, format!("sha256:{found}"));
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"].as_array().unwrap().len(),
            layers.len(),
            "{config}"
        );
        config
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // An error means that it has already exited.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn images_are_pushed_whole_and_the_chart_takes_the_values_that_are_said() {
    let xtask = std::env::var("FREEHOLD_XTASK").expect("cargo xtask test sets it");
    let binary = std::env::var("FREEHOLD_BINARY").expect("cargo xtask test sets it");
    let runner_binary = std::env::var("FREEHOLD_RUNNER_BINARY").expect("cargo xtask test sets it");
    let registry = Registry::start();
    let names = format!("127.0.0.1:{}/own", registry.port);
    let values = std::env::temp_dir().join(format!("freehold-values-{}.yaml", std::process::id()));
    // The operator, the runner, and the one version of Kafka that is already built for the local cluster.
    let words = [
        "images",
        "--registry",
        &names,
        "--push",
        "--tag",
        "e2e",
        "--engine",
        "buildah",
        "--kafka",
        KAFKA,
        "--binary",
        &binary,
        "--runner-binary",
        &runner_binary,
    ];
    let said = shell::output(command(&xtask, words).arg("--values").arg(&values)).unwrap();
    let (operator, runner, kafka) = (
        format!("{names}/freehold:e2e"),
        format!("{names}/runner:e2e"),
        format!("{names}/kafka:{KAFKA}"),
    );
    for name in [&operator, &runner, &kafka] {
        assert!(said.contains(&format!("pushed {name}")), "{name}: {said}");
    }
    assert!(
        said.contains(&std::fs::read_to_string(&values).unwrap()),
        "the values are printed: {said}"
    );

    for (repository, program) in [("freehold", "freehold"), ("runner", "freehold-runner")] {
        let config = registry.image(&format!("own/{repository}"), "e2e")["config"].clone();
        let program = format!("/usr/local/bin/{program}");
        assert_eq!(config["Entrypoint"], serde_json::json!([program]));
        assert_eq!(config["User"], "10001:10001");
    }
    let config = registry.image("own/kafka", KAFKA)["config"].clone();
    assert_eq!(config["User"], "10001:10001");

    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/freehold");
    let template = [
        "template",
        "freehold",
        "--namespace",
        "freehold-system",
        "--kube-version",
        "1.34.0",
        "--values",
    ];
    let rendered = shell::output(
        command(&beside_kubectl("helm"), template)
            .arg(&values)
            .arg(chart),
    )
    .unwrap();
    assert!(
        rendered.contains(&format!("image: \"{operator}\"")),
        "{rendered}"
    );
    assert!(
        rendered.contains(&format!("value: \"{runner}\"")),
        "{rendered}"
    );
    assert!(
        rendered.contains(&format!("value: \"{KAFKA}={kafka}\"")),
        "this image and no other: {rendered}"
    );
    std::fs::remove_file(&values).unwrap();

    let other = [
        "images",
        "--registry",
        &names,
        "--platform",
        "linux/amd64,linux/arm64,linux/s390x",
    ];
    let refused = shell::output(&mut command(&xtask, other))
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("cannot be built on this machine, which is linux/"),
        "{refused}"
    );
}
