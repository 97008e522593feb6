//! Decides which namespaces' Topics and Users may refer to a cluster, and which names they may
//! have. Pure.

use crate::api::kafka_cluster::{Access, AccessFrom, NamespaceAccess, RightsPolicy, TopicNames};
use crate::api::reference::ClusterKey;
use freehold_kafka::ownership::RESERVED;
use regex::Regex;
use std::collections::BTreeMap;

/// True if objects of `namespace` (with `labels`) may refer to a cluster in `cluster_namespace`.
pub fn allowed(
    access: &NamespaceAccess,
    cluster_namespace: &str,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    if cluster_namespace == namespace {
        return true;
    }
    match access.from {
        AccessFrom::Same => false,
        AccessFrom::All => true,
        AccessFrom::Selector => {
            // Kubernetes sets this label on every namespace, so it is known even if labels cannot
            // be read.
            let mut labels = labels.clone();
            labels.insert("kubernetes.io/metadata.name".into(), namespace.into());
            let selector = access.selector.match_labels.iter();
            !access.selector.match_labels.is_empty()
                && selector
                    .clone()
                    .all(|(key, value)| labels.get(key) == Some(value))
        }
    }
}

/// Why objects of a namespace may not adopt something that exists in Kafka without a recorded
/// owner; `None` if they may. It may belong to anybody, so only these may adopt it: the cluster's
/// own namespace, a namespace that a naming policy restricts to its own names, and every namespace
/// if the cluster's `access.rights` is `Any`.
pub fn refuse_adoption(
    access: &Access,
    at_home: bool,
    policy: Option<&TopicNames>,
    cluster: &ClusterKey,
) -> Option<String> {
    let may = at_home || policy.is_some() || access.rights == Some(RightsPolicy::Any);
    (!may).then(|| {
        format!(
            "it may belong to somebody else, so objects of this namespace cannot take it over (access.rights is Own); take another name, or ask \
             the owner of KafkaCluster {cluster}: an object in that namespace can"
        )
    })
}

/// Why objects of a namespace may not be the principal of this name; `None` if they may. What such
/// an object had is revoked.
pub fn refuse_principal(
    access: &Access,
    super_users: &[String],
    at_home: bool,
    namespace: &str,
    name: &str,
) -> Option<String> {
    if name.starts_with(RESERVED) {
        return Some(format!("{name} is Freehold's own; take another name"));
    }
    if at_home {
        return None;
    }
    if super_users.iter().any(|user| user == name) {
        return Some(format!(
            "{name} is a super user of the cluster, which only a User in the cluster's own namespace may be; take another name"
        ));
    }
    let policy = access.principal_names.as_ref()?;
    let why = refuse_name(policy, namespace, name, false)?;
    Some(format!("{name}: {why}"))
}

/// Why a naming policy does not allow a name in a namespace; `None` if it does. With `prefix`, the
/// name stands for all names that begin with it.
pub fn refuse_name(
    policy: &TopicNames,
    namespace: &str,
    name: &str,
    prefix: bool,
) -> Option<String> {
    let fill = |text: &str| text.replace("{namespace}", namespace);
    if let Some(wanted) = policy.prefix.as_deref().map(fill) {
        return (!name.starts_with(&wanted)).then(|| {
            format!("the cluster wants names of this namespace to begin with {wanted:?}")
        });
    }
    let pattern = policy
        .pattern
        .as_deref()
        .map(|pattern| pattern.replace("{namespace}", &regex::escape(namespace)))?;
    if prefix {
        return Some(
            "the cluster's policy is a pattern, which no prefix can be checked against; name each"
                .into(),
        );
    }
    match name_pattern(&pattern) {
        Ok(regex) if regex.is_match(name) => None,
        Ok(_) => Some(format!(
            "the cluster wants names of this namespace to match {pattern:?}"
        )),
        Err(why) => Some(format!("the cluster's policy cannot be read ({why})")),
    }
}

/// Compiles a pattern, which must match the whole name. Returns the regex error as text.
pub fn name_pattern(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{})$", pattern.replace("{namespace}", "x")))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::LabelMatch;

    fn access(from: AccessFrom, labels: &[(&str, &str)]) -> NamespaceAccess {
        let match_labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        NamespaceAccess {
            from,
            selector: LabelMatch { match_labels },
        }
    }

    #[test]
    fn the_cluster_s_own_namespace_is_always_allowed() {
        assert!(allowed(
            &access(AccessFrom::Same, &[]),
            "kafka",
            "kafka",
            &BTreeMap::new()
        ));
        assert!(!allowed(
            &access(AccessFrom::Same, &[]),
            "kafka",
            "shop",
            &BTreeMap::new()
        ));
        assert!(allowed(
            &access(AccessFrom::All, &[]),
            "kafka",
            "shop",
            &BTreeMap::new()
        ));
    }

    #[test]
    fn a_selector_needs_every_label_and_an_empty_one_selects_nothing() {
        let team = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
        assert!(allowed(
            &access(AccessFrom::Selector, &[("team", "shop")]),
            "kafka",
            "a",
            &team
        ));
        assert!(!allowed(
            &access(AccessFrom::Selector, &[("team", "x")]),
            "kafka",
            "a",
            &team
        ));
        assert!(!allowed(
            &access(AccessFrom::Selector, &[]),
            "kafka",
            "a",
            &team
        ));
        assert!(allowed(
            &access(
                AccessFrom::Selector,
                &[("kubernetes.io/metadata.name", "a")]
            ),
            "kafka",
            "a",
            &BTreeMap::new()
        ));
    }

    #[test]
    fn names_follow_the_policy_of_the_cluster() {
        let prefix = TopicNames {
            prefix: Some("{namespace}.".into()),
            pattern: None,
        };
        assert_eq!(refuse_name(&prefix, "shop", "shop.orders", false), None);
        assert_eq!(refuse_name(&prefix, "shop", "shop.", true), None);
        assert!(
            refuse_name(&prefix, "shop", "shopping", false)
                .unwrap()
                .contains("\"shop.\"")
        );
        let pattern = TopicNames {
            prefix: None,
            pattern: Some("{namespace}[.][a-z]+".into()),
        };
        assert_eq!(refuse_name(&pattern, "a-b", "a-b.orders", false), None);
        assert!(refuse_name(&pattern, "a-b", "x.a-b.orders", false).is_some());
        assert!(refuse_name(&pattern, "a-b", "a-b.", true).is_some());
    }
}
