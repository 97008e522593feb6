//! Decides which rights Users of other namespaces may have if the cluster's `access.rights` is
//! `Own`: rights on what their namespace owns, and on what others share with it. Pure, except for
//! [`Sharing`], an index of what Topics share and which Users depend on it.

use crate::api::conditions::Reason;
use crate::api::invalid::Invalid;
use crate::api::kafka_cluster::{Access, RightsPolicy, ShadowPolicy};
use crate::api::reference::ClusterKey;
use crate::api::topic::{Share, ShareOperation};
use crate::api::user::User;
use crate::tenancy::access;
use crate::tenancy::claims::Claim;
use crate::tenancy::rules;
use crate::tenancy::rules::Rule;
use freehold_kafka::acl::{self, AclBinding};
use freehold_kafka::grants;
use freehold_kafka::grants::{CLUSTER, DESCRIBE, GROUP, LITERAL, READ, TOPIC, WRITE};
use freehold_kafka::metadata_image::MetadataImage;
use freehold_kafka::ownership::{Owned, Owner};
use kube::runtime::reflector::ObjectRef;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

/// The owner of a topic, and the operations on it that are shared with a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `namespace/name` of the Topic that manages it, and its namespace.
    pub owner: Option<(String, String)>,
    pub shared: BTreeSet<ShareOperation>,
}

/// Standings by topic name.
pub type Standings = BTreeMap<String, Standing>;

/// The ACLs that a User may have, and the reasons why it may not have the others. `standings`:
/// those of the topics that it names; `None` if they are not known, as at admission, because a
/// Topic may be created after the User.
pub fn split(
    object: &User,
    access: &Access,
    cluster: &ClusterKey,
    standings: Option<&Standings>,
) -> (Vec<AclBinding>, Vec<Invalid>) {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let free = is_free(namespace, access, cluster);
    let (mut allowed, mut refused) = (Vec::new(), Vec::<Invalid>::new());
    for Rule { field, acl } in rules::rules(object, object.principal_name()) {
        match refuse(&acl, namespace, access, cluster, standings).filter(|_| !free) {
            None => allowed.push(acl),
            // All operations on a name are refused for the same reason: it is reported once.
            Some(why) => {
                let invalid = Invalid::new(field, why).because(Reason::RightNotAllowed);
                if !refused.contains(&invalid) {
                    refused.push(invalid);
                }
            }
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    (allowed, refused)
}

/// True if Users of a namespace may have any right.
fn is_free(namespace: &str, access: &Access, cluster: &ClusterKey) -> bool {
    access.rights == Some(RightsPolicy::Any) || cluster.namespace == namespace
}

/// The ACLs in Kafka that are not allowed, no matter what the spec asks for. `shadow`: whether the
/// cluster allows shadow mode, which gives every right, also to Users of its own namespace.
pub fn withdrawn(
    found: &[AclBinding],
    namespace: &str,
    access: &Access,
    shadow: ShadowPolicy,
    cluster: &ClusterKey,
    standings: &Standings,
) -> Vec<AclBinding> {
    let free = is_free(namespace, access, cluster);
    let is_allowed = |acl: &AclBinding| {
        if acl.resource_name == grants::SHADOW_MARK {
            return shadow == ShadowPolicy::Allowed;
        }
        free || refuse(acl, namespace, access, cluster, Some(standings)).is_none()
    };
    found
        .iter()
        .filter(|acl| !is_allowed(acl))
        .cloned()
        .collect()
}

/// Why an ACL is not allowed. A deny rule is always allowed, because it takes nothing from other
/// Users.
fn refuse(
    acl: &AclBinding,
    namespace: &str,
    access: &Access,
    cluster: &ClusterKey,
    standings: Option<&Standings>,
) -> Option<String> {
    if acl.permission == acl::DENY || acl.resource_name == grants::SHADOW_MARK {
        return None;
    }
    let (name, literal) = (&acl.resource_name, acl.pattern_type == LITERAL);
    let owner = format!("ask the owner of KafkaCluster {cluster}");
    if acl.resource_type == CLUSTER {
        return Some(format!(
            "rights on the Cluster are for Users of namespace {}; {owner}",
            cluster.namespace
        ));
    }
    if name == "*" {
        return Some(format!(
            "rights on everything are not given to namespace {namespace} (access.rights is Own); name each, or {owner}"
        ));
    }
    let policy = access.topic_names.as_ref();
    // A policy may allow one name to two namespaces; then the topic belongs to the namespace whose
    // Topic manages it.
    let owner_of = |topic: &str| standings?.get(topic)?.owner.as_ref();
    let is_others = acl.resource_type == TOPIC
        && literal
        && owner_of(name).is_some_and(|(_, of)| of != namespace);
    if !is_others
        && policy
            .is_some_and(|policy| access::refuse_name(policy, namespace, name, !literal).is_none())
    {
        return None;
    }
    if acl.resource_type != TOPIC {
        if begins_with(name, literal, namespace) {
            return None;
        }
        let what = if acl.resource_type == GROUP {
            "groups"
        } else {
            "transactional ids"
        };
        let star = if literal { "" } else { "*" };
        return Some(format!(
            "{name}{star}: {what} of namespace {namespace} begin with \"{namespace}-\" (access.rights is Own); take such a name, or {owner}"
        ));
    }
    if !literal {
        return Some(format!(
            "{name}*: topics that begin so may become anybody's (access.rights is Own); name each, or {owner} for access.topicNames"
        ));
    }
    refuse_topic(acl, namespace, standings?.get(name), &owner)
}

/// Why an ACL for one topic is not allowed, from who owns the topic. `help`: the person who can
/// help.
fn refuse_topic(
    acl: &AclBinding,
    namespace: &str,
    standing: Option<&Standing>,
    help: &str,
) -> Option<String> {
    let name = &acl.resource_name;
    let standing = standing.cloned().unwrap_or_default();
    let shared = match acl.operation {
        READ => standing.shared.contains(&ShareOperation::Consume),
        WRITE => standing.shared.contains(&ShareOperation::Produce),
        DESCRIBE => !standing.shared.is_empty(),
        _ => false,
    };
    match standing.owner {
        _ if shared => None,
        Some((_, of)) if of == namespace => None,
        Some((topic, of)) => Some(format!(
            "{name}: Topic {topic} manages it and does not share that with namespace {namespace}; ask in namespace {of} for its spec.share"
        )),
        None => Some(format!(
            "{name}: no Topic of namespace {namespace} manages it (access.rights is Own); create one, or {help}"
        )),
    }
}

/// True if a name equals the namespace's name, or begins with it and a dash or another character
/// that no namespace's name contains. A prefix that ends with the namespace's name is refused: it
/// would match names of namespaces with longer names.
fn begins_with(name: &str, literal: bool, namespace: &str) -> bool {
    let next = name.strip_prefix(namespace).map(|rest| rest.chars().next());
    next.is_some_and(|next| next.map_or(literal, |next| !next.is_ascii_alphanumeric()))
}

/// The topics that a User names. Its rights on them depend on the Topics that manage them.
fn topics(object: &User) -> BTreeSet<String> {
    let all = rules::rules(object, object.principal_name());
    topics_of(all.iter().map(|rule| &rule.acl))
}

/// The topics that ACLs name.
pub fn topics_of<'a>(acls: impl Iterator<Item = &'a AclBinding>) -> BTreeSet<String> {
    let named = acls.filter(|acl| {
        acl.resource_type == TOPIC && acl.pattern_type == LITERAL && acl.resource_name != "*"
    });
    named.map(|acl| acl.resource_name.clone()).collect()
}

/// The namespace and name of an object.
type Key = (String, String);

fn key(object: &User) -> Key {
    (
        object.metadata.namespace.clone().unwrap_or_default(),
        object.metadata.name.clone().unwrap_or_default(),
    )
}

/// An index of what Topics share and which Users depend on which topics.
#[derive(Default)]
pub struct Sharing {
    shares: RwLock<HashMap<Key, Vec<Share>>>,
    users: RwLock<Dependents>,
}

/// Which Users depend on which topics, indexed in both directions.
#[derive(Default)]
struct Dependents {
    by_topic: HashMap<Claim, BTreeSet<Key>>,
    by_user: HashMap<Key, HashSet<Claim>>,
}

impl Dependents {
    /// Replaces the topics that a User depends on.
    fn put(&mut self, user: &Key, topics: HashSet<Claim>) {
        let before = self.by_user.remove(user).unwrap_or_default();
        for gone in before.difference(&topics) {
            if let Some(users) = self.by_topic.get_mut(gone) {
                users.remove(user);
                if users.is_empty() {
                    self.by_topic.remove(gone);
                }
            }
        }
        for topic in &topics {
            self.by_topic
                .entry(topic.clone())
                .or_default()
                .insert(user.clone());
        }
        if !topics.is_empty() {
            self.by_user.insert(user.clone(), topics);
        }
    }
}

impl Sharing {
    /// Records what a Topic shares. Returns true if that has changed.
    pub fn share(&self, namespace: &str, name: &str, shares: &[Share]) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        let mut all = self.shares.write().unwrap_or_else(PoisonError::into_inner);
        let before = if shares.is_empty() {
            all.remove(&key)
        } else {
            all.insert(key, shares.to_vec())
        };
        before.unwrap_or_default() != shares
    }

    /// The standings of the topics that a User names. From now on the User is requeued when one of
    /// them changes. `is_there`: true if the Topic that is recorded as the owner still exists.
    pub fn standings(
        &self,
        object: &User,
        cluster: &ClusterKey,
        image: &MetadataImage,
        is_there: impl Fn(&Owner) -> bool,
    ) -> Standings {
        let topics = topics(object);
        let claims = topics
            .iter()
            .map(|topic| Claim {
                cluster: cluster.clone(),
                name: topic.clone(),
            })
            .collect();
        let user = key(object);
        self.users
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .put(&user, claims);
        self.of_topics(topics, &user.0, image, is_there)
    }

    /// The standings of topics for Users of a namespace. `is_there`: true if the Topic that is
    /// recorded as the owner still exists.
    pub fn of_topics(
        &self,
        topics: BTreeSet<String>,
        namespace: &str,
        image: &MetadataImage,
        is_there: impl Fn(&Owner) -> bool,
    ) -> Standings {
        let shares = self.shares.read().unwrap_or_else(PoisonError::into_inner);
        let standing = |topic: String| {
            let owner = image
                .owners(Owned::Topic, &topic)
                .iter()
                .find(|owner| is_there(owner));
            let shared = owner
                .and_then(|owner| shares.get(&(owner.namespace.clone(), owner.name.clone())))
                .into_iter()
                .flatten();
            let shared = shared
                .filter(|share| share.namespaces.iter().any(|of| of == namespace))
                .flat_map(|share| share.operations.iter().copied())
                .collect();
            (
                topic,
                Standing {
                    owner: owner.map(|owner| (owner.to_string(), owner.namespace.clone())),
                    shared,
                },
            )
        };
        topics.into_iter().map(standing).collect()
    }

    /// The Users whose rights depend on a topic.
    pub fn dependents(&self, topic: &Claim) -> Vec<ObjectRef<User>> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        users
            .by_topic
            .get(topic)
            .into_iter()
            .flatten()
            .map(|(namespace, name)| ObjectRef::new(name).within(namespace))
            .collect()
    }

    /// Removes a User that is gone.
    pub fn forget(&self, object: &User) {
        self.users
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .put(&key(object), HashSet::new());
    }
}

/// The rights that Users would lose with `access.rights: Own`, one line for each User.
pub fn losses<'a>(
    users: impl Iterator<Item = &'a User>,
    access: &Access,
    cluster: &ClusterKey,
    sharing: &Sharing,
    image: &MetadataImage,
) -> Vec<String> {
    let access = Access {
        rights: Some(RightsPolicy::Own),
        ..access.clone()
    };
    let line = |user: &User| {
        let (namespace, name) = (
            user.metadata.namespace.as_deref()?,
            user.metadata.name.as_deref()?,
        );
        if user.spec.cluster_ref.key(namespace) != *cluster || cluster.namespace == namespace {
            return None;
        }
        let (allowed, refused) = split(
            user,
            &access,
            cluster,
            Some(&sharing.standings(user, cluster, image, |_| true)),
        );
        let all: Vec<_> = rules::rules(user, user.principal_name())
            .into_iter()
            .map(|rule| rule.acl)
            .filter(|acl| !allowed.contains(acl))
            .collect();
        (!refused.is_empty()).then(|| {
            format!(
                "User {namespace}/{name} would lose {}",
                grants::words(&all).join("; ")
            )
        })
    };
    let mut lines: Vec<_> = users.filter_map(line).collect();
    lines.sort_unstable();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::TopicNames;
    use freehold_kafka::metadata_record::MetadataRecord;
    use freehold_kafka::ownership::{Owner, mark};
    use serde_json::{Value, json};

    fn cluster() -> ClusterKey {
        ClusterKey {
            namespace: "kafka".into(),
            name: "demo".into(),
        }
    }

    fn user(spec: &Value) -> User {
        let mut value = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "User", "metadata": {"name": "app", "namespace": "shop"},
            "spec": {"clusterRef": {"name": "demo", "namespace": "kafka"}, "authentication": {"type": "ScramSha512"}}});
        value["spec"]
            .as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    /// Topic `orders` belongs to namespace shop, `bills` to billing.
    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        for (id, (topic, namespace)) in [("orders", "shop"), ("bills", "billing")]
            .into_iter()
            .enumerate()
        {
            let owner = Owner {
                namespace: namespace.into(),
                name: topic.into(),
                uid: "u".into(),
            };
            let id = uuid::Uuid::from_u128(id as u128);
            image.apply(
                MetadataRecord::Acl {
                    id,
                    acl: mark(Owned::Topic, topic, &owner),
                },
                &mut Vec::new(),
            );
        }
        image
    }

    fn told(spec: &Value, access: &Access, sharing: &Sharing) -> (usize, Vec<String>) {
        let user = user(spec);
        let standings = sharing.standings(&user, &cluster(), &image(), |_| true);
        let (allowed, refused) = split(&user, access, &cluster(), Some(&standings));
        assert!(
            refused
                .iter()
                .all(|invalid| invalid.reason == Reason::RightNotAllowed)
        );
        (
            allowed.len(),
            refused.iter().map(ToString::to_string).collect(),
        )
    }

    fn own() -> Access {
        Access {
            rights: Some(RightsPolicy::Own),
            ..Access::default()
        }
    }

    #[test]
    fn own_topics_groups_and_ids_are_allowed_and_what_is_others_is_refused_with_whom_to_ask() {
        let sharing = Sharing::default();
        let fine = json!({"grants": [{"produce": {"topics": ["orders"]}}, {"consume": {"topics": ["orders"], "groups": ["shop-*", "shop"]}},
            {"transactional": {"ids": ["shop.tx*"]}}, {"admin": {"topics": ["orders"]}}],
            "acls": [{"resource": {"type": "Topic", "name": "*"}, "operations": ["Delete"], "permission": "Deny"}]});
        assert_eq!(told(&fine, &own(), &sharing), (15, vec![]));
        for (spec, words) in [
            (
                json!({"grants": [{"produce": {"topics": ["bills"]}}]}),
                "spec.grants[0].produce.topics: bills: Topic billing/bills manages it",
            ),
            (
                json!({"grants": [{"consume": {"topics": ["nobodys"]}}]}),
                "no Topic of namespace shop manages it",
            ),
            (
                json!({"grants": [{"consume": {"topics": ["orders*"]}}]}),
                "spec.grants[0].consume.topics: orders*",
            ),
            (
                json!({"grants": [{"admin": {"topics": ["*"]}}]}),
                "ask the owner of KafkaCluster kafka/demo",
            ),
            (
                json!({"grants": [{"admin": {"groups": ["shopping"]}}]}),
                "begin with \"shop-\"",
            ),
            (
                json!({"grants": [{"admin": {"groups": ["shop*"]}}]}),
                "shop*: groups of namespace shop begin with \"shop-\"",
            ),
            (
                json!({"grants": [{"transactional": {"ids": ["tx"]}}]}),
                "spec.grants[0].transactional.ids: tx: transactional ids",
            ),
            (
                json!({"acls": [{"resource": {"type": "Cluster"}, "operations": ["Alter"]}]}),
                "spec.acls[0].resource: rights on the Cluster",
            ),
        ] {
            let (allowed, refused) = told(&spec, &own(), &sharing);
            assert!(
                allowed == 0 && refused.len() == 1 && refused[0].contains(words),
                "{spec}: {refused:?}"
            );
            assert_eq!(
                told(
                    &spec,
                    &Access {
                        rights: Some(RightsPolicy::Any),
                        ..Access::default()
                    },
                    &sharing
                )
                .1,
                Vec::<String>::new()
            );
        }
    }

    #[test]
    fn a_name_that_a_policy_allows_and_that_is_anothers_topic_is_not_allowed() {
        let names = TopicNames {
            prefix: Some("b".into()),
            pattern: None,
        };
        let access = Access {
            topic_names: Some(names),
            ..own()
        };
        let bills = json!({"grants": [{"produce": {"topics": ["bills"]}}]});
        let (allowed, refused) = told(&bills, &access, &Sharing::default());
        assert!(
            allowed == 0 && refused[0].contains("Topic billing/bills manages it"),
            "{refused:?}"
        );
        assert_eq!(
            told(
                &json!({"grants": [{"produce": {"topics": ["beans"]}}]}),
                &access,
                &Sharing::default()
            ),
            (2, vec![])
        );
    }

    #[test]
    fn what_a_topic_shares_may_be_used_so_and_not_otherwise() {
        let sharing = Sharing::default();
        let share = Share {
            namespaces: vec!["shop".into()],
            operations: vec![ShareOperation::Consume],
        };
        assert!(
            sharing.share("billing", "bills", std::slice::from_ref(&share))
                && !sharing.share("billing", "bills", &[share])
        );
        assert_eq!(
            told(
                &json!({"grants": [{"consume": {"topics": ["bills"]}}]}),
                &own(),
                &sharing
            ),
            (2, vec![])
        );
        let (allowed, refused) = told(
            &json!({"grants": [{"produce": {"topics": ["bills"]}}]}),
            &own(),
            &sharing,
        );
        assert!(
            allowed == 1 && refused[0].contains("ask in namespace billing"),
            "Describe is part of it: {refused:?}"
        );
        assert_eq!(
            sharing
                .dependents(&Claim {
                    cluster: cluster(),
                    name: "bills".into()
                })
                .len(),
            1
        );
        let bills = user(&json!({"grants": [{"consume": {"topics": ["bills"]}}]}));
        let gone = sharing.standings(&bills, &cluster(), &image(), |_| false);
        assert_eq!(
            gone["bills"].owner, None,
            "a Topic that is not there owns and shares nothing"
        );
        told(
            &json!({"grants": [{"consume": {"topics": ["orders"]}}]}),
            &own(),
            &sharing,
        );
        assert!(
            sharing
                .dependents(&Claim {
                    cluster: cluster(),
                    name: "bills".into()
                })
                .is_empty(),
            "it names it no more"
        );
        sharing.forget(&bills);
        assert!(
            sharing
                .dependents(&Claim {
                    cluster: cluster(),
                    name: "orders".into()
                })
                .is_empty()
        );
        assert!(sharing.share("billing", "bills", &[]));
        assert_eq!(
            told(
                &json!({"grants": [{"consume": {"topics": ["bills"]}}]}),
                &own(),
                &sharing
            )
            .0,
            0
        );
    }

    #[test]
    fn a_naming_policy_gives_its_names() {
        let policy = Some(TopicNames {
            prefix: Some("{namespace}.".into()),
            pattern: None,
        });
        let access = Access {
            topic_names: policy,
            ..own()
        };
        let spec = json!({"grants": [{"produce": {"topics": ["shop.*", "shop.a"]}}, {"consume": {"topics": ["shop.a"], "groups": ["shop.g"]}}]});
        assert_eq!(
            told(&spec, &access, &Sharing::default()).1,
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_users_would_lose_is_listed() {
        let all = [
            user(&json!({"grants": [{"produce": {"topics": ["orders", "bills"]}}]})),
            user(&json!({"grants": [{"produce": {"topics": ["orders"]}}]})),
        ];
        let lines = losses(
            all.iter(),
            &Access::default(),
            &cluster(),
            &Sharing::default(),
            &image(),
        );
        assert_eq!(
            lines,
            ["User shop/app would lose Allow Write, Describe on Topic bills"]
        );
    }
}
