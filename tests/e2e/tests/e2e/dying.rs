//! An operator that dies after each of its writes to the API server and to Kafka.
//!
//! It is a process on this machine, for a namespace of its own. It has no memory from one start to
//! the next, so dying after every write on one way covers each state that a single death after the
//! n-th write could leave.

use crate::world::{LONG, Operator, asked};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::verdict;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// Ten times the observed number.
const DEATHS_MAX: u32 = 400;
/// An operator reconciles what is Ready every ten seconds. If it has not written by then, it has
/// nothing to write.
pub const REST: Duration = Duration::from_secs(15);
/// No wait: the next step follows at once, and its own wait covers this one.
pub const NO_REST: Duration = Duration::from_secs(1);
/// Pause between two polls of the state; the end of the process is noticed at once.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The operator that dies.
pub struct Dying<'a> {
    pub kubectl: &'a Kubectl,
    pub namespace: &'a str,
    /// The image of Kafka.
    pub image: &'a str,
    /// Its further environment.
    pub environment: &'a [(&'a str, &'a str)],
}

impl Dying<'_> {
    /// Starts the operator again and again, until `done` is true and it has nothing to write for
    /// `rest`; returns the number of deaths. Every third start first sees the state from before the
    /// previous start.
    pub fn until(&self, rest: Duration, done: impl Fn() -> bool) -> u32 {
        let (mut deaths, mut before) = (0, self.version());
        loop {
            let now = self.version();
            let mut environment = self.environment.to_vec();
            environment.push(("FREEHOLD_FAULT_EXIT_AFTER_WRITES", "1"));
            if deaths % 3 == 2 {
                environment.push(("FREEHOLD_FAULT_LISTS_AT", &before));
            }
            let (namespace, image) = (self.namespace, self.image);
            let log = Operator::log(namespace, namespace);
            let begin = std::fs::metadata(&log).map_or(0, |log| log.len());
            let mut life = Operator::start(namespace, namespace, image, &environment);
            before = now;
            let leads = || leads(&log, begin);
            match death_or_rest(&mut life.0, rest, leads, &done) {
                Some(code) => {
                    assert_eq!(
                        code, 137,
                        "the operator ended otherwise than by the fault: see its log"
                    );
                    deaths += 1;
                    assert!(
                        deaths <= DEATHS_MAX,
                        "the operator goes on writing for ever"
                    );
                }
                None => return deaths,
            }
        }
    }

    /// The current resourceVersion of all objects.
    fn version(&self) -> String {
        let path = format!("/api/v1/namespaces/{}/configmaps?limit=1", self.namespace);
        let list = asked("a list", || self.kubectl.run(&["get", "--raw", &path]));
        let list: Value = serde_json::from_str(&list).unwrap();
        list["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// The objects are those of an operator that lived.
pub fn assert_same(disturbed: &BTreeMap<String, Value>, undisturbed: &BTreeMap<String, Value>) {
    assert_eq!(
        disturbed.keys().collect::<Vec<_>>(),
        undisturbed.keys().collect::<Vec<_>>()
    );
    for (name, object) in undisturbed {
        assert_eq!(&disturbed[name], object, "{name}");
    }
}

/// Whether the operator whose log has its first line at this place has said that it leads.
fn leads(log: &Path, begin: u64) -> bool {
    let text = std::fs::read(log).unwrap_or_default();
    let begin = usize::try_from(begin).unwrap();
    let own = text.get(begin..).unwrap_or_default();
    String::from_utf8_lossy(own).contains("leading")
}

/// The exit code of an operator that has died; `None` once it leads, all is done, and it has nothing
/// more to write. Before it leads it writes nothing, and what is done may be the work of the life
/// before.
fn death_or_rest(
    life: &mut Child,
    rest: Duration,
    leads: impl Fn() -> bool,
    done: impl Fn() -> bool,
) -> Option<i32> {
    let (mut does_lead, mut done_since) = (false, None::<Instant>);
    let start = Instant::now();
    let mut look_at = start + LOOK_PAUSE;
    loop {
        if let Some(status) = life.try_wait().unwrap() {
            // A signal is no death by the fault.
            return Some(status.code().unwrap_or(-1));
        }
        if Instant::now() > look_at {
            does_lead = does_lead || leads();
            done_since = match does_lead && done() {
                true => done_since.or_else(|| Some(Instant::now())),
                false => None,
            };
            let is_over = |since: Instant| since.elapsed() > verdict::scaled(rest);
            if done_since.is_some_and(is_over) {
                return None;
            }
            look_at = Instant::now() + LOOK_PAUSE;
        }
        if start.elapsed() > LONG && start.elapsed() > verdict::scaled(LONG) {
            let ran_out = "neither done nor dead: see the operator's log";
            verdict::ran_out(&ran_out);
            panic!("{ran_out}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
