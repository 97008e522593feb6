//! What must be done so that the objects of a Pipeline are as they should be, and what comes of it.
//! Pure.

use crate::api::conditions::{Reason, State};
use crate::kinds::attempts::{Refusal, what_differs};
use crate::kubernetes::difference::{self, Foreign};
use crate::kubernetes::{Live, Object};
use crate::words::{PART_CHARS_MAX, cut, listed};
use std::collections::BTreeSet;

/// A change of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Apply(Object),
    /// Fields that somebody else changed: they are applied again.
    PutRight(Object, Vec<String>),
    /// Fields that somebody else added, which an apply would leave.
    RemoveFields(Object, Live, Vec<Foreign>),
    /// It is left of a stage that is no more.
    Delete(Live),
}

impl Step {
    /// The object that it is about; of a repair also the fields.
    pub fn what(&self) -> String {
        match self {
            Self::Apply(object) => format!("{} {}", object.kind(), object.name()),
            Self::PutRight(object, fields) => what_differs(object, fields),
            Self::RemoveFields(object, _, fields) => {
                what_differs(object, fields.iter().map(|field| &field.path))
            }
            Self::Delete(live) => format!("{} {}", live.resource.kind, live.name()),
        }
    }

    /// The value that it would set, as text; a different text is a new attempt.
    pub fn wanted(&self) -> String {
        match self {
            Self::Apply(object) | Self::PutRight(object, _) | Self::RemoveFields(object, ..) => {
                object.hash().to_owned()
            }
            Self::Delete(live) => live.uid().to_owned(),
        }
    }

    /// Whether it makes or changes a NetworkPolicy.
    pub fn is_network_policy(&self) -> bool {
        match self {
            Self::Apply(object) | Self::PutRight(object, _) | Self::RemoveFields(object, ..) => {
                object.kind() == "NetworkPolicy"
            }
            Self::Delete(_) => false,
        }
    }

    /// Whether it undoes what somebody else did.
    pub fn is_repair(&self) -> bool {
        matches!(self, Self::PutRight(..) | Self::RemoveFields(..))
    }
}

/// The steps to the wanted objects. Of what was found, only objects that the Pipeline with this uid
/// owns are deleted.
pub fn plan(wanted: &[Object], found: &[Live], uid: &str) -> Vec<Step> {
    let is_same = |wanted: &Object, live: &Live| {
        wanted.kind() == live.resource.kind && wanted.name() == live.name()
    };
    let mut all = Vec::new();
    for one in wanted {
        let live = found.iter().find(|live| is_same(one, live));
        all.extend(steps(one, live));
    }
    let surplus = found.iter().filter(|live| {
        let wanted = wanted.iter().any(|one| is_same(one, live));
        live.is_owned_by(uid) && !live.is_deleting() && !wanted
    });
    all.extend(surplus.cloned().map(Step::Delete));
    all
}

/// The steps for one object; none: it is what was applied last, and nobody has changed it since.
pub fn steps(wanted: &Object, live: Option<&Live>) -> Vec<Step> {
    let Some(live) = live.filter(|live| difference::is_applied(wanted, live)) else {
        return vec![Step::Apply(wanted.clone())];
    };
    let mut steps = Vec::new();
    let foreign = difference::foreign(wanted, live);
    if !foreign.is_empty() {
        steps.push(Step::RemoveFields(wanted.clone(), live.clone(), foreign));
    }
    let changed = difference::changed(wanted, live);
    if !changed.is_empty() {
        steps.push(Step::PutRight(wanted.clone(), changed));
    }
    steps
}

/// What the steps that were refused so far stop: nothing but what depends on them.
#[derive(Debug, Default)]
pub struct Stops {
    /// Names of the ConfigMaps that were not applied: a StatefulSet has the name of its own one.
    config_maps: BTreeSet<String>,
    /// Names of the NetworkPolicies that are not as they should be: a StatefulSet has the name of its
    /// own one.
    policies: BTreeSet<String>,
    /// The ServiceAccount of all pods was not applied.
    account: bool,
    /// A StatefulSet was not applied.
    pods: bool,
}

impl Stops {
    /// Whether an earlier refusal stops this step. What is left of another graph runs until all of
    /// the new one can. A StatefulSet without pods needs nothing: a Pipeline can always be Paused.
    pub fn stops(&self, step: &Step) -> bool {
        match step {
            Step::Apply(object) | Step::PutRight(object, _) | Step::RemoveFields(object, ..) => {
                let lacks = self.account
                    || self.config_maps.contains(object.name())
                    || self.policies.contains(object.name());
                object.kind() == "StatefulSet" && !object.has_no_replicas() && lacks
            }
            Step::Delete(_) => self.pods,
        }
    }

    /// A step was refused, or is not done now. A repair keeps nothing: pods are made from the
    /// object as it is. But a NetworkPolicy that is not as it should be may let in what it must not.
    pub fn after(&mut self, step: &Step) {
        let object = match step {
            Step::Apply(object) => object,
            Step::PutRight(object, _) | Step::RemoveFields(object, ..)
                if step.is_network_policy() =>
            {
                object
            }
            _ => return,
        };
        match object.kind() {
            "ConfigMap" => drop(self.config_maps.insert(object.name().to_owned())),
            "NetworkPolicy" => drop(self.policies.insert(object.name().to_owned())),
            "ServiceAccount" => self.account = true,
            "StatefulSet" => self.pods = true,
            _ => {}
        }
    }
}

/// What came of bringing the objects of a Pipeline in line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// What somebody else had changed, and is put right.
    pub drift: Vec<String>,
    /// What was refused, now or a short time ago.
    pub refused: Vec<Refusal>,
}

impl Applied {
    /// What is refused until somebody mends it, for the status.
    pub fn warnings(&self) -> Vec<String> {
        let lasting = self.refused.iter().filter(|refusal| !refusal.is_transient);
        lasting
            .map(|refusal| cut(refusal.words(), PART_CHARS_MAX))
            .collect()
    }

    /// The state of a Pipeline whose pods and runners tell this one. What stops it, and that it is
    /// Paused, is said first.
    pub fn state(&self, state: State) -> State {
        if matches!(state, State::Stalled { .. }) || state.words().0 == Reason::Paused {
            return state;
        }
        let warnings = self.warnings();
        let lasting = self.refused.iter().find(|refusal| !refusal.is_transient);
        match (lasting, self.refused.first()) {
            (Some(lasting), _) => State::stalled(lasting.reason, listed(warnings.into_iter())),
            (None, Some(first)) if state != State::Ready => {
                State::reconciling(first.reason, first.words())
            }
            _ => state,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes;
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use serde_json::json;

    fn wanted(name: &str, text: &str) -> Object {
        Object::of_value(
            kubernetes::resource::<ConfigMap>(),
            json!({
                "metadata": {"name": name, "ownerReferences": [{"uid": "u"}]},
                "data": {"stage.json": text},
            }),
        )
    }

    fn live(object: &Object) -> Live {
        Live {
            resource: object.resource.clone(),
            value: object.value.clone(),
        }
    }

    #[test]
    fn what_is_as_wanted_stays_and_what_is_left_of_a_stage_goes() {
        let (kept, changed, old) = (wanted("a", "1"), wanted("b", "2"), wanted("c", "3"));
        let mut foreign = live(&wanted("d", "4"));
        foreign.value["metadata"]["ownerReferences"] = json!([{"uid": "another"}]);
        let found = [live(&kept), live(&wanted("b", "1")), live(&old), foreign];
        let steps = plan(&[kept, changed.clone()], &found, "u");
        assert_eq!(steps, [Step::Apply(changed), Step::Delete(live(&old))]);
    }

    #[test]
    fn what_somebody_changed_is_told_apart_from_what_the_spec_changed() {
        let kept = wanted("a", "1");
        let mut other = live(&kept);
        other.value["data"]["stage.json"] = json!("mine");
        let steps = plan(std::slice::from_ref(&kept), &[other], "u");
        assert_eq!(
            steps,
            [Step::PutRight(kept, vec!["data[stage.json]".into()])]
        );
        assert!(steps[0].is_repair());
        assert_eq!(steps[0].what(), "ConfigMap a, data[stage.json]");
    }

    #[test]
    fn no_pod_starts_or_changes_whose_network_policy_is_not_as_it_should_be() {
        let set = |name: &str, replicas: i32| {
            let value = json!({"metadata": {"name": name}, "spec": {"replicas": replicas}});
            Object::of_value(kubernetes::resource::<StatefulSet>(), value)
        };
        let policy = |name: &str| {
            let value = json!({"metadata": {"name": name}, "spec": {}});
            Object::of_value(kubernetes::resource::<NetworkPolicy>(), value)
        };
        for refused in [
            Step::Apply(policy("a")),
            Step::PutRight(policy("a"), vec!["spec".to_owned()]),
            Step::RemoveFields(policy("a"), live(&policy("a")), Vec::new()),
        ] {
            let mut stops = Stops::default();
            stops.after(&refused);
            assert!(stops.stops(&Step::Apply(set("a", 2))), "{refused:?}");
            assert!(stops.stops(&Step::PutRight(set("a", 2), Vec::new())));
            assert!(!stops.stops(&Step::Apply(set("a", 0))), "it is Paused");
            assert!(!stops.stops(&Step::Apply(set("b", 2))), "another stage");
            assert!(!stops.stops(&Step::Delete(live(&set("c", 1)))));
        }
    }

    #[test]
    fn a_refusal_is_said_unless_the_stream_itself_says_more() {
        let refusal = |what: &str, is_transient| Refusal {
            what: what.to_owned(),
            why: "no".to_owned(),
            reason: Reason::KubernetesRefused,
            is_transient,
        };
        let of = |refused: &[Refusal]| Applied {
            drift: Vec::new(),
            refused: refused.to_vec(),
        };
        let all = of(&[refusal("a", false), refusal("b", true), refusal("c", false)]);
        let said = State::stalled(Reason::KubernetesRefused, "a: no; c: no");
        assert_eq!(all.state(State::Ready), said);
        let starting = State::reconciling(Reason::Starting, "pods are being made");
        assert_eq!(all.state(starting.clone()), said);
        assert_eq!(all.warnings(), ["a: no", "c: no"]);
        for more in [
            State::stalled(Reason::BlockFailing, "block out: no right"),
            State::reconciling(Reason::Paused, "spec.state is Paused"),
        ] {
            assert_eq!(all.state(more.clone()), more);
        }
        let passing = of(&[refusal("b", true)]);
        assert_eq!(passing.state(State::Ready), State::Ready);
        let said = State::reconciling(Reason::KubernetesRefused, "b: no");
        assert_eq!(passing.state(starting), said);
    }
}
