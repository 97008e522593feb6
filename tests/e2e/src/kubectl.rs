//! Runs kubectl as a user would.

use crate::{shell, verdict};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A kubectl program, and the cluster that it uses.
#[derive(Clone, Debug)]
pub struct Kubectl {
    pub program: String,
    /// Arguments before every command: `--kubeconfig` or `--context`.
    pub target: Vec<String>,
}

impl Kubectl {
    /// From the environment variables that `cargo xtask test` sets: `FREEHOLD_KUBECTL` and
    /// `KUBECONFIG`.
    pub fn from_env() -> Result<Self> {
        let program = std::env::var("FREEHOLD_KUBECTL")
            .context("FREEHOLD_KUBECTL is not set: run these tests by `cargo xtask test`")?;
        let kubectl = Self {
            program,
            target: Vec::new(),
        };
        verdict::collect_on_failure(&kubectl);
        Ok(kubectl)
    }

    /// A kubectl command.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.target).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command and returns its standard output.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        shell::output(&mut self.command(args))
    }

    /// Runs a command and returns its output as JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        Ok(serde_json::from_str(&self.run(&all)?)?)
    }

    /// One object, or `None` if it does not exist.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let text = self.run(&[
            "get",
            kind,
            name,
            "--namespace",
            namespace,
            "--ignore-not-found",
            "-o",
            "json",
        ])?;
        if text.is_empty() {
            Ok(None)
        } else {
            Ok(Some(serde_json::from_str(&text)?))
        }
    }

    /// Applies YAML. The error has the API server's reason.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.feed(
            &[
                "apply",
                "--server-side",
                "--force-conflicts",
                "--field-manager=test",
                "-f",
                "-",
            ],
            yaml,
        )
    }

    /// Runs a command that reads `input`.
    pub fn feed(&self, args: &[&str], input: &str) -> Result<String> {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start kubectl")?;
        child
            .stdin
            .take()
            .context("kubectl's input")?
            .write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Changes an object by a merge patch (RFC 7386).
    pub fn merge(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> Result<()> {
        self.run(&[
            "patch",
            kind,
            name,
            "--namespace",
            namespace,
            "--type=merge",
            "-p",
            &patch.to_string(),
        ])
        .map(|_| ())
    }

    /// Deletes an object and waits until it is gone.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        self.run(&[
            "delete",
            kind,
            name,
            "--namespace",
            namespace,
            "--ignore-not-found",
            "--wait",
            &timeout,
        ])
        .map(|_| ())
    }

    /// Waits until the Ready condition of an object is True for its current generation.
    pub fn wait_ready(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        limit: Duration,
    ) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        // One kubectl watches the object; the poll around it is for objects that do not exist yet
        // and for API servers that are down.
        shell::wait_for(&format!("{kind} {namespace}/{name} Ready"), limit, || {
            let waited = self.run(&[
                "wait",
                kind,
                name,
                "--namespace",
                namespace,
                "--for=condition=Ready",
                &timeout,
            ]);
            let Some(object) = self.get(kind, namespace, name)? else {
                return Ok(Some("it is not there".into()));
            };
            Ok(not_ready(&object).or_else(|| waited.err().map(|error| error.to_string())))
        })
    }

    /// Waits until a condition of this type is True; returns its reason and message.
    pub fn wait_condition(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        condition: &str,
        limit: Duration,
    ) -> Result<(String, String)> {
        let mut found = None;
        shell::wait_for(
            &format!("{kind} {namespace}/{name} {condition}"),
            limit,
            || {
                let Some(object) = self.get(kind, namespace, name)? else {
                    return Ok(Some("it is not there".into()));
                };
                let holds = condition_of(&object, condition)
                    .filter(|condition| condition["status"] == "True");
                found = holds
                    .map(|condition| (text(&condition["reason"]), text(&condition["message"])));
                Ok(if found.is_some() {
                    None
                } else {
                    Some(object["status"]["conditions"].to_string())
                })
            },
        )?;
        found.context("the condition was seen")
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A condition of an object.
pub fn condition_of<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}

/// Why an object is not Ready; `None` if it is.
pub fn not_ready(object: &Value) -> Option<String> {
    let generation = &object["metadata"]["generation"];
    match condition_of(object, "Ready") {
        None => Some("no status yet".into()),
        Some(condition) if condition["observedGeneration"] != *generation => {
            Some("the newest spec has not been looked at yet".into())
        }
        Some(condition) if condition["status"] == "True" => None,
        Some(condition) => Some(format!(
            "{}: {}",
            text(&condition["reason"]),
            text(&condition["message"])
        )),
    }
}
