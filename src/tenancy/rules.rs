//! Computes the ACLs that a User's spec asks for, with the field that asks for each. Pure.

use crate::api::user::principal;
use crate::api::user::{
    AclOperation, AclPattern, AclPermission, AclResourceType, AclRule, AuthorizationMode, Grant,
    User,
};
use freehold_kafka::acl::AclBinding;
use freehold_kafka::grants::{
    self, ALTER, ALTER_CONFIGS, CREATE, DELETE, DESCRIBE, DESCRIBE_CONFIGS, GROUP, READ, TOPIC,
    TRANSACTIONAL_ID, WRITE,
};

/// Kafka's name of the only cluster resource.
const CLUSTER_RESOURCE: &str = "kafka-cluster";

/// An ACL as Kafka stores it, and the field that asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub field: String,
    pub acl: AclBinding,
}

/// All ACLs that the spec asks for; some may occur twice.
pub fn rules(object: &User, name: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut add = |field: String, acls: Vec<AclBinding>| {
        rules.extend(acls.into_iter().map(|acl| Rule {
            field: field.clone(),
            acl,
        }))
    };
    for (index, rule) in object.spec.acls.iter().enumerate() {
        let of = if rule.resource.kind == AclResourceType::Cluster {
            "resource"
        } else {
            "resource.name"
        };
        add(
            format!("spec.acls[{index}].{of}"),
            rule.operations
                .iter()
                .map(|operation| acl(rule, *operation, name))
                .collect(),
        );
    }
    for (index, one) in object.spec.grants.iter().enumerate() {
        for (field, acls) in grant(one, name) {
            add(format!("spec.grants[{index}].{field}"), acls);
        }
    }
    if object.spec.authorization.mode == AuthorizationMode::Shadow {
        add(
            "spec.authorization.mode".into(),
            grants::shadow(&principal(name)),
        );
    }
    rules
}

/// All ACLs that the spec asks for, each once, sorted.
pub fn acls(object: &User, name: &str) -> Vec<AclBinding> {
    let mut acls: Vec<_> = rules(object, name)
        .into_iter()
        .map(|rule| rule.acl)
        .collect();
    acls.sort_unstable();
    acls.dedup();
    acls
}

/// The ACLs of a grant, by its fields. Write permission implies idempotent writes since Kafka 2.8
/// (KIP-679).
fn grant(grant: &Grant, name: &str) -> Vec<(&'static str, Vec<AclBinding>)> {
    let principal = principal(name);
    let allow = |resource: i8, names: &[String], operations: &[i8]| {
        grants::allow(&principal, resource, names, operations)
    };
    let Grant {
        produce,
        consume,
        transactional,
        admin,
    } = grant;
    let mut acls = Vec::new();
    if let Some(produce) = produce {
        acls.push((
            "produce.topics",
            allow(TOPIC, &produce.topics, &[WRITE, DESCRIBE]),
        ));
    }
    if let Some(consume) = consume {
        acls.push((
            "consume.topics",
            allow(TOPIC, &consume.topics, &[READ, DESCRIBE]),
        ));
        acls.push((
            "consume.groups",
            allow(GROUP, &consume.groups, &[READ, DESCRIBE]),
        ));
    }
    if let Some(transactional) = transactional {
        acls.push((
            "transactional.ids",
            allow(TRANSACTIONAL_ID, &transactional.ids, &[WRITE, DESCRIBE]),
        ));
    }
    if let Some(admin) = admin {
        acls.push((
            "admin.topics",
            allow(
                TOPIC,
                &admin.topics,
                &[
                    CREATE,
                    DELETE,
                    ALTER,
                    DESCRIBE,
                    DESCRIBE_CONFIGS,
                    ALTER_CONFIGS,
                ],
            ),
        ));
        acls.push((
            "admin.groups",
            allow(GROUP, &admin.groups, &[READ, DELETE, DESCRIBE]),
        ));
    }
    acls
}

fn acl(rule: &AclRule, operation: AclOperation, name: &str) -> AclBinding {
    AclBinding {
        resource_type: match rule.resource.kind {
            AclResourceType::Topic => TOPIC,
            AclResourceType::Group => GROUP,
            AclResourceType::Cluster => grants::CLUSTER,
            AclResourceType::TransactionalId => TRANSACTIONAL_ID,
        },
        resource_name: rule
            .resource
            .name
            .clone()
            .unwrap_or_else(|| CLUSTER_RESOURCE.into()),
        pattern_type: match rule.resource.pattern {
            AclPattern::Literal => grants::LITERAL,
            AclPattern::Prefixed => grants::PREFIXED,
        },
        principal: principal(name),
        host: grants::host(&rule.host).unwrap_or_else(|| rule.host.clone()),
        operation: match operation {
            AclOperation::All => 2,
            AclOperation::Read => READ,
            AclOperation::Write => WRITE,
            AclOperation::Create => CREATE,
            AclOperation::Delete => DELETE,
            AclOperation::Alter => ALTER,
            AclOperation::Describe => DESCRIBE,
            AclOperation::ClusterAction => 9,
            AclOperation::DescribeConfigs => DESCRIBE_CONFIGS,
            AclOperation::AlterConfigs => ALTER_CONFIGS,
            AclOperation::IdempotentWrite => 12,
        },
        permission: match rule.permission {
            AclPermission::Deny => 2,
            AclPermission::Allow => 3,
        },
    }
}
