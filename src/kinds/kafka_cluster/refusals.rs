//! Decides what follows from a failed step: which other steps it stops, and when it is tried again.
//! Pure.
//!
//! A failed step stops only the steps that depend on it. A config that Kafka refuses, or a
//! PodDisruptionBudget that a policy of the Kubernetes cluster denies, must not stop readiness
//! gates, certificates or restarts.

use crate::kinds::attempts::{Refusal, is_silent};
use crate::kinds::error::Error;
use crate::kinds::kafka_cluster::model::volume_names::claimed_volume;
use crate::kinds::kafka_cluster::observed::Observed;
use crate::kinds::kafka_cluster::step::asks_kafka;
use crate::kinds::kafka_cluster::step::is_of_one_set;
use crate::kinds::kafka_cluster::step::makes_pods;
use crate::kinds::kafka_cluster::step::makes_pods_of;
use crate::kinds::kafka_cluster::step::{RestartReason, Step};
use std::collections::BTreeSet;

/// True if the reconcile must end after this error: everything else depends on the step, or the API
/// server does not answer.
pub fn ends_the_reconcile(step: &Step, error: &Error) -> bool {
    let first = matches!(
        step,
        Step::AddFinalizer
            | Step::CreateIdentity { .. }
            | Step::UpdateIdentity(_)
            | Step::CreateAuthority { .. }
    );
    first || is_silent(error)
}

/// What the failed steps so far stop.
#[derive(Debug, Default)]
pub struct Stops {
    /// StatefulSets whose pods, if they ended now, would come back unchanged.
    sets: BTreeSet<String>,
    /// Something that all pods are made from could not be applied.
    pods: bool,
    /// Claims that could not be deleted: a pod that ended now would come back with its old volume.
    claims: Vec<String>,
    /// The throttle could not be set: replicas would move without a limit.
    replicas: bool,
    /// No broker answers.
    kafka: bool,
}

impl Stops {
    /// True if an earlier failure stops this step.
    pub fn stops(&self, step: &Step) -> bool {
        let moves = matches!(step, Step::Reassign(_) | Step::MoveFolders { .. });
        let ends = match step {
            Step::RestartPod { pod, reasons, .. } => {
                // A node that is replaced does not wait for refused steps of others.
                let replaced = reasons.as_slice() == [RestartReason::Replaced];
                let keeps = self
                    .claims
                    .iter()
                    .any(|claim| claimed_volume(claim, &pod.name).is_some());
                self.sets.contains(&pod.stateful_set) || keeps || (self.pods && !replaced)
            }
            Step::DeleteVolume { claim, .. } => {
                let of = claim
                    .name()
                    .rsplit_once('-')
                    .map_or(claim.name(), |(of, _)| of);
                self.sets.iter().any(|set| of.ends_with(&format!("-{set}")))
            }
            _ => false,
        };
        ends || (self.replicas && moves) || (self.kafka && asks_kafka(step))
    }

    /// Records a step that failed or that is not tried now.
    pub fn after(&mut self, step: &Step, kafka_is_silent: bool) {
        // Otherwise a node that shall get a new volume would start with its old one.
        if let Step::DeleteVolume { claim, .. } = step {
            self.claims.push(claim.name().to_owned());
        }
        self.sets.extend(makes_pods_of(step).map(str::to_owned));
        self.pods |= makes_pods(step) && !is_of_one_set(step);
        self.kafka |= kafka_is_silent;
    }

    /// Records that the throttle of replica moves could not be set.
    pub fn after_throttle(&mut self) {
        self.replicas = true;
    }
}

/// Removes from a plan the steps that were refused a short time ago, and those that depend on them.
pub fn hold(observed: &Observed, steps: &mut Vec<Step>, refused: &mut Vec<Refusal>) {
    let mut stops = Stops::default();
    steps.retain(|step| {
        let held = observed
            .attempts
            .refusal(&step.what(), &step.wanted(), observed.now);
        let tried = held.is_none();
        if let Some(refusal) = held {
            refused.push(refusal);
            stops.after(step, false);
        }
        tried && !stops.stops(step)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::kafka_cluster::step::{RestartReason, makes_pods_of};
    use crate::kubernetes;
    use crate::kubernetes::names;
    use serde_json::json;

    /// A node that is replaced waits for what its own pods are made from, but not for refused steps
    /// of other groups.
    #[test]
    fn a_replaced_pod_waits_for_its_own_group_alone() {
        let live = |kind: &str, name: &str| kubernetes::Live {
            resource: kubernetes::resource::<k8s_openapi::api::core::v1::Pod>(),
            value: json!({"kind": kind, "metadata": {"name": name, "uid": "u"}}),
        };
        let pod = Box::new(
            crate::kinds::kafka_cluster::observed::pod_facts(&live("Pod", "c-b-z-7")).unwrap(),
        );
        let permit = freehold_kafka::safety::can_repair(7, None).unwrap();
        let restart = |reason| Step::RestartPod {
            pod: pod.clone(),
            reasons: vec![reason],
            permit: permit.clone(),
        };
        let refused = |name: &str| {
            let map: k8s_openapi::api::core::v1::ConfigMap =
                serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            let mut stops = Stops::default();
            stops.after(&Step::Apply(Box::new(kubernetes::Object::of(&map))), false);
            stops
        };
        assert!(
            refused("c-b-z").stops(&restart(RestartReason::Replaced)),
            "it would come back with its old configuration"
        );
        assert!(!refused("c-other-z").stops(&restart(RestartReason::Replaced)));
        assert!(
            refused("c-other-z").stops(&restart(RestartReason::Config)),
            "a roll waits"
        );
        assert_eq!(
            makes_pods_of(&Step::Release(live("StatefulSet", "c-b-z").into())),
            Some("c-b-z")
        );
        assert_eq!(
            names::stateful_set_of_certificates(&names::node_certificates("c-b-z")),
            Some("c-b-z")
        );
    }
}
