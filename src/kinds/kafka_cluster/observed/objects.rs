//! The child objects of a cluster, except Secrets, volumes and pods; StatefulSets as plain data.
//!
//! A field that cannot be read counts as absent, so that one odd object never stops a reconcile.
//! Pure.

use crate::kinds::kafka_cluster::observed::claims::Requested;
use crate::kubernetes::{Live, Object, labels};
use serde_json::Value;

/// The objects as they were read, and the StatefulSets among them as plain data.
#[derive(Clone, Default)]
pub struct Objects {
    all: Vec<Live>,
    stateful_sets: Vec<StatefulSetFacts>,
}

impl Objects {
    /// Reads the StatefulSets among these objects.
    pub fn of(all: Vec<Live>) -> Self {
        let sets = all
            .iter()
            .filter(|live| live.resource.kind == "StatefulSet");
        Self {
            stateful_sets: sets.map(StatefulSetFacts::of).collect(),
            all,
        }
    }

    /// All objects, as they were read.
    pub fn all(&self) -> &[Live] {
        &self.all
    }

    /// The object of this kind and name.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Live> {
        self.all
            .iter()
            .find(|live| live.resource.kind == kind && live.name() == name)
    }

    /// A value of a ConfigMap.
    pub fn config(&self, map: &str, key: &str) -> Option<&str> {
        self.find("ConfigMap", map)?.value["data"][key].as_str()
    }

    /// The StatefulSets.
    pub fn stateful_sets(&self) -> &[StatefulSetFacts] {
        &self.stateful_sets
    }

    /// The StatefulSet of this name.
    pub fn stateful_set(&self, name: &str) -> Option<&StatefulSetFacts> {
        self.stateful_sets.iter().find(|set| set.name() == name)
    }
}

/// A claim template of a StatefulSet.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimTemplate {
    pub name: String,
    pub requested: Requested,
}

impl ClaimTemplate {
    /// The claim templates of a desired StatefulSet.
    pub fn of_desired(set: &Object) -> Vec<Self> {
        Self::all(&set.value)
    }

    fn all(set: &Value) -> Vec<Self> {
        let templates = set["spec"]["volumeClaimTemplates"].as_array();
        let template = |template: &Value| {
            Some(Self {
                name: template["metadata"]["name"].as_str()?.to_owned(),
                requested: Requested::of(template),
            })
        };
        templates
            .into_iter()
            .flatten()
            .filter_map(template)
            .collect()
    }
}

/// A StatefulSet.
#[derive(Clone, Debug, PartialEq)]
pub struct StatefulSetFacts {
    /// The StatefulSet as it was read: for its name and labels, and to apply or delete it.
    pub live: Live,
    /// The number of pods that it shall run.
    pub replicas: Option<i32>,
    /// The number of pods that it has.
    pub present: Option<i32>,
    /// The ordinal of its first pod: the first node id.
    pub first_ordinal: Option<i32>,
    /// True if its pods are brokers.
    pub broker: bool,
    /// True if its pods are controllers.
    pub controller: bool,
    /// True if the StatefulSet controller has observed its present spec.
    pub is_observed: bool,
    pub claim_templates: Vec<ClaimTemplate>,
}

impl StatefulSetFacts {
    /// Reads a StatefulSet.
    pub fn of(live: &Live) -> Self {
        let number = |path: &str| {
            let number = live.value.pointer(path).and_then(Value::as_i64);
            number.and_then(|number| i32::try_from(number).ok())
        };
        let has_label =
            |key: &str| live.value["spec"]["template"]["metadata"]["labels"][key] == "true";
        Self {
            replicas: number("/spec/replicas"),
            present: number("/status/replicas"),
            first_ordinal: number("/spec/ordinals/start"),
            broker: has_label(labels::BROKER),
            controller: has_label(labels::CONTROLLER),
            is_observed: live.value["status"]["observedGeneration"]
                == live.value["metadata"]["generation"],
            claim_templates: ClaimTemplate::all(&live.value),
            live: live.clone(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.live.name()
    }

    /// True if it is known to have no pods, now and later.
    pub fn is_empty(&self) -> bool {
        (self.replicas, self.present) == (Some(0), Some(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::resource;
    use k8s_openapi::api::apps::v1::StatefulSet;
    use serde_json::json;

    fn set(value: Value) -> Live {
        Live {
            resource: resource::<StatefulSet>(),
            value,
        }
    }

    #[test]
    fn an_odd_statefulset_is_read_as_far_as_possible_and_does_not_hide_the_others() {
        let odd = set(
            json!({"metadata": {"name": "odd"}, "spec": {"replicas": "three",
            "volumeClaimTemplates": [{"spec": {}}, {"metadata": {"name": "data"}, "spec": {}}]}}),
        );
        let good = set(json!({"metadata": {"name": "good", "generation": 2},
            "spec": {"replicas": 3, "ordinals": {"start": 100},
                "template": {"metadata": {"labels": {labels::BROKER: "true"}}}},
            "status": {"replicas": 2, "observedGeneration": 1}}));
        let objects = Objects::of(vec![odd, good]);
        let odd = objects.stateful_set("odd").unwrap();
        assert_eq!((odd.replicas, odd.claim_templates.len()), (None, 1));
        assert!(!odd.is_empty(), "its pods are not known");
        let good = objects.stateful_set("good").unwrap();
        assert_eq!(
            (good.replicas, good.present, good.first_ordinal),
            (Some(3), Some(2), Some(100))
        );
        assert!(good.broker && !good.controller && !good.is_observed);
    }
}
