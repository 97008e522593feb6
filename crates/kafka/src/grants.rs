//! Turns the short form of rights into ACLs, and ACLs into text. Pure.

use super::acl::AclBinding;
use std::net::{IpAddr, Ipv6Addr};

/// Codes of Kafka's `ResourceType`.
pub const TOPIC: i8 = 2;
pub const GROUP: i8 = 3;
pub const CLUSTER: i8 = 4;
pub const TRANSACTIONAL_ID: i8 = 5;
/// Codes of `PatternType`.
pub const LITERAL: i8 = 3;
pub const PREFIXED: i8 = 4;
/// Codes of `AclOperation`.
pub const READ: i8 = 3;
pub const WRITE: i8 = 4;
pub const CREATE: i8 = 5;
pub const DELETE: i8 = 6;
pub const ALTER: i8 = 7;
pub const DESCRIBE: i8 = 8;
pub const DESCRIBE_CONFIGS: i8 = 10;
pub const ALTER_CONFIGS: i8 = 11;
const ALLOW: i8 = 3;

/// The transactional id that marks shadow mode: if a principal may describe it, the broker's
/// ShadowAuthorizer, which knows this name, allows what it would deny, and reports it.
pub const SHADOW_MARK: &str = "freehold.dev/shadow";

/// The resource name and pattern type of a name. A `*` at the end makes it a prefix; `*` alone
/// means all resources in Kafka.
pub fn pattern(name: &str) -> (String, i8) {
    match name.strip_suffix('*') {
        Some("") | None => (name.to_owned(), LITERAL),
        Some(prefix) => (prefix.to_owned(), PREFIXED),
    }
}

/// ACLs that allow these operations on resources with these names, from any host.
pub fn allow(
    principal: &str,
    resource_type: i8,
    names: &[String],
    operations: &[i8],
) -> Vec<AclBinding> {
    let binding = |name: &String, operation: i8| {
        let (resource_name, pattern_type) = pattern(name);
        AclBinding {
            resource_type,
            resource_name,
            pattern_type,
            principal: principal.to_owned(),
            host: "*".into(),
            operation,
            permission: ALLOW,
        }
    };
    names
        .iter()
        .flat_map(|name| {
            operations
                .iter()
                .map(move |operation| binding(name, *operation))
        })
        .collect()
}

/// A host in the form that Kafka compares with a client's address: Java writes IPv6 addresses
/// without `::`. `None`: not an address.
pub fn host(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    let java = |address: Ipv6Addr| {
        address
            .segments()
            .map(|segment| format!("{segment:x}"))
            .join(":")
    };
    Some(match text.parse().ok()? {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address
            .to_ipv4_mapped()
            .map_or_else(|| java(address), |address| address.to_string()),
    })
}

fn word<'a>(code: i8, words: &[(i8, &'a str)]) -> &'a str {
    words
        .iter()
        .find(|(known, _)| *known == code)
        .map_or("?", |(_, word)| word)
}

/// The ACL that puts a principal in shadow mode.
pub fn shadow(principal: &str) -> Vec<AclBinding> {
    allow(
        principal,
        TRANSACTIONAL_ID,
        &[SHADOW_MARK.to_owned()],
        &[DESCRIBE],
    )
}

/// The operations that would be denied, one line for each resource: `Write on Topic orders`. A
/// resource type without a name means that the ACLs allow the operation on no resource of that
/// type.
pub fn refusals(acls: &[AclBinding]) -> Vec<String> {
    let mut anywhere: Vec<_> = acls
        .iter()
        .map(|acl| AclBinding {
            host: "*".into(),
            ..acl.clone()
        })
        .collect();
    anywhere.sort_unstable();
    anywhere.dedup();
    words(&anywhere)
        .into_iter()
        .map(|line| {
            line.trim_start_matches("Deny ")
                .trim_end_matches(" *")
                .to_owned()
        })
        .collect()
}

/// The ACLs of each resource in one line, in order: `Allow Read, Describe on Topic shop.* from *`.
pub fn words(acls: &[AclBinding]) -> Vec<String> {
    const RESOURCES: [(i8, &str); 4] = [
        (TOPIC, "Topic"),
        (GROUP, "Group"),
        (CLUSTER, "Cluster"),
        (TRANSACTIONAL_ID, "TransactionalId"),
    ];
    const OPERATIONS: [(i8, &str); 11] = [
        (2, "All"),
        (READ, "Read"),
        (WRITE, "Write"),
        (CREATE, "Create"),
        (DELETE, "Delete"),
        (ALTER, "Alter"),
        (DESCRIBE, "Describe"),
        (9, "ClusterAction"),
        (DESCRIBE_CONFIGS, "DescribeConfigs"),
        (ALTER_CONFIGS, "AlterConfigs"),
        (12, "IdempotentWrite"),
    ];
    let mut lines: Vec<(String, Vec<&str>, String)> = Vec::new();
    for acl in acls {
        let permission = if acl.permission == ALLOW {
            "Allow"
        } else {
            "Deny"
        };
        let star = if acl.pattern_type == PREFIXED {
            "*"
        } else {
            ""
        };
        let host = if acl.host == "*" {
            String::new()
        } else {
            format!(" from {}", acl.host)
        };
        let on = format!(
            " on {} {}{star}{host}",
            word(acl.resource_type, &RESOURCES),
            acl.resource_name
        );
        let operation = word(acl.operation, &OPERATIONS);
        match lines
            .iter_mut()
            .find(|(known, _, end)| known == permission && *end == on)
        {
            Some((_, operations, _)) => operations.push(operation),
            None => lines.push((permission.to_owned(), vec![operation], on)),
        }
    }
    lines
        .into_iter()
        .map(|(permission, operations, on)| format!("{permission} {}{on}", operations.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_is_a_prefix_and_alone_it_is_all() {
        assert_eq!(pattern("shop.*"), ("shop.".to_owned(), PREFIXED));
        assert_eq!(pattern("shop"), ("shop".to_owned(), LITERAL));
        assert_eq!(pattern("*"), ("*".to_owned(), LITERAL));
    }

    #[test]
    fn hosts_are_written_as_java_writes_them() {
        let known = [
            ("*", "*"),
            ("10.0.0.7", "10.0.0.7"),
            ("2001:db8::1", "2001:db8:0:0:0:0:0:1"),
            ("2001:0DB8:0:0:0:0:0:00A1", "2001:db8:0:0:0:0:0:a1"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
        ];
        for (written, expected) in known {
            assert_eq!(host(written).as_deref(), Some(expected), "{written}");
        }
        for text in [
            "",
            "app",
            "app.example.com",
            "10.0.0.0/8",
            "10.0.0",
            "10.0.0.07",
            "[::1]",
            "**",
            "1.2.3.4:80",
        ] {
            assert_eq!(host(text), None, "{text}");
        }
    }

    #[test]
    fn refusals_are_told_by_resource_whatever_the_host() {
        let mut acls = allow(
            "User:a",
            TOPIC,
            &["orders".to_owned(), "*".to_owned()],
            &[WRITE],
        );
        acls.push(AclBinding {
            host: "10.0.0.7".into(),
            ..acls[0].clone()
        });
        acls.iter_mut().for_each(|acl| acl.permission = 2);
        assert_eq!(refusals(&acls), ["Write on Topic", "Write on Topic orders"]);
    }

    #[test]
    fn rules_of_a_resource_are_one_line() {
        let acls = allow("User:a", TOPIC, &["shop.*".to_owned()], &[READ, DESCRIBE]);
        assert_eq!(words(&acls), ["Allow Read, Describe on Topic shop.*"]);
    }
}
