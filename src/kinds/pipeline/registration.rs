//! The registration of Pipeline in the registry of kinds.

use crate::api::pipeline::Pipeline;
use crate::kinds::context::Context as Shared;
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::{PipelineKind, programs, validate};
use crate::kinds::registration::{Editors, Registered, Review, Served};
use crate::kinds::rights::{APPLY, Right};
use freehold_pipeline::topics::TopicNames;
use std::sync::Arc;

/// The objects that a Pipeline is made of.
const RIGHTS: &[Right] = &[
    Right {
        group: "",
        resources: &["configmaps", "serviceaccounts"],
        names: &[],
        verbs: APPLY,
        why: "What the stages of a Pipeline do, and their ServiceAccount, which has no rights.",
        used_by: &["kubernetes::apply", "kinds/pipeline/apply.rs"],
    },
    Right {
        group: "",
        resources: &["services"],
        names: &[],
        verbs: APPLY,
        why: "One for each HTTP source of a Pipeline.",
        used_by: &["kubernetes::apply", "kinds/pipeline/apply.rs"],
    },
    Right {
        group: "",
        resources: &["secrets"],
        names: &[],
        verbs: &["get", "list", "create", "patch", "delete"],
        why: "The certificate of an HTTP source. Whether a Secret that a block names has the keys \
              that the block needs is looked at before a pod starts.",
        used_by: &[
            "kubernetes::apply",
            "kinds/pipeline/apply.rs",
            "kinds/pipeline/certificate.rs",
            "kinds/pipeline/observe.rs",
        ],
    },
    Right {
        group: "apps",
        resources: &["statefulsets"],
        names: &[],
        verbs: APPLY,
        why: "One for each stage of a Pipeline.",
        used_by: &["kubernetes::apply", "kinds/pipeline/apply.rs"],
    },
    Right {
        group: "apps",
        resources: &["controllerrevisions"],
        names: &[],
        verbs: &["get", "list", "create", "delete"],
        why: "The revisions of a Pipeline; the oldest are deleted.",
        used_by: &["kinds/pipeline/revisions.rs", "kinds/pipeline/apply.rs"],
    },
    Right {
        group: "networking.k8s.io",
        resources: &["networkpolicies"],
        names: &[],
        verbs: APPLY,
        why: "The pods of a stage reach brokers, DNS and the hosts that its blocks name.",
        used_by: &["kubernetes::apply", "kinds/pipeline/apply.rs"],
    },
    Right {
        group: "policy",
        resources: &["poddisruptionbudgets"],
        names: &[],
        verbs: APPLY,
        why: "One replica of a stage at a time is evicted.",
        used_by: &["kubernetes::apply", "kinds/pipeline/apply.rs"],
    },
    Right {
        group: "",
        resources: &["pods"],
        names: &[],
        verbs: &["list"],
        why: "The replicas of a Pipeline, which are asked how they do.",
        used_by: &["kinds/pipeline/pods.rs"],
    },
    Right {
        group: "",
        resources: &["events"],
        names: &[],
        verbs: &["list"],
        why: "Only the events of a StatefulSet tell why it makes no pod: a quota, a policy.",
        used_by: &["kinds/pods_not_made.rs"],
    },
    Right {
        group: "freehold.dev",
        resources: &["users", "topics"],
        names: &[],
        verbs: &["create", "delete"],
        why: "A Pipeline without userRef has a User of its own, and one with isolated blocks has \
              Topics of its own.",
        used_by: &["kubernetes::apply", "kinds/pipeline/apply.rs"],
    },
];

impl Registered for PipelineKind {
    const SERVED: Served = Served::WithClusters;
    const EDITORS: Editors = Editors::Edit;
    const OWNS_OBJECTS: bool = true;
    const RIGHTS: &'static [Right] = RIGHTS;

    fn context(shared: &Arc<Shared>) -> Arc<Context> {
        Arc::new(Context::of(Arc::clone(shared)))
    }
    /// The Topics that it names may come later: only their object's names count here.
    fn review(object: Pipeline) -> Review {
        let reference = object.spec.cluster_ref.clone();
        let spec = object.spec.clone();
        let in_child =
            move || validate::findings(programs::in_child(&spec, &TopicNames::default()));
        let check = move |facts: &_, _| (validate::check_cluster(&object, facts), Vec::new());
        Review::InChildAndOfCluster(Box::new(in_child), reference, Box::new(check))
    }
}
