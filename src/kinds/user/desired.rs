//! Valid user -> its ACLs, and the Secret for a credential. Pure; cannot fail.

use super::api::{AclOperation, AclPattern, AclPermission, AclResourceType, AclRule, AuthorizationMode, Grant, User};
use super::secrets::{self, Marks};
use super::validate::{ValidUser, principal};
use crate::certificates::KeyedCertificate;
use crate::kafka::acl::AclBinding;
use crate::kafka::grants::{
    self, ALTER, ALTER_CONFIGS, CREATE, DELETE, DESCRIBE, DESCRIBE_CONFIGS, GROUP, READ, TOPIC, TRANSACTIONAL_ID, WRITE,
};
use crate::kafka::properties;
use crate::kube_io;
use crate::labels;
use crate::runtime::clusters::ClusterFacts;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// Kafka's name of the one cluster resource.
const CLUSTER_RESOURCE: &str = "kafka-cluster";

/// What proves who the user is. No `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password(String),
    Certificate(KeyedCertificate),
    /// Somebody else's business.
    External,
}

/// The stores of a Secret that has them as PKCS#12, and their password. No `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Pkcs12 {
    pub truststore: Vec<u8>,
    pub keystore: Option<Vec<u8>>,
    pub password: String,
}

/// Every rule as Kafka stores it.
pub fn acls(object: &User, name: &str) -> Vec<AclBinding> {
    let rules = object.spec.acls.iter().flat_map(|rule| rule.operations.iter().map(move |operation| acl(rule, *operation, name)));
    let mut acls: Vec<_> = rules.chain(object.spec.grants.iter().flat_map(|one| grant(one, name))).collect();
    if object.spec.authorization.mode == AuthorizationMode::Shadow {
        acls.extend(grants::shadow(&principal(name)));
    }
    acls.sort_unstable();
    acls.dedup();
    acls
}

/// What a grant becomes. Writing implies being idempotent since Kafka 2.8 (KIP-679).
fn grant(grant: &Grant, name: &str) -> Vec<AclBinding> {
    let principal = principal(name);
    let allow = |resource: i8, names: &[String], operations: &[i8]| grants::allow(&principal, resource, names, operations);
    let Grant { produce, consume, transactional, admin } = grant;
    let mut acls = Vec::new();
    if let Some(produce) = produce {
        acls.extend(allow(TOPIC, &produce.topics, &[WRITE, DESCRIBE]));
    }
    if let Some(consume) = consume {
        acls.extend(allow(TOPIC, &consume.topics, &[READ, DESCRIBE]));
        acls.extend(allow(GROUP, &consume.groups, &[READ, DESCRIBE]));
    }
    if let Some(transactional) = transactional {
        acls.extend(allow(TRANSACTIONAL_ID, &transactional.ids, &[WRITE, DESCRIBE]));
    }
    if let Some(admin) = admin {
        acls.extend(allow(TOPIC, &admin.topics, &[CREATE, DELETE, ALTER, DESCRIBE, DESCRIBE_CONFIGS, ALTER_CONFIGS]));
        acls.extend(allow(GROUP, &admin.groups, &[READ, DELETE, DESCRIBE]));
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
        resource_name: rule.resource.name.clone().unwrap_or_else(|| CLUSTER_RESOURCE.into()),
        pattern_type: match rule.resource.pattern {
            AclPattern::Literal => grants::LITERAL,
            AclPattern::Prefixed => grants::PREFIXED,
        },
        principal: principal(name),
        host: rule.host.clone(),
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

/// Counts the changes of what a Secret says of the same inputs: with another number every Secret is written anew.
const LAYOUT: &str = "2";

/// A hash of everything that a Secret is made from, but for the credential itself: another means that it is written anew.
pub fn inputs(object: &User, user: &ValidUser, cluster: &ClusterFacts) -> String {
    let authority = certificates_authority(user, cluster);
    let template = serde_json::to_string(&object.spec.secret).expect("a spec serializes");
    let parts =
        [LAYOUT, &user.name, &format!("{:?}", user.authentication), &user.listener.bootstrap, &cluster.trust_bundle, authority, &template];
    secrets::digest(parts.into_iter().map(str::as_bytes))
}

/// The CA whose certificate a user has: another one means another certificate.
fn certificates_authority<'a>(user: &ValidUser, cluster: &'a ClusterFacts) -> &'a str {
    match user.authentication {
        super::api::UserAuthenticationType::MutualTls => &cluster.clients_ca.certificate,
        _ => "",
    }
}

/// The Secret, by the Service Binding specification (<https://servicebinding.io/spec/core/1.1.0/>): everything that a
/// client needs, and a client.properties that is ready to use. `marks` say what the credential is; the rest of them is
/// filled in.
pub fn secret(
    object: &User,
    user: &ValidUser,
    cluster: &ClusterFacts,
    credential: &Credential,
    stores: Option<&Pkcs12>,
    marks: Marks,
) -> Secret {
    let mut data = BTreeMap::new();
    let mut put = |key: &str, value: &[u8]| {
        let name = object.spec.secret.keys.get(key).map_or(key, String::as_str);
        data.insert(name.to_owned(), ByteString(value.to_vec()));
    };
    put("type", b"kafka");
    put("bootstrapServers", user.listener.bootstrap.as_bytes());
    put("ca.crt", cluster.trust_bundle.as_bytes());
    put("username", user.name.as_bytes());
    put("client.properties", properties::render(&client_properties(user, cluster, credential)).as_bytes());
    match credential {
        Credential::Password(password) => put("password", password.as_bytes()),
        Credential::Certificate(issued) => {
            put("user.crt", issued.certificate.as_bytes());
            put("user.key", issued.key.as_bytes());
        }
        Credential::External => {}
    }
    if let Some(stores) = stores {
        put("truststore.p12", &stores.truststore);
        stores.keystore.iter().for_each(|keystore| put("keystore.p12", keystore));
        put("pkcs12.password", stores.password.as_bytes());
    }
    let marks = Marks { inputs: inputs(object, user, cluster), content: secrets::content(data.iter()), ..marks };
    Secret {
        metadata: ObjectMeta {
            name: Some(user.secret.clone()),
            namespace: object.metadata.namespace.clone(),
            labels: Some(secret_labels(object)),
            annotations: Some(secret_annotations(object, marks)),
            owner_references: Some(vec![kube_io::owner(object)]),
            ..Default::default()
        },
        type_: Some("servicebinding.io/kafka".into()),
        data: Some(data),
        ..Default::default()
    }
}

fn secret_labels(object: &User) -> BTreeMap<String, String> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let own = [
        ("app.kubernetes.io/name", "kafka-user"),
        ("app.kubernetes.io/instance", name),
        (labels::MANAGED_BY, "freehold"),
        (labels::USER, name),
    ];
    let mut all = object.spec.secret.metadata.labels.clone();
    all.extend(own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
    all
}

fn secret_annotations(object: &User, marks: Marks) -> BTreeMap<String, String> {
    let Marks { inputs, content, credential, since, not_after, rotated, given } = marks;
    let own = [
        (labels::SECRET_INPUTS, Some(inputs)),
        (labels::SECRET_CONTENT, Some(content)),
        (labels::SECRET_CREDENTIAL, (!credential.is_empty()).then_some(credential)),
        (labels::SECRET_SINCE, since.map(|time| time.to_string())),
        (labels::SECRET_NOT_AFTER, not_after.map(|time| time.to_string())),
        (labels::SECRET_ROTATED, rotated),
        (labels::SECRET_GIVEN, given),
    ];
    let mut all = object.spec.secret.metadata.annotations.clone();
    all.extend(own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    all
}

/// How long a client waits for a connection, in milliseconds: a broker that restarts is gone from its address for some seconds,
/// and a client that waits for an answer from there takes no notice of it before this is over. By default it waits 10 s, then up
/// to 30 s (KIP-601).
const SETUP_TIMEOUTS: [(&str, u32); 2] = [("socket.connection.setup.timeout.ms", 3000), ("socket.connection.setup.timeout.max.ms", 5000)];

fn client_properties(user: &ValidUser, cluster: &ClusterFacts, credential: &Credential) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        properties.insert(key.to_owned(), value);
    };
    set("bootstrap.servers", user.listener.bootstrap.clone());
    set("ssl.truststore.type", "PEM".into());
    set("ssl.truststore.certificates", cluster.trust_bundle.clone());
    SETUP_TIMEOUTS.iter().for_each(|(key, limit)| set(key, limit.to_string()));
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
        Credential::External => set("security.protocol", "SSL".into()),
    }
    properties
}
