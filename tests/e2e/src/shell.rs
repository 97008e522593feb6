//! Runs other programs: captures their output, names them in errors, and waits for conditions.

use crate::verdict;
use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A command from a program and its arguments.
pub fn command<I, S>(program: &str, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(program);
    // The same locale everywhere, whatever the caller's: the output is parsed, and old compilers
    // read sources in the locale's encoding.
    command
        .args(args)
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8");
    if program == "cargo" {
        // The calling cargo sets these variables for its own package. Build scripts depend on them,
        // and would rebuild everything each time they differ.
        let of_package =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package))
        {
            command.env_remove(name);
        }
    }
    command
}

/// A command from one line, split at white space: only for fixed words.
pub fn line(words: &str) -> Command {
    let mut parts = words.split_whitespace();
    command(parts.next().unwrap_or("true"), parts)
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text.truncate(400);
    text
}

fn finished(command: &mut Command) -> Result<Output> {
    command
        .output()
        .with_context(|| format!("could not start `{}`", describe(command)))
}

/// Runs a command to its end. The error has the last output of the program.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// Runs a command to its end and returns its standard output, trimmed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = finished(command)?;
    if !output.status.success() {
        let mut words = String::from_utf8_lossy(&output.stderr).into_owned();
        words.push_str(&String::from_utf8_lossy(&output.stdout));
        let tail = words
            .lines()
            .rev()
            .take(30)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("\n");
        bail!(
            "`{}` failed ({}):\n{tail}",
            describe(command),
            output.status
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// True if the command ran and succeeded.
pub fn succeeds(command: &mut Command) -> bool {
    finished(command).is_ok_and(|output| output.status.success())
}

/// Runs a command with its output on the terminal.
pub fn show(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("could not start `{}`", describe(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", describe(command));
    }
    Ok(())
}

/// Runs a command to its end with all output in a file.
pub fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = log_file(log)?;
    let status = command
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("could not start `{}`", describe(command)))?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        let tail = text
            .lines()
            .rev()
            .take(30)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("\n");
        bail!(
            "`{}` failed ({status}), see {}:\n{tail}",
            describe(command),
            log.display()
        );
    }
    Ok(())
}

/// Opens a log for appending; creates its folder.
pub fn log_file(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))
}

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Polling takes at most a quarter of the time, because what is waited for needs the CPU too.
const PAUSE_FACTOR: u32 = 3;

/// Polls a condition. It returns `Ok(None)` when it is met, and `Ok(Some(why))` with what is
/// missing.
///
/// # Errors
/// It was not met within `limit`, which is scaled by how busy the machine is. A test that fails by
/// this error alone may be tried once more.
pub fn wait_for(
    what: &str,
    limit: Duration,
    condition: impl FnMut() -> Result<Option<String>>,
) -> Result<()> {
    wait_paced(what, limit, PAUSE_MAX, condition)
}

/// The same with pauses of at most `pause`: for a condition that has to be seen soon, or that must
/// be asked for all the time.
///
/// # Errors
/// As those of [`wait_for`].
pub fn wait_paced(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut condition: impl FnMut() -> Result<Option<String>>,
) -> Result<()> {
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        let waiting = match condition() {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() > limit && start.elapsed() > verdict::scaled(limit) {
            let seconds = start.elapsed().as_secs();
            let ran_out = format!("{what}: not after {seconds} s; last seen: {waiting}");
            verdict::ran_out(&ran_out);
            bail!(ran_out);
        }
        let share = (asked.elapsed() * PAUSE_FACTOR).max(PAUSE_MIN);
        std::thread::sleep(share.min(pause));
    }
}

/// Writes a file under a temporary name and renames it, so that a kill leaves the old or the new
/// file.
pub fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = path.with_extension("part");
    fs::write(&part, content).with_context(|| format!("write {}", part.display()))?;
    fs::rename(&part, path).with_context(|| format!("write {}", path.display()))
}
