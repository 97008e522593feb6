//! What `cargo xtask test` has to know of a test beyond good or failed: whether a wait ran out,
//! which a slow machine explains, or a promise was broken, which nothing does.
//!
//! A test leaves a file for each in the folder `$FREEHOLD_VERDICTS/<test>/`. Without that variable
//! (in `cargo xtask up`, or a test that somebody runs by hand) nothing is written.

use crate::kubectl::Kubectl;
use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

/// The environment variable with the folder of all tests' verdicts.
pub const FOLDER: &str = "FREEHOLD_VERDICTS";
/// A line for each wait that ran out.
pub const RAN_OUT: &str = "ran-out";
/// A line for each promise that was broken.
pub const BROKEN: &str = "broken-promise";

/// The folder of the test that this process runs.
pub fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os(FOLDER)?;
    // nextest runs each test in a process of its own and says which.
    let test = std::env::var("NEXTEST_TEST_NAME").ok()?;
    Some(PathBuf::from(folder).join(test.replace("::", ".")))
}

fn note(file: &str, what: &dyn Display) {
    let Some(folder) = folder() else { return };
    // One line for each: what is told may have several.
    let line = what.to_string().replace('\n', " ");
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).append(true).open(folder.join(file))
        })
        .and_then(|mut file| writeln!(file, "{line}"));
    if let Err(error) = written {
        // The test fails in any case; only its second try depends on the file.
        eprintln!("{}: {error}", folder.join(file).display());
    }
}

/// Notes that a wait ran out: the test may be tried once more.
pub fn ran_out(what: &dyn Display) {
    note(RAN_OUT, what);
}

/// Notes that a promise was broken: the run is red, whatever a second try says.
pub fn broken(what: &dyn Display) {
    note(BROKEN, what);
}

/// Asserts a promise of safety: no record lost, twice or out of order; no partition under its
/// `min.insync.replicas`; no quorum at risk; no secret shown; no access that should not be.
#[macro_export]
macro_rules! promise {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            let broken = format!($($words)+);
            $crate::verdict::broken(&broken);
            panic!("a promise is broken: {broken}");
        }
    };
}

/// What kubectl is asked for when a test fails, by the file that gets the answer. None of it has a
/// secret: a test of its own looks for them in exactly these places.
const ASKED: [(&str, &str); 4] = [
    (
        "events.txt",
        "get events --all-namespaces --sort-by=.lastTimestamp",
    ),
    ("pods.txt", "get pods --all-namespaces --output=wide"),
    (
        "objects.yaml",
        "get kafkaclusters,topics,users,pipelines --all-namespaces --output=yaml",
    ),
    (
        "operator.log",
        "logs --namespace=freehold-system --selector=app.kubernetes.io/name=freehold --prefix --tail=20000 --since=1h",
    ),
];

/// From now on, a panic leaves what the cluster says in the test's folder, before anything that the
/// test made is deleted.
pub fn collect_on_failure(kubectl: &Kubectl) {
    static ONCE: Once = Once::new();
    let Some(folder) = folder() else { return };
    let kubectl = kubectl.clone();
    ONCE.call_once(|| {
        let (before, collected) = (std::panic::take_hook(), Once::new());
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            collected.call_once(|| collect(&kubectl, &folder));
        }));
    });
}

fn collect(kubectl: &Kubectl, folder: &Path) {
    for (file, words) in ASKED {
        let words: Vec<&str> = words.split(' ').chain(["--request-timeout=30s"]).collect();
        let text = kubectl
            .run(&words)
            .unwrap_or_else(|error| format!("{error:#}"));
        // An error means a full disk: the test's output says why it failed all the same.
        let _ =
            std::fs::create_dir_all(folder).and_then(|()| std::fs::write(folder.join(file), text));
    }
}

/// How much longer a wait may take because of what else the machine does: the length of its queue
/// of runnable processes for each processor, between 1 and 4.
pub fn busy() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let runnable: f64 = load
        .split(' ')
        .next()
        .and_then(|words| words.parse().ok())
        .unwrap_or(1.0);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    #[allow(clippy::cast_precision_loss, reason = "a machine has few processors")]
    let factor = runnable / processors as f64;
    factor.clamp(1.0, 4.0)
}

/// A limit on a machine that is as busy as this one.
pub fn scaled(limit: Duration) -> Duration {
    limit.mul_f64(busy())
}
