//! The result of a reconcile of a Topic or a User, and its conversion to the driver's outcome.

use crate::api::conditions::State;
use crate::kinds::context::Context;
use crate::kinds::error::Error;
use crate::kubernetes;
use crate::runtime::kind::{Failure, Notice, Outcome, Requeue};
use crate::runtime::namespaces::Life;
use freehold_kafka_client::client::REQUEST_LIMIT;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;

/// The time until the next reconcile while something is in progress.
pub const REQUEUE_SOON: Duration = Duration::from_millis(500);
/// The time until the next reconcile for reasons that may end without an event: a Topic that holds
/// records may be emptied, for example.
pub const REQUEUE_LATER: Duration = Duration::from_secs(30);
/// A request to Kafka takes effect within this time or never, even if the operator that sent it has
/// died: the request itself says so (`timeout_ms`).
const LATE: Duration = REQUEST_LIMIT;
/// The message while an earlier request may still take effect.
pub const LATE_WORDS: &str =
    "waiting for what was asked of Kafka before, and may still be under way";
/// The number of plans in one reconcile: a creation, a change of it, and the proof that nothing is
/// left to do.
pub const ROUNDS_MAX: u32 = 4;

/// The result of a reconcile, before the status is computed.
pub struct Reconciled<L> {
    pub learned: L,
    pub state: State,
    pub notices: Vec<Notice>,
    pub requeue: Requeue,
}

impl<L: Default> Reconciled<L> {
    /// The result while something else must happen first, from which nothing new was learned.
    pub fn waiting(state: State, after: Duration) -> Self {
        Self {
            learned: L::default(),
            state,
            notices: Vec::new(),
            requeue: Requeue::After(after),
        }
    }
}

/// How long a request that was sent before the object's deletion may still take effect. An operator
/// that dies or gives up leaves requests in progress, and what they create would belong to no
/// object.
pub fn late(meta: &ObjectMeta, now: Timestamp) -> Option<Duration> {
    let passed = now.duration_since(meta.deletion_timestamp.as_ref()?.0);
    LATE.checked_sub(Duration::try_from(passed).unwrap_or_default())
        .filter(|left| !left.is_zero())
}

/// In a namespace that is being deleted, an object whose clean-up takes longer than this loses its
/// finalizer, so that the namespace is gone within a minute. What could not be cleaned up stays in
/// Kafka.
const ENDING_PATIENCE: Duration = Duration::from_secs(15);
const REQUEUE_AT_END: Duration = Duration::from_secs(1);

/// Completes the deletion of an object. `result`: the result of its own clean-up. If its namespace
/// is being deleted too, the finalizer is removed as soon as waiting cannot help any more.
///
/// # Errors
/// The error of its own clean-up, if the finalizer stays.
pub async fn end<K, L>(
    context: &Context,
    object: &K,
    result: Result<Option<Reconciled<L>>, Error>,
    now: Timestamp,
) -> Result<Option<Reconciled<L>>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    if matches!(result, Ok(None) | Err(Error::Old | Error::Unlisted))
        || context.namespaces.life(&context.client, namespace).await? != Life::Ending
    {
        return result;
    }
    if !lets_go(object.meta(), &result, now) {
        return result.map(|reconciled| {
            reconciled.map(|reconciled| Reconciled {
                requeue: Requeue::After(REQUEUE_AT_END),
                ..reconciled
            })
        });
    }
    let why = match &result {
        Ok(reconciled) => reconciled
            .as_ref()
            .map(|reconciled| reconciled.state.words().1.to_owned())
            .unwrap_or_default(),
        Err(error) => error.words(),
    };
    let (kind, name) = (
        K::kind(&()),
        object.meta().name.as_deref().unwrap_or_default(),
    );
    tracing::warn!(%kind, namespace, name, why, "its namespace ends: it is let go, and what it has in Kafka stays there");
    kubernetes::set_finalizer(&context.client, object, false).await?;
    Ok(None)
}

/// True if the finalizer must be removed now: after `ENDING_PATIENCE`, or at once if only a person
/// could help, because nobody will annotate an object in time in a namespace that is being deleted.
fn lets_go<L>(
    meta: &ObjectMeta,
    result: &Result<Option<Reconciled<L>>, Error>,
    now: Timestamp,
) -> bool {
    let since = meta
        .deletion_timestamp
        .as_ref()
        .map(|time| now.duration_since(time.0));
    let waited =
        since.is_some_and(|since| Duration::try_from(since).unwrap_or_default() >= ENDING_PATIENCE);
    waited
        || matches!(
            result,
            Ok(Some(Reconciled {
                state: State::Stalled { .. },
                ..
            }))
        )
}

/// Converts a result to the driver's outcome. `None`: the object is gone.
pub fn outcome<L: Default, S>(
    result: Result<Option<Reconciled<L>>, Error>,
    status: impl FnOnce(&L, &State) -> S,
) -> Outcome<S> {
    match result {
        Ok(None) => Outcome {
            status: None,
            state: State::Ready,
            notices: Vec::new(),
            requeue: Requeue::OnChange,
        },
        Ok(Some(Reconciled {
            learned,
            state,
            notices,
            requeue,
        })) => Outcome {
            status: Some(status(&learned, &state)),
            state,
            notices,
            requeue,
        },
        Err(Error::Old) => Outcome {
            status: None,
            state: Error::Old.state(),
            notices: Vec::new(),
            requeue: Requeue::Anew,
        },
        // What it said before is all that is known.
        Err(Error::Unlisted) => Outcome {
            status: None,
            state: Error::Unlisted.state(),
            notices: Vec::new(),
            requeue: Requeue::After(REQUEUE_SOON),
        },
        Err(error) => {
            let state = error.state();
            let requeue = if error.is_transient() {
                Requeue::Backoff
            } else {
                Requeue::After(REQUEUE_LATER)
            };
            Outcome {
                status: Some(status(&L::default(), &state)),
                state,
                notices: Vec::new(),
                requeue,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::Reason;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn waiting(state: State) -> Result<Option<Reconciled<()>>, Error> {
        Ok(Some(Reconciled {
            learned: (),
            state,
            notices: Vec::new(),
            requeue: Requeue::After(REQUEUE_LATER),
        }))
    }

    #[test]
    fn in_a_namespace_that_ends_nothing_waits_for_a_person_and_nothing_for_long() {
        let meta = ObjectMeta {
            deletion_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        };
        let after = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let records = || {
            waiting(State::stalled(
                Reason::TopicHoldsRecords,
                "it holds records",
            ))
        };
        let away = || {
            waiting(State::reconciling(
                Reason::WaitingForCluster,
                "no broker answers",
            ))
        };
        assert!(lets_go(&meta, &records(), after(0)));
        assert!(
            !lets_go(&meta, &away(), after(5)),
            "its rights are taken away where that is possible"
        );
        assert!(lets_go(&meta, &away(), after(20)));
        assert!(!lets_go::<()>(&meta, &Err(Error::Old), after(5)));
    }
}
