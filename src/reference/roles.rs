//! The Roles of the operator, the roles for people, and what the webhook is asked about: made from
//! the registry of kinds. The charts and the page of rights are printed from these values. Pure.

use crate::api::GROUP;
use crate::kinds::registration::{Editors, Entry, Served};
use crate::kinds::rights::Right;

/// Stands for the name of the cluster-wide objects of a release; the chart's template puts it in.
pub const CLUSTER_WIDE_NAME: &str = "freehold-NAMESPACE";

/// A rule of a Role: a right, also on the resources of kinds in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The API group; empty: the core group.
    pub group: String,
    pub resources: Vec<String>,
    /// Names of single objects; empty: all objects of these resources.
    pub names: Vec<String>,
    pub verbs: Vec<String>,
    /// Why the rule is there. It is also the comment in the chart.
    pub why: String,
    /// The code that uses it; empty in a role for people.
    pub used_by: Vec<String>,
}

/// A role: of the operator, or for people.
#[derive(Clone, Debug)]
pub struct Role {
    /// How the page calls it.
    pub title: &'static str,
    /// Where it applies, or who has it: a paragraph of the page.
    pub about: &'static str,
    /// For the operator: the name of the template that holds its rules. For people: the name of the
    /// ClusterRole.
    pub name: &'static str,
    /// The roles of Kubernetes whose holders get it too; empty for the operator's.
    pub aggregated_to: &'static [&'static str],
    pub rules: Vec<Rule>,
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

impl From<&Right> for Rule {
    fn from(right: &Right) -> Self {
        Self {
            group: right.group.to_owned(),
            resources: owned(right.resources),
            names: owned(right.names),
            verbs: owned(right.verbs),
            why: right.why.to_owned(),
            used_by: owned(right.used_by),
        }
    }
}

/// A rule on resources of Freehold's own API group; `None` if there are none.
fn on_own(resources: Vec<String>, verbs: &[&str], why: &str, used_by: &[&str]) -> Option<Rule> {
    (!resources.is_empty()).then(|| Rule {
        group: GROUP.to_owned(),
        resources,
        names: Vec::new(),
        verbs: owned(verbs),
        why: why.to_owned(),
        used_by: owned(used_by),
    })
}

/// The plural names of some kinds, with an ending.
fn plurals(kinds: &[&Entry], ending: &str, is_wanted: impl Fn(&Entry) -> bool) -> Vec<String> {
    let wanted = kinds.iter().filter(|entry| is_wanted(entry));
    wanted
        .map(|entry| format!("{}{ending}", entry.resource().plural))
        .collect()
}

/// The operator's verbs on its own kinds.
const OPERATOR: [&str; 4] = ["get", "list", "watch", "patch"];
/// What people do who edit objects.
const WRITE: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// The rules for kinds that are served in the same namespaces.
fn of_kinds(kinds: &[&Entry], served: Served) -> Vec<Rule> {
    let here = |entry: &Entry| entry.served == served;
    let own = [
        on_own(
            plurals(kinds, "", here),
            &OPERATOR,
            "Its own resources. Finalizers are set by patch.",
            &[
                "runtime/driver.rs",
                "kubernetes::set_finalizer",
                "kubernetes::current",
            ],
        ),
        on_own(
            plurals(kinds, "/status", here),
            &["patch"],
            match served {
                Served::Watched => "Status is a subresource.",
                Served::WithClusters => "Status, and in it the lease of a disruption.",
            },
            &["runtime/driver.rs"],
        ),
        on_own(
            plurals(kinds, "/finalizers", |entry| {
                here(entry) && entry.owns_objects
            }),
            &["update"],
            "Owner references that block deletion need it (OwnerReferencesPermissionEnforcement).",
            &["kubernetes::owner"],
        ),
    ];
    let of_steps = kinds
        .iter()
        .filter(|entry| here(entry))
        .flat_map(|entry| entry.rights);
    own.into_iter()
        .flatten()
        .chain(of_steps.map(Rule::from))
        .collect()
}

const EVENTS: Right = Right {
    group: "events.k8s.io",
    resources: &["events"],
    names: &[],
    verbs: &["create", "patch"],
    why: "Events about its own resources. One that repeats is counted up by patch.",
    used_by: &["runtime/events.rs"],
};
const LEASE_CREATE: Right = Right {
    group: "coordination.k8s.io",
    resources: &["leases"],
    names: &[],
    verbs: &["create"],
    why: "The Lease of leader election is created once. No rule can name what is not there yet.",
    used_by: &["runtime/lease.rs"],
};
const LEASE: Right = Right {
    names: &["freehold"],
    verbs: &["get", "update"],
    why: "The Lease is held and renewed.",
    ..LEASE_CREATE
};
const NAMESPACE_LABELS: Right = Right {
    group: "",
    resources: &["namespaces"],
    names: &[],
    verbs: &["get", "list", "watch"],
    why: "Labels of namespaces, for `access.namespaces.from: Selector`; they hold no secret. They \
          are watched, so that a label that is taken away counts at once.",
    used_by: &["runtime/namespaces.rs"],
};
const NAMESPACE_STATE: Right = Right {
    verbs: &["get"],
    why: "Whether a namespace is being deleted.",
    ..NAMESPACE_LABELS
};
const CERTIFICATE_CREATE: Right = Right {
    group: "",
    resources: &["secrets"],
    names: &[],
    verbs: &["create"],
    why: "The Secret of the webhook's certificate is created once.",
    used_by: &["webhook/certificate.rs"],
};
const CERTIFICATE: Right = Right {
    names: &["freehold-webhook"],
    verbs: &["get", "update"],
    why: "The webhook's certificate is read and renewed.",
    ..CERTIFICATE_CREATE
};
const WEBHOOK_CONFIGURATION: Right = Right {
    group: "admissionregistration.k8s.io",
    resources: &["validatingwebhookconfigurations"],
    names: &[CLUSTER_WIDE_NAME],
    verbs: &["get", "patch"],
    why: "The API server is told the CA of the webhook, in this one object.",
    used_by: &["webhook/certificate.rs"],
};

/// The operator's Roles and ClusterRoles.
pub fn of_operator(kinds: &[&Entry]) -> Vec<Role> {
    let role = |title, name, about, rules| Role {
        title,
        about,
        name,
        aggregated_to: &[],
        rules,
    };
    let rules = |rights: &[&Right]| rights.iter().map(|&right| Rule::from(right)).collect();
    let mut watched = of_kinds(kinds, Served::Watched);
    watched.push(Rule::from(&EVENTS));
    let ending = on_own(
        plurals(kinds, "", |_| true),
        &OPERATOR,
        "A finalizer is removed by patch of the object; RBAC knows nothing smaller.",
        &["kubernetes::set_finalizer", "kinds/dependent/"],
    );
    vec![
        role(
            "Role freehold",
            "freehold.rules",
            "In every namespace of `watchNamespaces` and `clusterNamespaces`: Topics and Users. \
             With `watchAllNamespaces` a ClusterRole `freehold-NAMESPACE-all` grants it everywhere.",
            watched,
        ),
        role(
            "Role freehold-clusters",
            "freehold.clusterRules",
            "In every namespace of `clusterNamespaces` (empty: of `watchNamespaces`), beside the \
             Role above: KafkaClusters and Pipelines. With `watchAllNamespaces` and no \
             `clusterNamespaces` the same ClusterRole has it too.",
            of_kinds(kinds, Served::WithClusters),
        ),
        role(
            "Role freehold-leader",
            "freehold.leaderRules",
            "In the release's namespace: leader election.",
            rules(&[&LEASE_CREATE, &LEASE]),
        ),
        role(
            "ClusterRole freehold-NAMESPACE-namespaces",
            "freehold.namespaceRules",
            "Where `readNamespaceLabels` is true.",
            rules(&[&NAMESPACE_LABELS]),
        ),
        role(
            "ClusterRole freehold-NAMESPACE-ending",
            "freehold.endingRules",
            "Where `endNamespaces` is true: a namespace that is deleted takes its Roles along \
             first, before the objects whose finalizers the operator must remove.",
            ending
                .into_iter()
                .chain([Rule::from(&NAMESPACE_STATE)])
                .collect(),
        ),
        role(
            "Role freehold-webhook",
            "freehold.webhookRules",
            "In the release's namespace, where `webhook.enabled` is true.",
            rules(&[&CERTIFICATE_CREATE, &CERTIFICATE]),
        ),
        role(
            "ClusterRole freehold-NAMESPACE-webhook",
            "freehold.webhookConfigurationRules",
            "Where `webhook.enabled` is true.",
            rules(&[&WEBHOOK_CONFIGURATION]),
        ),
    ]
}

/// Whether the objects of a kind have a number of replicas, which `kubectl scale` changes.
fn is_scaled(entry: &Entry) -> bool {
    let versions = entry.definition().spec.versions;
    let mut subresources = versions
        .iter()
        .filter_map(|version| version.subresources.as_ref());
    subresources.any(|subresources| subresources.scale.is_some())
}

/// The ClusterRoles for people. Kubernetes adds them to its own roles.
pub fn for_people(kinds: &[&Entry]) -> Vec<Role> {
    let role = |title, name, about, aggregated_to, rules: [Option<Rule>; 2]| Role {
        title,
        about,
        name,
        aggregated_to,
        rules: rules.into_iter().flatten().collect(),
    };
    let edited = |editors: Editors| plurals(kinds, "", move |entry| entry.editors == editors);
    vec![
        role(
            "ClusterRole freehold-view",
            "freehold-view",
            "For whoever has Kubernetes' role `view`, `edit` or `admin`.",
            &["view", "edit", "admin"],
            [
                on_own(
                    plurals(kinds, "", |_| true),
                    &["get", "list", "watch"],
                    "Who may read a namespace sees what there is of Kafka in it; no object holds a \
                     secret.",
                    &[],
                ),
                None,
            ],
        ),
        role(
            "ClusterRole freehold-edit",
            "freehold-edit",
            "For whoever has Kubernetes' role `edit` or `admin`.",
            &["edit", "admin"],
            [
                on_own(
                    edited(Editors::Edit),
                    &WRITE,
                    "Who may edit a namespace may write these, and needs no right in Kafka for it.",
                    &[],
                ),
                on_own(
                    plurals(kinds, "/scale", is_scaled),
                    &["get", "update", "patch"],
                    "kubectl scale, and autoscalers.",
                    &[],
                ),
            ],
        ),
        role(
            "ClusterRole freehold-admin",
            "freehold-admin",
            "For whoever has Kubernetes' role `admin`.",
            &["admin"],
            [
                on_own(
                    edited(Editors::Admin),
                    &WRITE,
                    "What runs whole clusters is for the administrators of a namespace.",
                    &[],
                ),
                None,
            ],
        ),
    ]
}

/// The resources whose objects the API server sends to the webhook, for each version of the API.
pub fn reviewed(kinds: &[&Entry]) -> Vec<(String, Vec<String>)> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    for entry in kinds {
        let resource = entry.resource();
        match all
            .iter_mut()
            .find(|(version, _)| *version == resource.version)
        {
            Some((_, plurals)) => plurals.push(resource.plural),
            None => all.push((resource.version, vec![resource.plural])),
        }
    }
    all
}
