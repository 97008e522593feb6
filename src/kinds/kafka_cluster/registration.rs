//! The registration of KafkaCluster in the registry of kinds.

use crate::api::kafka_cluster::KafkaCluster;
use crate::kinds::context::{Context as Shared, Settings};
use crate::kinds::kafka_cluster::KafkaClusterKind;
use crate::kinds::kafka_cluster::context::Context;
use crate::kinds::kafka_cluster::model::child_names;
use crate::kinds::kafka_cluster::model::child_names::Neighbour;
use crate::kinds::kafka_cluster::validate;
use crate::kinds::kafka_cluster::validate::checks::smaller_sizes;
use crate::kinds::registration::{Editors, Registered, Review, Served};
use crate::kinds::rights::{APPLY, Right};
use std::sync::Arc;

/// The objects that a cluster is made of, and what its steps do with volumes, pods and events.
const RIGHTS: &[Right] = &[
    Right {
        group: "",
        resources: &["configmaps", "secrets", "services", "serviceaccounts"],
        names: &[],
        verbs: APPLY,
        why: "What a cluster is made of, its CAs and certificates, and the Secrets that its \
              spec names. Server-side apply needs create and patch.",
        used_by: &[
            "kubernetes::apply",
            "kinds/kafka_cluster/observe/",
            "kinds/kafka_cluster/execute/secrets.rs",
            "kinds/kafka_cluster/cleanup.rs",
        ],
    },
    Right {
        group: "apps",
        resources: &["statefulsets"],
        names: &[],
        verbs: APPLY,
        why: "One for each pool and zone. One that is made anew is deleted without its pods.",
        used_by: &["kubernetes::apply", "kubernetes::orphan"],
    },
    Right {
        group: "networking.k8s.io",
        resources: &["networkpolicies"],
        names: &[],
        verbs: APPLY,
        why: "Who reaches which port of Kafka nodes.",
        used_by: &["kubernetes::apply"],
    },
    Right {
        group: "policy",
        resources: &["poddisruptionbudgets"],
        names: &[],
        verbs: APPLY,
        why: "Evictions wait until the other nodes are in sync.",
        used_by: &["kubernetes::apply"],
    },
    Right {
        group: "",
        resources: &["persistentvolumeclaims"],
        names: &[],
        verbs: &["get", "list", "watch", "patch", "delete"],
        why: "StatefulSets make the volumes. They grow by patch, and are deleted only where \
              deletionPolicy says Delete, or where a broker that holds nothing is replaced.",
        used_by: &[
            "kinds/kafka_cluster/execute/",
            "kinds/kafka_cluster/cleanup.rs",
        ],
    },
    Right {
        group: "",
        resources: &["pods"],
        names: &[],
        verbs: &["get", "list", "watch", "delete"],
        why: "Pods are watched. One that is to restart is deleted, and its StatefulSet makes \
              it anew.",
        used_by: &[
            "kinds/kafka_cluster/observe/",
            "kinds/kafka_cluster/execute/",
        ],
    },
    Right {
        group: "",
        resources: &["pods/status"],
        names: &[],
        verbs: &["patch"],
        why: "The readiness gate of a pod.",
        used_by: &["kinds/kafka_cluster/execute/"],
    },
    Right {
        group: "",
        resources: &["events"],
        names: &[],
        verbs: &["list"],
        why: "Only the events of a StatefulSet tell why it makes no pod: a quota, a policy.",
        used_by: &["kinds/pods_not_made.rs"],
    },
];

impl Registered for KafkaClusterKind {
    const SERVED: Served = Served::WithClusters;
    const EDITORS: Editors = Editors::Admin;
    const OWNS_OBJECTS: bool = true;
    const RIGHTS: &'static [Right] = RIGHTS;

    fn context(shared: &Arc<Shared>) -> Arc<Context> {
        Arc::new(Context::of(Arc::clone(shared)))
    }
    fn review(object: KafkaCluster) -> Review {
        Review::AmongClusters(Box::new(
            move |settings: &Settings, clusters: &[KafkaCluster]| {
                let (mut invalids, mut warnings) =
                    validate::check(&object.spec, settings.images.get(&object.spec.version));
                let name = &object.metadata.name;
                if let Some(old) = clusters.iter().find(|old| old.metadata.name == *name) {
                    warnings.extend(smaller_sizes(&old.spec, &object.spec));
                }
                let neighbours: Vec<_> = clusters.iter().map(Neighbour::of).collect();
                invalids.extend(child_names::check(&object, &neighbours));
                (invalids, warnings)
            },
        ))
    }
}
