//! What a User lacks for a Pipeline that names it. Pure.

use freehold_kafka::acl::{AclBinding, DENY};
use freehold_kafka::grants::{GROUP, PREFIXED, READ, TOPIC, TRANSACTIONAL_ID, WRITE};
use freehold_pipeline::rights::Rights;

/// All operations, in Kafka's numbers (`AclOperation`).
const ALL: i8 = 2;

/// The rights that these ACLs do not give, in words. `groups`: the consumer groups of the stages,
/// which are also the prefixes of their transactional ids.
pub fn lacking(rights: &Rights, groups: &[String], acls: &[AclBinding]) -> Vec<String> {
    let mut lacking = Vec::new();
    let mut need = |kind: i8, name: &str, operation: i8, words: String| {
        if !allows(acls, kind, name, operation) {
            lacking.push(words);
        }
    };
    for topic in &rights.read {
        need(TOPIC, topic, READ, format!("Read on Topic {topic}"));
    }
    for topic in &rights.write {
        need(TOPIC, topic, WRITE, format!("Write on Topic {topic}"));
    }
    for group in groups {
        need(GROUP, group, READ, format!("Read on Group {group}"));
        if rights.transactional {
            let words = format!("Write on TransactionalId {group}.*");
            need(TRANSACTIONAL_ID, &format!("{group}.0"), WRITE, words);
        }
    }
    lacking
}

/// Whether a principal with these ACLs may do this (KIP-11): a Deny wins.
fn allows(acls: &[AclBinding], kind: i8, name: &str, operation: i8) -> bool {
    let mut allowed = false;
    for acl in acls {
        let of_name = match acl.pattern_type {
            PREFIXED => name.starts_with(&acl.resource_name),
            _ => acl.resource_name == name || acl.resource_name == "*",
        };
        let of_operation = acl.operation == operation || acl.operation == ALL;
        if acl.resource_type != kind || !of_name || !of_operation {
            continue;
        }
        if acl.permission == DENY {
            return false;
        }
        allowed = true;
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_kafka::acl::ALLOW;
    use freehold_kafka::grants::LITERAL;

    fn acl(kind: i8, name: &str, pattern: i8, operation: i8, permission: i8) -> AclBinding {
        AclBinding {
            resource_type: kind,
            resource_name: name.to_owned(),
            pattern_type: pattern,
            principal: "User:app".to_owned(),
            host: "*".to_owned(),
            operation,
            permission,
        }
    }

    #[test]
    fn what_is_lacking_is_said_and_a_deny_wins() {
        let rights = Rights {
            read: ["in".to_owned()].into(),
            write: ["out".to_owned(), "bad".to_owned()].into(),
            prefix: "shop.orders.".to_owned(),
            transactional: true,
        };
        let groups = ["shop.orders.in".to_owned()];
        let mut acls = vec![
            acl(TOPIC, "in", LITERAL, READ, ALLOW),
            acl(TOPIC, "*", LITERAL, WRITE, ALLOW),
            acl(GROUP, "shop.", PREFIXED, ALL, ALLOW),
            acl(TRANSACTIONAL_ID, "shop.orders.", PREFIXED, WRITE, ALLOW),
        ];
        assert_eq!(lacking(&rights, &groups, &acls), Vec::<String>::new());
        acls.push(acl(TOPIC, "out", LITERAL, WRITE, DENY));
        acls.remove(2);
        let all = ["Write on Topic out", "Read on Group shop.orders.in"];
        assert_eq!(lacking(&rights, &groups, &acls), all);
    }
}
