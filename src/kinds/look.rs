//! What a look at a Topic or a User came to, and the outcome that it makes: the same for both.

use crate::conditions::State;
use crate::kafka_admin::client::REQUEST_LIMIT;
use crate::kinds::error::Error;
use crate::runtime::kind::{Failure, Notice, Outcome, Requeue};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// A change is in the metadata log within milliseconds of its answer; when it is not by then, it is looked at again.
pub const SEEN_LIMIT: Duration = Duration::from_secs(3);
pub const LOOK_SOON: Duration = Duration::from_millis(500);
/// A refusal may end by something that nothing tells of: a Topic that holds records may be emptied.
pub const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What was asked of Kafka comes to pass by then, whoever asked and whether he lived to see it: requests say so (`timeout_ms`).
const LATE: Duration = REQUEST_LIMIT;
pub const LATE_WORDS: &str = "waiting for what was asked of Kafka before, and may still be under way";
/// Plans in one reconcile: a creation, a change of it, and the proof that nothing is left.
pub const ROUNDS_MAX: u32 = 4;

/// What was learned, the state, what to tell, and when to look again.
pub struct Look<L> {
    pub learned: L,
    pub state: State,
    pub notices: Vec<Notice>,
    pub requeue: Requeue,
}

/// How long something may still come to pass that was asked for before an object's end: an operator that dies, or gives up,
/// leaves requests under way, and what they make would be nobody's.
pub fn late(meta: &ObjectMeta, now: Timestamp) -> Option<Duration> {
    let passed = now.duration_since(meta.deletion_timestamp.as_ref()?.0);
    LATE.checked_sub(Duration::try_from(passed).unwrap_or_default()).filter(|left| !left.is_zero())
}

/// The outcome of a look. `None`: the object is gone.
pub fn outcome<L: Default, S>(result: Result<Option<Look<L>>, Error>, status: impl FnOnce(&L, &State) -> S) -> Outcome<S> {
    match result {
        Ok(None) => Outcome { status: None, state: State::Ready, notices: Vec::new(), requeue: Requeue::Woken },
        Ok(Some(Look { learned, state, notices, requeue })) => Outcome { status: Some(status(&learned, &state)), state, notices, requeue },
        Err(Error::Old) => Outcome { status: None, state: Error::Old.state(), notices: Vec::new(), requeue: Requeue::Anew },
        Err(error) => {
            let state = error.state();
            let requeue = if error.is_transient() { Requeue::Backoff } else { Requeue::After(LOOK_AGAIN) };
            Outcome { status: Some(status(&L::default(), &state)), state, notices: Vec::new(), requeue }
        }
    }
}
