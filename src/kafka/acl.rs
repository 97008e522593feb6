//! ACL bindings as Kafka stores them, and what must change to get from some to others. Pure.

use std::collections::BTreeSet;

/// One ACL. The codes are Kafka's (`ResourceType`, `PatternType`, `AclOperation`, `AclPermissionType`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AclBinding {
    pub resource_type: i8,
    pub resource_name: String,
    pub pattern_type: i8,
    /// `User:` and a name.
    pub principal: String,
    pub host: String,
    pub operation: i8,
    pub permission: i8,
}

/// What to create and what to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclChanges {
    pub create: Vec<AclBinding>,
    pub delete: Vec<AclBinding>,
}

impl AclChanges {
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

/// From `found` to `wanted`. The order of lists means nothing.
pub fn changes(wanted: &[AclBinding], found: &[AclBinding]) -> AclChanges {
    let wanted: BTreeSet<_> = wanted.iter().collect();
    let found: BTreeSet<_> = found.iter().collect();
    AclChanges {
        create: wanted.difference(&found).map(|acl| (*acl).clone()).collect(),
        delete: found.difference(&wanted).map(|acl| (*acl).clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(name: &str) -> AclBinding {
        AclBinding {
            resource_type: 2,
            resource_name: name.into(),
            pattern_type: 3,
            principal: "User:a".into(),
            host: "*".into(),
            operation: 3,
            permission: 3,
        }
    }

    #[test]
    fn only_differences_are_changed() {
        let changes = changes(&[acl("a"), acl("b")], &[acl("b"), acl("c")]);
        assert_eq!(changes, AclChanges { create: vec![acl("a")], delete: vec![acl("c")] });
    }

    #[test]
    fn the_order_of_rules_means_nothing() {
        assert!(changes(&[acl("a"), acl("b")], &[acl("b"), acl("a")]).is_empty());
    }
}
