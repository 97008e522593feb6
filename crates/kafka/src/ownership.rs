//! The owner of a topic, principal or certificate, as Freehold records it in Kafka itself. Pure.
//!
//! The record is an ACL that affects no request: it denies a transactional id to the principal
//! `freehold.dev/owner`, which no client has. The id contains what is owned and by which object.
//! Only principals that may alter the cluster can write it, so no manifest, label or status of a
//! tenant can forge it. It survives the operator, the object, its namespace, and times when the
//! cluster is unreachable.

use super::acl::AclBinding;
use super::grants::{DESCRIBE, LITERAL, TRANSACTIONAL_ID};

/// Prefix of names that are reserved for Freehold.
pub const RESERVED: &str = "freehold.dev/";
const PRINCIPAL: &str = "User:freehold.dev/owner";
const PREFIX: &str = "freehold.dev/owner/";
const DENY: i8 = 2;

/// What is owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owned {
    Topic,
    Principal,
    /// A certificate in the name of a principal; it stays valid after everything else of the
    /// principal is deleted. The uid of its owner is the time when it expires, in seconds since
    /// 1970.
    Certificate,
}

/// The number of variants.
pub const OWNED_COUNT: usize = 3;

impl Owned {
    fn word(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Principal => "user",
            Self::Certificate => "certificate",
        }
    }
}

/// The Topic or User that is the owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Owner {
    /// True for the same object, or for another one with the same namespace and name.
    pub fn is_namesake(&self, other: &Self) -> bool {
        (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The ACL that records an owner. `name` is that of the topic, or of the principal without `User:`.
pub fn mark(owned: Owned, name: &str, owner: &Owner) -> AclBinding {
    let Owner {
        namespace,
        name: object,
        uid,
    } = owner;
    AclBinding {
        resource_type: TRANSACTIONAL_ID,
        resource_name: format!("{PREFIX}{}/{namespace}/{object}/{uid}/{name}", owned.word()),
        pattern_type: LITERAL,
        principal: PRINCIPAL.into(),
        host: "*".into(),
        operation: DESCRIBE,
        permission: DENY,
    }
}

/// The owner that an ACL records; `None` for every other ACL. The name comes last, because a
/// principal's name may contain slashes.
pub fn read(acl: &AclBinding) -> Option<(Owned, String, Owner)> {
    let mut parts = acl.resource_name.strip_prefix(PREFIX)?.splitn(5, '/');
    let mut next = || parts.next().map(str::to_owned);
    let owned = match next()?.as_str() {
        "topic" => Owned::Topic,
        "user" => Owned::Principal,
        "certificate" => Owned::Certificate,
        _ => return None,
    };
    let owner = Owner {
        namespace: next()?,
        name: next()?,
        uid: next()?,
    };
    let name = next()?;
    (mark(owned, &name, &owner) == *acl).then_some((owned, name, owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_and_no_other_acl_is_one() {
        let owner = Owner {
            namespace: "shop".into(),
            name: "orders.v1".into(),
            uid: "u-1".into(),
        };
        for (owned, name) in [
            (Owned::Topic, "shop.orders"),
            (Owned::Principal, "CN/with/slashes"),
            (Owned::Certificate, "app"),
        ] {
            let acl = mark(owned, name, &owner);
            assert_eq!(read(&acl), Some((owned, name.to_owned(), owner.clone())));
            for other in [
                AclBinding {
                    permission: 3,
                    ..acl.clone()
                },
                AclBinding {
                    principal: "User:a".into(),
                    ..acl.clone()
                },
                AclBinding {
                    host: "10.0.0.7".into(),
                    ..acl.clone()
                },
                AclBinding {
                    resource_name: "freehold.dev/owner/topic/shop".into(),
                    ..acl.clone()
                },
            ] {
                assert_eq!(read(&other), None);
            }
        }
    }
}
