//! The Secrets and the identity that steps write: issuing draws random keys.

use crate::certificates;
use crate::certificates::{
    CertificateError, KeyedCertificate, NODE_NAME, OPERATOR_NAME, ORGANIZATION, Purpose,
};
use crate::kinds::kafka_cluster::certificates::{authorities, nodes, overwritten};
use crate::kinds::kafka_cluster::execute::Scope;
use crate::kinds::kafka_cluster::identity::password_key;
use crate::kinds::kafka_cluster::model::authority::{Issuer, Rotation, Trust};
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observed;
use crate::kinds::kafka_cluster::observed::Identity;
use crate::kinds::kafka_cluster::step::{Origin, Step};
use crate::kubernetes::Object;
use crate::kubernetes::{labels, names};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// The Secret or the identity that the step writes; `None` if it writes neither.
///
/// # Errors
/// A certificate cannot be made.
pub fn object(scope: &Scope<'_>, step: &Step) -> Result<Option<Object>, CertificateError> {
    let cluster = scope.cluster;
    Ok(Some(match step {
        Step::CreateIdentity { .. } => match new_identity(step) {
            Some(identity) => identity_map(cluster, &identity),
            None => return Ok(None),
        },
        Step::UpdateIdentity(identity) => identity_map(cluster, identity),
        Step::CreateAuthority {
            secret,
            issuer,
            beside: None,
        } => {
            let authority = authority(scope, *issuer)?;
            secret_object(cluster, secret, keyed(&authority), false)
        }
        Step::CreateAuthority {
            secret,
            issuer,
            beside: Some(old),
        } => {
            let mut data = BTreeMap::from([("tls.crt".to_owned(), old.clone())]);
            data.extend(next(scope, *issuer)?);
            let data = without_foreign(data);
            let annotations = scope.object.metadata.annotations.as_ref();
            let asked = annotations.and_then(|all| all.get(labels::ROTATE_CA));
            authority_object(scope, secret, data, asked.cloned())
        }
        Step::RestoreSecret(name) => return Ok(restored(scope, name)),
        Step::WritePasswordKey { secret, origin } => password_key_object(scope, secret, origin),
        Step::RotateAuthority {
            secret,
            issuer,
            rotation,
        } => rotated(scope, secret, *issuer, rotation)?,
        Step::IssueOperatorCertificate { secret } => {
            let issued = issue(scope, OPERATOR_NAME, &Purpose::Client)?;
            certificates_secret(cluster, secret, keyed(&issued))
        }
        Step::IssueNodeCertificates {
            secret,
            nodes,
            trust,
        } => node_certificates(scope, secret, nodes, trust)?,
        _ => return Ok(None),
    }))
}

/// The identity that the step creates, with random ids where it leaves them open.
fn new_identity(step: &Step) -> Option<Identity> {
    let Step::CreateIdentity {
        cluster_id,
        blocks,
        controllers,
        formed,
        password_key,
        own_rights,
    } = step
    else {
        return None;
    };
    let controllers = controllers
        .iter()
        .map(|(id, directory)| (*id, directory.clone().unwrap_or_else(random_id)))
        .collect();
    let cluster_id = cluster_id.clone().unwrap_or_else(random_id);
    let mut identity = Identity::new(cluster_id, blocks, controllers, *formed);
    identity.password_key.clone_from(password_key);
    identity.own_rights = *own_rights;
    Some(identity)
}

/// The data of a CA's Secret, with the keys empty that it does not have: what somebody else wrote
/// into them would stay otherwise.
fn without_foreign(mut data: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for key in overwritten::KEYS {
        data.entry(key.to_owned()).or_default();
    }
    data
}

/// A deleted or overwritten Secret as it was observed last; `None` if it was never observed.
fn restored(scope: &Scope<'_>, name: &str) -> Option<Object> {
    let secret = scope.observed.retained.get(name)?;
    let cluster = &scope.cluster.key.name;
    let is_authority = Issuer::ALL.iter().any(|of| of.secret(cluster) == name);
    let mut data = secret.data.clone();
    if is_authority {
        data = without_foreign(data);
    }
    let mut object = secret_object(scope.cluster, name, data, false);
    for key in [
        labels::CA_SINCE,
        labels::CA_ROTATED,
        labels::ROTATE_PASSWORDS,
    ] {
        if let Some(value) = secret.live.annotation(key) {
            object.set_annotation(key, value);
        }
    }
    Some(object)
}

/// The Secret of a node group with new certificates for these nodes. Nodes whose certificates are
/// still current keep them.
fn node_certificates(
    scope: &Scope<'_>,
    secret: &str,
    nodes: &BTreeMap<i32, Vec<String>>,
    trust: &Trust,
) -> Result<Object, CertificateError> {
    let found = scope.observed.secrets.get(secret);
    let mut data = found.map(|found| found.data.clone()).unwrap_or_default();
    let authority = nodes::cluster_authority(scope.cluster, scope.observed);
    let above = authority
        .map(|authority| certificates::intermediates(&authority.certificate))
        .unwrap_or_default();
    for (id, hosts) in nodes {
        let issued = issue(scope, NODE_NAME, &Purpose::Node { hosts })?;
        data.insert(
            format!("{id}.pem"),
            format!("{}{above}{}", issued.certificate, issued.key),
        );
    }
    data.insert("cluster-ca.crt".into(), trust.cluster_ca.clone());
    data.insert("clients-ca.crt".into(), trust.clients_ca.clone());
    Ok(certificates_secret(scope.cluster, secret, data))
}

fn issue(
    scope: &Scope<'_>,
    common_name: &str,
    purpose: &Purpose<'_>,
) -> Result<KeyedCertificate, CertificateError> {
    let authority = nodes::cluster_authority(scope.cluster, scope.observed)
        .ok_or(CertificateError::NotAuthority)?;
    let days = scope.cluster.spec.certificates.validity_days;
    certificates::issue(
        &authority,
        Some(ORGANIZATION),
        common_name,
        purpose,
        scope.observed.now,
        days,
    )
}

/// The CA that the user's Secret provides, or a new one.
fn authority(scope: &Scope<'_>, issuer: Issuer) -> Result<KeyedCertificate, CertificateError> {
    let name = issuer.common_name(&scope.cluster.key.name);
    authorities::given(issuer, scope.cluster, scope.observed).map_or_else(
        || certificates::new_authority(&name, scope.observed.now),
        Ok,
    )
}

/// A CA's Secret after a step of its rotation.
fn rotated(
    scope: &Scope<'_>,
    name: &str,
    issuer: Issuer,
    rotation: &Rotation,
) -> Result<Object, CertificateError> {
    let Some(found) = scope.observed.secrets.get(name) else {
        return Err(CertificateError::NotAuthority);
    };
    let mut data = found.data.clone();
    let mut followed = found.live.annotation(labels::CA_ROTATED).map(str::to_owned);
    match rotation {
        Rotation::Prepare { asked } => {
            data.extend(next(scope, issuer)?);
            followed = asked.clone().or(followed);
        }
        Rotation::Promote => {
            let next = data
                .remove(authorities::NEXT.0)
                .zip(data.remove(authorities::NEXT.1));
            let (Some(old), Some((certificate, key))) = (data.remove("tls.crt"), next) else {
                return Err(CertificateError::NotAuthority);
            };
            data.remove(authorities::PROBE.0);
            data.remove(authorities::PROBE.1);
            data.insert(authorities::PREVIOUS.to_owned(), old);
            data.extend([
                ("tls.crt".to_owned(), certificate),
                ("tls.key".to_owned(), key),
            ]);
        }
        Rotation::Drop => drop(data.remove(authorities::PREVIOUS)),
        Rotation::Chain => {
            let given = authority(scope, issuer)?;
            if let Some(old) = data.insert("tls.crt".into(), given.certificate.clone())
                && !certificates::holds(&given.certificate, &old)
            {
                data.insert(authorities::PREVIOUS.to_owned(), old);
            }
            data.insert("tls.key".into(), given.key);
        }
    }
    // Older versions stored the password key in this Secret. It has its own Secret now; a reader of
    // the CA's Secret must not get the passwords too.
    if scope
        .observed
        .secrets
        .contains_key(&names::password_key(&scope.cluster.key.name))
    {
        data.remove(password_key::KEY);
    }
    Ok(authority_object(scope, name, data, followed))
}

/// Makes the next CA, and a certificate of it with which nodes are probed.
fn next(scope: &Scope<'_>, issuer: Issuer) -> Result<BTreeMap<String, String>, CertificateError> {
    let next = authority(scope, issuer)?;
    let (organization, common_name) = match issuer {
        Issuer::Nodes => (Some(ORGANIZATION), OPERATOR_NAME),
        // This name has no rights in Kafka.
        Issuer::Clients => (None, "freehold-probe"),
    };
    let days = scope.cluster.spec.certificates.validity_days;
    let probe = certificates::issue(
        &next,
        organization,
        common_name,
        &Purpose::Client,
        scope.observed.now,
        days,
    )?;
    let all = [(authorities::NEXT, next), (authorities::PROBE, probe)].into_iter();
    Ok(all
        .flat_map(|((certificate, key), issued)| {
            [
                (certificate.to_owned(), issued.certificate),
                (key.to_owned(), issued.key),
            ]
        })
        .collect())
}

/// The Secret of a CA whose state begins now. `followed`: the value of the rotation annotation that
/// was followed last.
fn authority_object(
    scope: &Scope<'_>,
    name: &str,
    data: BTreeMap<String, String>,
    followed: Option<String>,
) -> Object {
    let mut object = secret_object(scope.cluster, name, data, false);
    object.set_annotation(labels::CA_SINCE, &scope.observed.now.to_string());
    if let Some(followed) = followed {
        object.set_annotation(labels::CA_ROTATED, &followed);
    }
    object
}

fn password_key_object(scope: &Scope<'_>, name: &str, origin: &Origin) -> Object {
    let found = scope.observed.secrets.get(name);
    let used = password_key::of_clients_authority(scope.observed, &scope.cluster.key.name)
        .filter(|_| *origin == Origin::ClientsAuthority);
    let mut first = found
        .and_then(|found| found.data.get(password_key::FIRST))
        .cloned();
    first = used.as_deref().map(password_key::id).or(first);
    let key = used.unwrap_or_else(|| BASE64_STANDARD.encode(rand::random::<[u8; 32]>()));
    let mut data = BTreeMap::from([(password_key::KEY.to_owned(), key)]);
    data.extend(first.map(|first| (password_key::FIRST.to_owned(), first)));
    let mut object = secret_object(scope.cluster, name, data, false);
    // A key that is made now also fulfils the request in the annotation.
    if let Some(asked) =
        password_key::asked(scope.object).filter(|_| *origin != Origin::ClientsAuthority)
    {
        object.set_annotation(labels::ROTATE_PASSWORDS, asked);
    }
    object
}

fn keyed(certificate: &KeyedCertificate) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("tls.crt".to_owned(), certificate.certificate.clone()),
        ("tls.key".to_owned(), certificate.key.clone()),
    ])
}

/// `owned`: the object is deleted with the KafkaCluster. CAs and identity are not owned, because
/// they must outlive a cluster whose deletion policy is Retain.
fn metadata(cluster: &ValidCluster, name: &str, owned: bool) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(cluster.key.namespace.clone()),
        labels: Some(labels::cluster(&cluster.key.name)),
        owner_references: owned.then(|| vec![cluster.owner.clone()]),
        ..Default::default()
    }
}

fn secret_object(
    cluster: &ValidCluster,
    name: &str,
    data: BTreeMap<String, String>,
    owned: bool,
) -> Object {
    let data = data
        .into_iter()
        .map(|(key, value)| (key, k8s_openapi::ByteString(value.into_bytes())))
        .collect();
    Object::of(&Secret {
        metadata: metadata(cluster, name, owned),
        type_: Some("Opaque".into()),
        data: Some(data),
        ..Default::default()
    })
}

/// A Secret of certificates that the cluster's CA issued. Its annotation records the last request
/// for new certificates that was followed.
fn certificates_secret(
    cluster: &ValidCluster,
    name: &str,
    data: BTreeMap<String, String>,
) -> Object {
    let mut object = secret_object(cluster, name, data, true);
    if let Some(asked) = &cluster.renew_certificates {
        object.set_annotation(labels::RENEW_CERTIFICATES, asked);
    }
    object
}

fn identity_map(cluster: &ValidCluster, identity: &Identity) -> Object {
    let text = serde_json::to_string(identity).expect("an identity serializes");
    Object::of(&ConfigMap {
        metadata: metadata(cluster, &names::identity(&cluster.key.name), false),
        data: Some(BTreeMap::from([(observed::identity::KEY.to_owned(), text)])),
        ..Default::default()
    })
}

/// 16 random bytes in Kafka's format of ids: URL-safe base64 that never begins with `-` (Kafka's
/// Uuid.randomUuid).
fn random_id() -> String {
    loop {
        let id = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        if !id.starts_with('-') {
            return id;
        }
    }
}
