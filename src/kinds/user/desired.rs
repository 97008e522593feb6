//! Valid user -> its ACLs, and the Secret for a credential. Pure; cannot fail.

use super::api::{AclOperation, AclPattern, AclPermission, AclResourceType, AclRule, User};
use super::validate::{ValidUser, principal};
use crate::certificates::KeyedCertificate;
use crate::kafka::acl::AclBinding;
use crate::kafka::properties;
use crate::kube_io::{self, Object};
use crate::labels;
use crate::runtime::clusters::ClusterFacts;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

pub const PASSWORD: &str = "password";
pub const CERTIFICATE: &str = "user.crt";
pub const KEY: &str = "user.key";
/// Kafka's name of the one cluster resource.
const CLUSTER_RESOURCE: &str = "kafka-cluster";

/// What proves who the user is. No `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password(String),
    Certificate(KeyedCertificate),
}

/// Every rule as Kafka stores it.
pub fn acls(object: &User, name: &str) -> Vec<AclBinding> {
    let mut acls: Vec<_> =
        object.spec.acls.iter().flat_map(|rule| rule.operations.iter().map(move |operation| acl(rule, *operation, name))).collect();
    acls.sort_unstable();
    acls.dedup();
    acls
}

fn acl(rule: &AclRule, operation: AclOperation, name: &str) -> AclBinding {
    AclBinding {
        resource_type: match rule.resource.kind {
            AclResourceType::Topic => 2,
            AclResourceType::Group => 3,
            AclResourceType::Cluster => 4,
            AclResourceType::TransactionalId => 5,
        },
        resource_name: rule.resource.name.clone().unwrap_or_else(|| CLUSTER_RESOURCE.into()),
        pattern_type: match rule.resource.pattern {
            AclPattern::Literal => 3,
            AclPattern::Prefixed => 4,
        },
        principal: principal(name),
        host: rule.host.clone(),
        operation: match operation {
            AclOperation::All => 2,
            AclOperation::Read => 3,
            AclOperation::Write => 4,
            AclOperation::Create => 5,
            AclOperation::Delete => 6,
            AclOperation::Alter => 7,
            AclOperation::Describe => 8,
            AclOperation::ClusterAction => 9,
            AclOperation::DescribeConfigs => 10,
            AclOperation::AlterConfigs => 11,
            AclOperation::IdempotentWrite => 12,
        },
        permission: match rule.permission {
            AclPermission::Deny => 2,
            AclPermission::Allow => 3,
        },
    }
}

/// The Secret, by the Service Binding specification (<https://servicebinding.io/spec/core/1.1.0/>): everything that a
/// client needs, and a client.properties that is ready to use.
pub fn secret(object: &User, user: &ValidUser, cluster: &ClusterFacts, credential: &Credential) -> Object {
    let mut data = BTreeMap::from([
        ("type".to_owned(), "kafka".to_owned()),
        ("bootstrapServers".to_owned(), user.listener.bootstrap.clone()),
        ("ca.crt".to_owned(), cluster.trust_bundle.clone()),
        ("username".to_owned(), user.name.clone()),
        ("client.properties".to_owned(), properties::render(&client_properties(user, cluster, credential))),
    ]);
    match credential {
        Credential::Password(password) => {
            data.insert(PASSWORD.into(), password.clone());
        }
        Credential::Certificate(issued) => {
            data.insert(CERTIFICATE.into(), issued.certificate.clone());
            data.insert(KEY.into(), issued.key.clone());
        }
    }
    let labels = [
        ("app.kubernetes.io/name", "kafka-user"),
        ("app.kubernetes.io/instance", &user.name),
        (labels::MANAGED_BY, "freehold"),
        (labels::USER, &user.name),
    ];
    Object::of(&Secret {
        metadata: ObjectMeta {
            name: Some(user.secret.clone()),
            namespace: object.metadata.namespace.clone(),
            labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
            owner_references: Some(vec![kube_io::owner(object)]),
            ..Default::default()
        },
        type_: Some("servicebinding.io/kafka".into()),
        data: Some(data.into_iter().map(|(key, value)| (key, ByteString(value.into_bytes()))).collect()),
        ..Default::default()
    })
}

fn client_properties(user: &ValidUser, cluster: &ClusterFacts, credential: &Credential) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        properties.insert(key.to_owned(), value);
    };
    set("bootstrap.servers", user.listener.bootstrap.clone());
    set("ssl.truststore.type", "PEM".into());
    set("ssl.truststore.certificates", cluster.trust_bundle.clone());
    match credential {
        Credential::Password(password) => {
            set("security.protocol", "SASL_SSL".into());
            set("sasl.mechanism", "SCRAM-SHA-512".into());
            let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
            set("sasl.jaas.config", format!("{module} required username=\"{}\" password=\"{password}\";", user.name));
        }
        Credential::Certificate(issued) => {
            set("security.protocol", "SSL".into());
            set("ssl.keystore.type", "PEM".into());
            set("ssl.keystore.certificate.chain", issued.certificate.clone());
            set("ssl.keystore.key", issued.key.clone());
        }
    }
    properties
}
