//! Builds the Secret with the credential of a valid User. Pure; it cannot fail.

use crate::api::user::User;
use crate::certificates::KeyedCertificate;
use crate::clusters::ClusterFacts;
use crate::kinds::user::secrets;
use crate::kinds::user::secrets::Marks;
use crate::kinds::user::validate::ValidUser;
use crate::kubernetes;
use crate::kubernetes::labels;
use freehold_kafka::properties;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// The credential that authenticates the user. It has no `Debug`, because it is secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password(String),
    Certificate(KeyedCertificate),
    /// The certificate is issued by somebody else.
    External,
}

/// The PKCS#12 stores of a Secret, and their password. It has no `Debug`, because it is secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Pkcs12 {
    pub truststore: Vec<u8>,
    pub keystore: Option<Vec<u8>>,
    pub password: String,
}

/// The version of the Secret's layout. A new value makes the operator write every Secret again.
const LAYOUT: &str = "2";

/// A hash of everything that a Secret is made from, except the credential itself. If it changes,
/// the Secret is written again.
pub fn inputs(object: &User, user: &ValidUser, cluster: &ClusterFacts) -> String {
    let authority = certificates_authority(user, cluster);
    let template = serde_json::to_string(&object.spec.secret).expect("a spec serializes");
    let parts = [
        LAYOUT,
        &user.name,
        &format!("{:?}", user.authentication),
        &user.listener.bootstrap,
        &cluster.trust_bundle,
        authority,
        &template,
    ];
    secrets::digest(parts.into_iter().map(str::as_bytes))
}

/// The CA that issues the user's certificate, or an empty text. Another CA requires another
/// certificate.
fn certificates_authority<'a>(user: &ValidUser, cluster: &'a ClusterFacts) -> &'a str {
    match user.authentication {
        crate::api::user::UserAuthenticationType::MutualTls => &cluster.clients_ca.certificate,
        _ => "",
    }
}

/// The Secret according to the Service Binding specification
/// (<https://servicebinding.io/spec/core/1.1.0/>): everything that a client needs, and a
/// client.properties that is ready to use. `marks` describe the credential; their other fields are
/// filled in here.
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
    put(
        "client.properties",
        properties::render(&client_properties(user, cluster, credential)).as_bytes(),
    );
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
        stores
            .keystore
            .iter()
            .for_each(|keystore| put("keystore.p12", keystore));
        put("pkcs12.password", stores.password.as_bytes());
    }
    let marks = Marks {
        inputs: inputs(object, user, cluster),
        content: secrets::content(data.iter()),
        ..marks
    };
    Secret {
        metadata: ObjectMeta {
            name: Some(user.secret.clone()),
            namespace: object.metadata.namespace.clone(),
            labels: Some(secret_labels(object)),
            annotations: Some(secret_annotations(object, marks)),
            owner_references: Some(vec![kubernetes::owner(object)]),
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
    all.extend(
        own.into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    all
}

fn secret_annotations(object: &User, marks: Marks) -> BTreeMap<String, String> {
    let Marks {
        inputs,
        content,
        credential,
        since,
        not_after,
        rotated,
        given,
        key,
    } = marks;
    let own = [
        (labels::SECRET_INPUTS, Some(inputs)),
        (labels::SECRET_CONTENT, Some(content)),
        (
            labels::SECRET_CREDENTIAL,
            (!credential.is_empty()).then_some(credential),
        ),
        (labels::SECRET_SINCE, since.map(|time| time.to_string())),
        (
            labels::SECRET_NOT_AFTER,
            not_after.map(|time| time.to_string()),
        ),
        (labels::SECRET_ROTATED, rotated),
        (labels::SECRET_GIVEN, given),
        (labels::SECRET_KEY, key),
    ];
    let mut all = object.spec.secret.metadata.annotations.clone();
    all.extend(
        own.into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?))),
    );
    all
}

/// The time that a client waits for a connection, in milliseconds. A broker that restarts is gone
/// from its address for some seconds, and a client that waits for an answer from there notices
/// nothing before this time is over. Kafka's default is 10 s, then up to 30 s (KIP-601).
const SETUP_TIMEOUTS: [(&str, u32); 2] = [
    ("socket.connection.setup.timeout.ms", 3000),
    ("socket.connection.setup.timeout.max.ms", 5000),
];

fn client_properties(
    user: &ValidUser,
    cluster: &ClusterFacts,
    credential: &Credential,
) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        properties.insert(key.to_owned(), value);
    };
    set("bootstrap.servers", user.listener.bootstrap.clone());
    set("ssl.truststore.type", "PEM".into());
    set("ssl.truststore.certificates", cluster.trust_bundle.clone());
    SETUP_TIMEOUTS
        .iter()
        .for_each(|(key, limit)| set(key, limit.to_string()));
    match credential {
        Credential::Password(password) => {
            set("security.protocol", "SASL_SSL".into());
            set("sasl.mechanism", "SCRAM-SHA-512".into());
            let module = "org.apache.kafka.common.security.scram.ScramLoginModule";
            set(
                "sasl.jaas.config",
                format!(
                    "{module} required username=\"{}\" password=\"{password}\";",
                    user.name
                ),
            );
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
