//! Steps that failed or were reverted: decides when each is tried again, and what the status says
//! about it; and configs that were set. Pure.

use crate::api::conditions::Reason;
use crate::api::kafka_cluster::RefusedStatus;
use crate::kinds::error::Error;
use crate::kubernetes::{KubeError, Object};
use crate::runtime::kind::Failure;
use crate::words::{MESSAGE_CHARS_MAX, cut};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Resource;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

/// The pause after the first refusal of a step. Each further refusal doubles it, up to `PAUSE_MAX`.
const PAUSE_MIN: SignedDuration = SignedDuration::from_secs(5);

const PAUSE_MAX: SignedDuration = SignedDuration::from_mins(5);

/// After this many repairs of one object, each within `REPAIRS_WITHIN` of the previous one, the
/// next repair waits: somebody else keeps changing the object back.
const REPAIRS_MAX: u32 = 3;

const REPAIRS_WITHIN: SignedDuration = SignedDuration::from_mins(10);

/// A step, or a part of one, that Kubernetes or Kafka refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The field of the spec, or the object, that the step was about.
    pub what: String,
    pub why: String,
    pub reason: Reason,
    /// True for an error that may go away without a change of the spec.
    pub is_transient: bool,
}

impl Refusal {
    /// The refusal for an error.
    pub fn of(what: String, error: &Error) -> Self {
        Self {
            what,
            why: error.words(),
            reason: error.reason(),
            is_transient: error.is_transient(),
        }
    }

    /// The refusal as one line of text for people.
    pub fn words(&self) -> String {
        format!("{}: {}", self.what, self.why)
    }

    /// The refusal as the status shows it, cut to the length that a message may have.
    pub fn status(&self) -> RefusedStatus {
        RefusedStatus {
            what: cut(self.what.clone(), MESSAGE_CHARS_MAX),
            why: cut(self.why.clone(), MESSAGE_CHARS_MAX),
        }
    }
}

/// The last failed attempt at one thing.
#[derive(Clone, Debug, PartialEq)]
struct Attempt {
    wanted: String,
    failures: u32,
    at: Timestamp,
    refusal: Refusal,
}

/// The failed attempts and the repairs for one KafkaCluster or Pipeline, by field or object. They are only in memory:
/// an operator that starts tries everything once more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attempts {
    failed: BTreeMap<String, Attempt>,
    /// The number of repairs of an object, and the time of the last one.
    repaired: BTreeMap<String, (u32, Timestamp)>,
    /// The dynamic configs that were set, by their keys in the status. A status that conflicts with
    /// a new spec is not written, and Kafka's answer can be from before.
    set: BTreeSet<String>,
}

impl Attempts {
    /// The refusal because of which `wanted` is not tried again yet. `None`: it may be tried,
    /// because the pause is over or because the last attempt was for another value.
    pub fn refusal(&self, what: &str, wanted: &str, now: Timestamp) -> Option<Refusal> {
        if let Some(attempt) = self
            .failed
            .get(what)
            .filter(|attempt| attempt.wanted == wanted)
        {
            // A transient error is retried after the shortest pause: an API server that was away
            // for a long time may be back at any moment.
            let failures = if attempt.refusal.is_transient {
                1
            } else {
                attempt.failures
            };
            return (now < attempt.at + pause(failures)).then(|| attempt.refusal.clone());
        }
        let (times, at) = self
            .repaired
            .get(what)
            .filter(|(times, _)| *times >= REPAIRS_MAX)?;
        let why = format!(
            "it was put right {times} times, and each time somebody changed it again; see who in metadata.managedFields"
        );
        let refusal = Refusal {
            what: what.to_owned(),
            why,
            reason: Reason::Refused,
            is_transient: false,
        };
        (now < *at + pause(times + 1 - REPAIRS_MAX)).then_some(refusal)
    }

    /// Records that a dynamic config is being set, or was removed.
    pub fn altered(&mut self, key: String, is_set: bool) {
        match is_set {
            true => self.set.insert(key),
            false => self.set.remove(&key),
        };
    }

    /// The dynamic configs that were set and not removed since.
    pub fn set(&self) -> &BTreeSet<String> {
        &self.set
    }

    /// Records one more repair of an object.
    pub fn repaired(&mut self, what: String, now: Timestamp) {
        let (times, at) = self.repaired.get(&what).copied().unwrap_or((0, now));
        let times = if now < at + REPAIRS_WITHIN { times } else { 0 };
        self.repaired.insert(what, (times.saturating_add(1), now));
    }

    /// Records one more refusal.
    pub fn failed(&mut self, wanted: String, refusal: Refusal, now: Timestamp) {
        let before = self
            .failed
            .get(&refusal.what)
            .filter(|attempt| attempt.wanted == wanted)
            .map_or(0, |attempt| attempt.failures);
        self.failed.insert(
            refusal.what.clone(),
            Attempt {
                wanted,
                failures: before.saturating_add(1),
                at: now,
                refusal,
            },
        );
    }

    /// Removes the attempts that are no longer refused, and the repairs older than
    /// `REPAIRS_WITHIN`.
    pub fn keep(&mut self, refused: &[Refusal], now: Timestamp) {
        self.failed
            .retain(|what, _| refused.iter().any(|refusal| refusal.what == *what));
        self.repaired
            .retain(|_, (_, at)| now < *at + REPAIRS_WITHIN);
    }
}

fn pause(times: u32) -> SignedDuration {
    PAUSE_MIN
        .saturating_mul(2_i32.saturating_pow(times.saturating_sub(1).min(8)))
        .min(PAUSE_MAX)
}

/// The refusal for an object that still differs after it was applied.
pub fn without_effect(what: String) -> Refusal {
    let why = "it was applied and is another all the same: an admission webhook or a policy of this Kubernetes cluster sets it; change that, or \
               exempt objects with the label app.kubernetes.io/managed-by=freehold";
    Refusal {
        what,
        why: why.to_owned(),
        reason: Reason::Refused,
        is_transient: false,
    }
}

/// The attempts of each object of a kind, by its uid.
#[derive(Default)]
pub struct Tried(Mutex<HashMap<String, Attempts>>);

impl Tried {
    /// The attempts of an object; empty if there are none.
    pub fn of<K: Resource>(&self, object: &K) -> Attempts {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = object.meta().uid.as_ref();
        uid.and_then(|uid| all.get(uid))
            .cloned()
            .unwrap_or_default()
    }

    /// Replaces the attempts of an object.
    pub fn put<K: Resource>(&self, object: &K, attempts: Attempts) {
        let uid = object.meta().uid.clone().unwrap_or_default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts == Attempts::default() {
            drop(all.remove(&uid))
        } else {
            drop(all.insert(uid, attempts))
        }
    }
}

/// True if a step that failed is retried only after a pause. A conflict is not: the next reconcile
/// resolves it.
pub fn waits(error: &Error) -> bool {
    match error {
        Error::Kube(KubeError::Request { source, .. }) => {
            matches!(source.as_ref(), kube::Error::Api(answer) if ![404, 409].contains(&answer.code))
        }
        Error::Kube(KubeError::NotOurs { .. } | KubeError::Unreadable { .. })
        | Error::Certificate(_) => true,
        Error::Admin(_) | Error::Invalid(_) | Error::Old | Error::Unlisted => false,
    }
}

/// True if the API server did not answer: it would not answer the next request either.
pub fn is_silent(error: &Error) -> bool {
    matches!(error, Error::Kube(KubeError::Request { source, .. }) if !matches!(source.as_ref(), kube::Error::Api(_)))
}

/// The maximum number of fields that are listed for one object.
const FIELDS_MAX: usize = 5;

/// Names an object and the fields that differ.
pub fn what_differs<'a>(object: &Object, fields: impl IntoIterator<Item = &'a String>) -> String {
    let mut fields: Vec<&str> = fields.into_iter().map(String::as_str).collect();
    let more = if fields.len() > FIELDS_MAX {
        ", …"
    } else {
        ""
    };
    fields.truncate(FIELDS_MAX);
    format!(
        "{} {}, {}{more}",
        object.kind(),
        object.name(),
        fields.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(what: &str) -> Refusal {
        Refusal {
            what: what.into(),
            why: "no".into(),
            reason: Reason::KafkaRefused,
            is_transient: false,
        }
    }

    #[test]
    fn what_is_refused_is_tried_again_later_and_later_and_at_once_when_something_else_is_wanted() {
        let start: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let mut attempts = Attempts::default();
        assert_eq!(attempts.refusal("a", "1", start), None);
        let (mut now, mut tried) = (start, 0);
        while now < start + SignedDuration::from_hours(1) {
            if attempts.refusal("a", "1", now).is_none() {
                attempts.failed("1".into(), refusal("a"), now);
                tried += 1;
            }
            now += SignedDuration::from_secs(1);
        }
        assert!((10..=20).contains(&tried), "{tried} times in an hour");
        assert_eq!(
            attempts.refusal("a", "1", now - SignedDuration::from_secs(1)),
            Some(refusal("a"))
        );
        assert_eq!(attempts.refusal("a", "2", now), None, "another value");
        attempts.failed("2".into(), refusal("a"), now);
        assert!(
            attempts
                .refusal("a", "2", now + SignedDuration::from_secs(6))
                .is_none(),
            "and begins anew"
        );
        attempts.keep(&[refusal("b")], now);
        assert_eq!(attempts, Attempts::default());
    }

    #[test]
    fn what_somebody_changes_again_and_again_is_put_right_at_once_a_few_times_and_then_ever_more_seldom()
     {
        let start: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let (mut attempts, mut now, mut times) = (Attempts::default(), start, Vec::new());
        while now < start + SignedDuration::from_mins(30) {
            if attempts.refusal("a", "1", now).is_none() {
                attempts.repaired("a".into(), now);
                times.push(now.duration_since(start).as_secs());
            }
            now += SignedDuration::from_secs(1);
        }
        assert_eq!(times[..5], [0, 1, 2, 7, 17]);
        assert!(times.len() < 20, "{times:?}");
        attempts.keep(&[], now + REPAIRS_WITHIN);
        assert_eq!(attempts, Attempts::default());
    }
}
