//! ACL bindings as Kafka stores them, and the changes that lead from one set of them to another.
//! Pure.

use std::collections::BTreeSet;

/// One ACL. The codes are Kafka's (`ResourceType`, `PatternType`, `AclOperation`,
/// `AclPermissionType`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AclBinding {
    pub resource_type: i8,
    pub resource_name: String,
    pub pattern_type: i8,
    /// `User:` followed by a name.
    pub principal: String,
    pub host: String,
    pub operation: i8,
    pub permission: i8,
}

/// Codes of `AclPermissionType`.
pub const DENY: i8 = 2;
pub const ALLOW: i8 = 3;

/// The ACLs to create and to delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AclChanges {
    pub create: Vec<AclBinding>,
    pub delete: Vec<AclBinding>,
}

impl AclChanges {
    /// True when there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }

    /// The ACLs to create, in order; create all of them before the first deletion. In this order an
    /// operation that both the old and the new ACLs allow is allowed all the time, and one that
    /// both deny is denied all the time: a Deny is created before the Allow that it limits, and
    /// deleted after it.
    pub fn creations(&self) -> Vec<Vec<AclBinding>> {
        in_order(&self.create, DENY)
    }

    /// The ACLs to delete, in order.
    pub fn deletions(&self) -> Vec<Vec<AclBinding>> {
        in_order(&self.delete, ALLOW)
    }
}

fn in_order(acls: &[AclBinding], first: i8) -> Vec<Vec<AclBinding>> {
    let (before, after): (Vec<_>, Vec<_>) = acls
        .iter()
        .cloned()
        .partition(|acl| acl.permission == first);
    [before, after]
        .into_iter()
        .filter(|some| !some.is_empty())
        .collect()
}

/// The changes from `found` to `wanted`. The order of the lists has no meaning.
pub fn changes(wanted: &[AclBinding], found: &[AclBinding]) -> AclChanges {
    let wanted: BTreeSet<_> = wanted.iter().collect();
    let found: BTreeSet<_> = found.iter().collect();
    AclChanges {
        create: wanted
            .difference(&found)
            .map(|acl| (*acl).clone())
            .collect(),
        delete: found
            .difference(&wanted)
            .map(|acl| (*acl).clone())
            .collect(),
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
        assert_eq!(
            changes,
            AclChanges {
                create: vec![acl("a")],
                delete: vec![acl("c")]
            }
        );
    }

    /// Whether these ACLs allow to read a topic.
    fn allows(acls: &BTreeSet<AclBinding>, topic: &str) -> bool {
        let matches = |acl: &&AclBinding| match acl.pattern_type {
            4 => topic.starts_with(&acl.resource_name),
            _ => acl.resource_name == topic || acl.resource_name == "*",
        };
        let some = |permission| {
            acls.iter()
                .filter(matches)
                .any(|acl| acl.permission == permission)
        };
        some(ALLOW) && !some(DENY)
    }

    #[test]
    fn what_both_allow_is_never_refused_meanwhile_and_what_both_refuse_is_never_allowed() {
        let rule = |name: &str, pattern_type, permission| AclBinding {
            pattern_type,
            permission,
            ..acl(name)
        };
        let rules = [
            rule("orders", 3, ALLOW),
            rule("orders", 4, ALLOW),
            rule("*", 3, ALLOW),
            rule("orders", 3, DENY),
            rule("orders-eu", 3, DENY),
            rule("orders", 4, DENY),
        ];
        let subset = |bits: usize| -> Vec<_> {
            (0..rules.len())
                .filter(|index| bits >> index & 1 == 1)
                .map(|index| rules[index].clone())
                .collect()
        };
        for (old, new) in (0..64).flat_map(|old| (0..64).map(move |new| (subset(old), subset(new))))
        {
            let (mut now, target): (BTreeSet<_>, BTreeSet<_>) =
                (old.iter().cloned().collect(), new.iter().cloned().collect());
            let before = now.clone();
            let changes = changes(&new, &old);
            let check = |now: &BTreeSet<AclBinding>| {
                for topic in ["orders", "orders-eu", "orders-us", "other"] {
                    let (was, will) = (allows(&before, topic), allows(&target, topic));
                    assert!(
                        was != will || allows(now, topic) == was,
                        "{topic} from {old:?} to {new:?} by {now:?}"
                    );
                }
            };
            // Kafka does not apply a request as a whole: each ACL takes effect by itself.
            for acl in changes.creations().concat() {
                now.insert(acl);
                check(&now);
            }
            for acl in changes.deletions().concat() {
                now.remove(&acl);
                check(&now);
            }
            assert_eq!(now, target);
        }
    }

    #[test]
    fn the_order_of_rules_means_nothing() {
        assert!(changes(&[acl("a"), acl("b")], &[acl("b"), acl("a")]).is_empty());
    }
}
