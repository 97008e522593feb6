//! Running other programs: one place that captures their output, names them in errors and waits for conditions.

use anyhow::{Context, Result, bail};
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A command from words; `$ program arg arg`.
pub fn command<I, S>(program: &str, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    if program == "cargo" {
        // What the cargo above says of its package: build scripts look at it, and would build everything anew each time it is another.
        let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
            command.env_remove(name);
        }
    }
    command
}

/// A command from one line, split at white space: for fixed words only.
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
    command.output().with_context(|| format!("could not start `{}`", describe(command)))
}

/// Runs to the end; an error carries the program's own last words.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(|_| ())
}

/// Runs to the end and gives standard output, trimmed.
pub fn output(command: &mut Command) -> Result<String> {
    let output = finished(command)?;
    if !output.status.success() {
        let mut words = String::from_utf8_lossy(&output.stderr).into_owned();
        words.push_str(&String::from_utf8_lossy(&output.stdout));
        let tail = words.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        bail!("`{}` failed ({}):\n{tail}", describe(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// True when it ran and succeeded.
pub fn succeeds(command: &mut Command) -> bool {
    finished(command).is_ok_and(|output| output.status.success())
}

/// Runs with the terminal's own output.
pub fn show(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start `{}`", describe(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", describe(command));
    }
    Ok(())
}

/// Runs to the end with all output in a file.
pub fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = log_file(log)?;
    let status =
        command.stdout(file.try_clone()?).stderr(file).status().with_context(|| format!("could not start `{}`", describe(command)))?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        let tail = text.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
        bail!("`{}` failed ({status}), see {}:\n{tail}", describe(command), log.display());
    }
    Ok(())
}

/// Opens a log for appending, making its folder.
pub fn log_file(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))
}

const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A question takes a quarter of the time at most: what is waited for needs the processors too.
const PAUSE_FACTOR: u32 = 3;

/// Polls a condition. `Ok(None)` means ready, `Ok(Some(why))` what it still waits for.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<Option<String>>) -> Result<()> {
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        let waiting = match condition() {
            Ok(None) => return Ok(()),
            Ok(Some(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() > limit {
            bail!("{what}: not after {} s; last seen: {waiting}", limit.as_secs());
        }
        std::thread::sleep((asked.elapsed() * PAUSE_FACTOR).clamp(PAUSE_MIN, PAUSE_MAX));
    }
}

/// Writes a file through a temporary name, so that a kill leaves the old or the new one.
pub fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let part = path.with_extension("part");
    fs::write(&part, content).with_context(|| format!("write {}", part.display()))?;
    fs::rename(&part, path).with_context(|| format!("write {}", path.display()))
}
