//! Long-running programs of the local cluster. Each is started once in its own process group,
//! identified by process id and start time (so that a reused id is never taken for it), and stopped
//! by that id.

use crate::layout::Layout;
use anyhow::{Context, Result};
use freehold_e2e::shell;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The start time of a process in clock ticks (`/proc/<pid>/stat`, field 22); `None` if it does not
/// exist.
fn start_ticks(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = stat.rsplit_once(')')?.1;
    let fields: Vec<_> = rest.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19).map(|ticks| (*ticks).to_owned())
}

fn pid_file(layout: &Layout, name: &str) -> std::path::PathBuf {
    layout.run.join("pids").join(name)
}

/// The process id of a daemon that is still running.
pub fn alive(layout: &Layout, name: &str) -> Option<u32> {
    let text = fs::read_to_string(pid_file(layout, name)).ok()?;
    let (pid, ticks) = text.split_once(' ')?;
    let pid = pid.parse().ok()?;
    (start_ticks(pid)? == ticks).then_some(pid)
}

/// A process with exactly this command line (or what `nsenter` made of it). It was started by a run
/// that was killed before it wrote the process id.
fn orphan(command: &Command) -> Option<u32> {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    let entries = fs::read_dir("/proc").ok()?;
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            let found: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
            found.len() > 1
                && words.len() >= found.len()
                && words[words.len() - found.len()..]
                    .iter()
                    .zip(&found)
                    .all(|(ours, theirs)| ours == theirs)
        })
}

/// Starts a daemon unless it is running. Its log is `logs/<name>.log`.
pub fn start(layout: &Layout, name: &str, mut command: Command) -> Result<()> {
    if alive(layout, name).is_some() {
        return Ok(());
    }
    if let Some((pid, ticks)) = orphan(&command).and_then(|pid| Some((pid, start_ticks(pid)?))) {
        return shell::write_file(&pid_file(layout, name), format!("{pid} {ticks}"));
    }
    let log = shell::log_file(&layout.logs().join(format!("{name}.log")))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let ticks =
        start_ticks(child.id()).with_context(|| format!("{name} ended at once, see its log"))?;
    shell::write_file(&pid_file(layout, name), format!("{} {ticks}", child.id()))
}

/// Stops a daemon: sends SIGTERM, waits up to 10 s, then sends SIGKILL.
pub fn stop(layout: &Layout, name: &str) -> Result<()> {
    if let Some(pid) = alive(layout, name) {
        signal(pid, "TERM");
        let asked = Instant::now();
        while alive(layout, name).is_some() {
            if asked.elapsed() > Duration::from_secs(10) {
                signal(pid, "KILL");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    match fs::remove_file(pid_file(layout, name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Every daemon that was started, running or not; etcd is last.
pub fn names(layout: &Layout) -> Vec<String> {
    let Ok(entries) = fs::read_dir(layout.run.join("pids")) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|name| !name.ends_with(".part"));
    names.sort_by_key(|name| (name == "etcd", name.clone()));
    names
}

/// Stops every daemon.
pub fn stop_all(layout: &Layout) -> Result<()> {
    names(layout).iter().try_for_each(|name| stop(layout, name))
}

/// Sends a signal to one process.
pub fn signal(pid: u32, name: &str) {
    let _ = shell::succeeds(&mut shell::command(
        "kill",
        [&format!("-{name}"), &pid.to_string()],
    ));
}
