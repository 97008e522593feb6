//! Whose Topics and Users may refer to a cluster. Pure.

use crate::kinds::kafka_cluster::api::{AccessFrom, NamespaceAccess};
use std::collections::BTreeMap;

/// True when objects of `namespace` (with `labels`) may refer to a cluster of `cluster_namespace`.
pub fn allowed(access: &NamespaceAccess, cluster_namespace: &str, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
    if cluster_namespace == namespace {
        return true;
    }
    match access.from {
        AccessFrom::Same => false,
        AccessFrom::All => true,
        AccessFrom::Selector => {
            // Kubernetes gives every namespace this label; it is known even where labels cannot be read.
            let mut labels = labels.clone();
            labels.insert("kubernetes.io/metadata.name".into(), namespace.into());
            let selector = access.selector.match_labels.iter();
            !access.selector.match_labels.is_empty() && selector.clone().all(|(key, value)| labels.get(key) == Some(value))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::kafka_cluster::api::LabelMatch;

    fn access(from: AccessFrom, labels: &[(&str, &str)]) -> NamespaceAccess {
        let match_labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        NamespaceAccess { from, selector: LabelMatch { match_labels } }
    }

    #[test]
    fn the_cluster_s_own_namespace_is_always_allowed() {
        assert!(allowed(&access(AccessFrom::Same, &[]), "kafka", "kafka", &BTreeMap::new()));
        assert!(!allowed(&access(AccessFrom::Same, &[]), "kafka", "shop", &BTreeMap::new()));
        assert!(allowed(&access(AccessFrom::All, &[]), "kafka", "shop", &BTreeMap::new()));
    }

    #[test]
    fn a_selector_needs_every_label_and_an_empty_one_selects_nothing() {
        let team = BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
        assert!(allowed(&access(AccessFrom::Selector, &[("team", "shop")]), "kafka", "a", &team));
        assert!(!allowed(&access(AccessFrom::Selector, &[("team", "x")]), "kafka", "a", &team));
        assert!(!allowed(&access(AccessFrom::Selector, &[]), "kafka", "a", &team));
        assert!(allowed(&access(AccessFrom::Selector, &[("kubernetes.io/metadata.name", "a")]), "kafka", "a", &BTreeMap::new()));
    }
}
