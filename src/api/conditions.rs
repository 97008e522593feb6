//! The conditions of every kind, in kstatus' sense, and the closed vocabulary of their reasons.
//! Pure.
//!
//! A reason is at once the condition's reason, the event's reason and the metric's label.

use crate::words::{MESSAGE_CHARS_MAX, cut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A condition as in metav1.Condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: ConditionType,
    pub status: ConditionStatus,
    pub reason: String,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    pub last_transition_time: Time,
}

/// The types of conditions: <https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum ConditionType {
    /// It is as the spec says, and serves.
    Ready,
    /// The operator works towards the spec, or waits to.
    Reconciling,
    /// It will not go on by itself: somebody must change something.
    Stalled,
    /// It serves, and a part of it fails. Only Pipelines have it.
    Degraded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    True,
    False,
}

macro_rules! reasons {
    ($($name:ident => $text:literal,)*) => {
        /// Why an object is as it is. The catalogue in docs/reference/conditions.md is made from
        /// this list.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $(#[doc = $text] $name,)* }

        impl Reason {
            /// Every reason with its meaning.
            pub const ALL: &'static [(Reason, &'static str)] = &[$((Reason::$name, $text),)*];

            pub fn name(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }

            /// The reason of this name.
            pub fn named(name: &str) -> Option<Reason> {
                let mut all = Self::ALL.iter().map(|(reason, _)| *reason);
                all.find(|reason| reason.name() == name)
            }
        }
    };
}

reasons! {
    Ready => "The object is as its spec says.",
    Starting => "Pods are being created or start.",
    Recovering => "A node that was in sync is not at present.",
    WaitingForWindow => "Every node is well; what is to be done disturbs, and waits for a maintenance window.",
    WaitingForApproval => "Every node is well; replicas are to move, and somebody is to approve it.",
    Restarting => "Nodes are being restarted, as many at a time as harms nothing.",
    Applying => "Objects or broker state are being brought in line with the spec.",
    Reassigning => "Replicas are being moved: to another replication factor, off brokers that leave, or onto others.",
    Replacing => "A node is given a new volume: its own is lost, or somebody asked for it.",
    ChangingQuorum => "A controller joins the metadata quorum, or leaves it.",
    Autoscaling => "A pool gets more brokers because of its load, or gives some back.",
    Resizing => "Volumes grow or take another class, or cannot; the message says why.",
    WaitingForTopic => "A Topic that the Pipeline names does not exist, or is not Ready.",
    WaitingForUser => "The User whose credential the Pipeline has is not Ready, or lacks a right; the message says which.",
    WaitingForSecret => "A Secret that a block of the Pipeline names does not exist; the message names it.",
    BlockFailing => "A block of the Pipeline fails; the message names it, and the address of the record.",
    NoOutput => "For a minute records come to a block of the Pipeline and end there, although no filter drops them, and nothing else comes out of its stage; the message names the block.",
    AlertRaised => "An alert block of the Pipeline whose event is true raised an alert; the message names the block and the record.",
    TopicMadeAnew => "A topic that the Pipeline reads was deleted and made anew; the message says where it is read from.",
    WaitingForCluster => "The cluster that the object refers to is not Ready to be asked.",
    Deleting => "The object is being deleted.",
    Paused => "The spec asks that nothing be changed.",
    InvalidSpec => "The spec cannot be done as it is; the message names the field and the way out.",
    Unreadable => "This version of Freehold cannot read the object; the message names the field.",
    ClusterNotFound => "The cluster that the object refers to does not exist.",
    NamespaceNotAllowed => "The cluster does not allow objects of this namespace.",
    SecretLost => "A Secret with a key is gone, and this operator has never seen what was in it; the message names what there is to do.",
    NameTaken => "Another, older object manages the same thing in Kafka.",
    NameNotAllowed => "The cluster's naming policy does not allow the name in this namespace.",
    Adopted => "Something that existed in Kafka before was taken over.",
    Revoked => "The cluster no longer allows the object: what it had in Kafka was taken away.",
    RightNotAllowed => "The cluster does not allow a right that the User asks for; it has the other ones.",
    DriftCorrected => "Something was changed in Kafka or in an object of Freehold behind the operator's back, and was put right.",
    Rotated => "A credential was replaced by a new one.",
    WouldBeRefused => "A User in shadow mode did what it has no right to.",
    NotOurs => "Something of this name exists in Kafka or Kubernetes and was not made by Freehold.",
    TopicDeletionDisabled => "The cluster's delete.topic.enable is false: Kafka deletes no topic.",
    TopicHoldsRecords => "A topic with records in it is deleted only after a confirmation.",
    Refused => "Kafka or the API server refuses something that the spec asks for; the message names it. All else goes on.",
    KubernetesRefused => "The API server refused a request.",
    KubernetesUnavailable => "The API server did not answer.",
    KafkaRefused => "A broker refused a request.",
    KafkaUnavailable => "No broker answered.",
    InternalError => "A defect in Freehold; please report it.",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the conditions say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    /// The operator goes on by itself.
    Reconciling {
        reason: Reason,
        message: String,
    },
    /// Somebody must change something.
    Stalled {
        reason: Reason,
        message: String,
    },
}

impl State {
    pub fn reconciling(reason: Reason, message: impl Into<String>) -> Self {
        Self::Reconciling {
            reason,
            message: cut(message, MESSAGE_CHARS_MAX),
        }
    }

    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self::Stalled {
            reason,
            message: cut(message, MESSAGE_CHARS_MAX),
        }
    }

    /// The state that the conditions of this generation tell; `None`: they tell of another one, or
    /// of nothing.
    pub fn told(conditions: &[Condition], generation: Option<i64>) -> Option<Self> {
        let holding = conditions.iter().find(|condition| {
            condition.status == ConditionStatus::True && condition.kind != ConditionType::Degraded
        })?;
        if holding.observed_generation != generation {
            return None;
        }
        let message = holding.message.clone();
        let reason = Reason::named(&holding.reason)?;
        match holding.kind {
            ConditionType::Ready => Some(Self::Ready),
            ConditionType::Reconciling => Some(Self::Reconciling { reason, message }),
            ConditionType::Stalled => Some(Self::Stalled { reason, message }),
            _ => None,
        }
    }

    /// Reason and message, as the Ready condition carries them.
    pub fn words(&self) -> (Reason, &str) {
        match self {
            Self::Ready => (Reason::Ready, "as its spec says"),
            Self::Reconciling { reason, message } | Self::Stalled { reason, message } => {
                (*reason, message)
            }
        }
    }
}

/// The conditions for a state: Ready always, Reconciling or Stalled only where it holds, as kstatus
/// wants it. A transition time changes only where the status does.
pub fn conditions(
    state: &State,
    generation: Option<i64>,
    old: &[Condition],
    now: &Time,
) -> Vec<Condition> {
    let (reason, message) = state.words();
    let types = [
        (ConditionType::Ready, matches!(state, State::Ready)),
        (
            ConditionType::Reconciling,
            matches!(state, State::Reconciling { .. }),
        ),
        (
            ConditionType::Stalled,
            matches!(state, State::Stalled { .. }),
        ),
    ];
    types
        .into_iter()
        .filter(|(kind, holds)| *holds || *kind == ConditionType::Ready)
        .map(|(kind, holds)| {
            let status = if holds {
                ConditionStatus::True
            } else {
                ConditionStatus::False
            };
            let since = old
                .iter()
                .find(|condition| condition.kind == kind && condition.status == status);
            Condition {
                kind,
                status,
                reason: reason.name().to_owned(),
                message: message.to_owned(),
                observed_generation: generation,
                last_transition_time: since.map_or_else(
                    || now.clone(),
                    |condition| condition.last_transition_time.clone(),
                ),
            }
        })
        .collect()
}

/// True when the Ready condition is True.
pub fn is_ready(conditions: &[Condition]) -> bool {
    conditions.iter().any(|condition| {
        condition.kind == ConditionType::Ready && condition.status == ConditionStatus::True
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn a_state_is_told_by_its_conditions() {
        let now = Time(Timestamp::UNIX_EPOCH);
        for state in [
            State::Ready,
            State::reconciling(Reason::WaitingForTopic, "waiting for topic a"),
            State::stalled(Reason::InvalidSpec, "spec.a: b"),
        ] {
            let told = conditions(&state, Some(3), &[], &now);
            assert_eq!(State::told(&told, Some(3)), Some(state));
            assert_eq!(State::told(&told, Some(4)), None, "of the spec before");
        }
        assert_eq!(State::told(&[], Some(3)), None);
    }

    #[test]
    fn a_message_is_cut_whatever_it_repeats() {
        let state = State::stalled(Reason::InvalidSpec, "x".repeat(1_400_000));
        assert_eq!(state.words().1.chars().count(), MESSAGE_CHARS_MAX + 1);
    }

    #[test]
    fn a_transition_time_stays_while_the_status_stays() {
        let first = Time(Timestamp::UNIX_EPOCH);
        let later = Time("2026-01-01T00:00:00Z".parse().unwrap());
        let starting = conditions(
            &State::reconciling(Reason::Starting, "pods"),
            Some(1),
            &[],
            &first,
        );
        let still = conditions(
            &State::reconciling(Reason::Applying, "x"),
            Some(2),
            &starting,
            &later,
        );
        assert_eq!(still[0].last_transition_time, first);
        let ready = conditions(&State::Ready, Some(2), &still, &later);
        assert_eq!(ready[0].last_transition_time, later);
        assert_eq!(
            (still.len(), ready.len()),
            (2, 1),
            "what does not hold is not said"
        );
        assert!(is_ready(&ready) && !is_ready(&still));
    }
}
