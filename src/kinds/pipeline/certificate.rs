//! The certificate of a Pipeline's HTTP source: signed by the CA of its cluster, for the names of its
//! Service, and issued again in time. Issuing draws random keys.

use crate::api::pipeline::Pipeline;
use crate::certificates::{self, KeyedCertificate, Purpose};
use crate::clusters::ClusterFacts;
use crate::kinds::error::Error;
use crate::kinds::pipeline::context::Context;
use crate::kubernetes::{self, Live, Object, labels, names};
use freehold_pipeline::stages::Stage;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::BTreeMap;

/// The validity of a certificate in days.
const CERTIFICATE_DAYS: u32 = 90;
/// It is issued again this long before its end.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(24 * 30);
/// The keys of a `kubernetes.io/tls` Secret.
const KEYS: (&str, &str) = ("tls.crt", "tls.key");

/// The Secrets with certificates that the stages need, issued or as they are.
///
/// # Errors
/// The API server does not answer; the CA's key is lost.
pub async fn secrets(
    context: &Context,
    object: &Pipeline,
    stages: &[Stage],
    cluster: &ClusterFacts,
) -> Result<Vec<Object>, Error> {
    let namespace = object.namespace().unwrap_or_default();
    let mut secrets = Vec::new();
    for stage in stages.iter().filter(|stage| needs_certificate(stage)) {
        let name = names::stage_certificate(&object.name_any(), &stage.name);
        let resource = kubernetes::resource::<Secret>();
        let found = kubernetes::get(&context.client, &namespace, &resource, &name).await?;
        let service = names::stage(&object.name_any(), &stage.name);
        let hosts = names::host_forms(&service, &namespace, &context.settings.cluster_domain);
        let now = Timestamp::now();
        let kept = found.as_ref().and_then(keyed);
        let kept = kept.filter(|kept| is_current(kept, cluster, &hosts, now));
        let keyed = match kept {
            Some(kept) => kept,
            None => issue(cluster, &service, &hosts, now)?,
        };
        secrets.push(Object::of(&secret(object, name, keyed)));
    }
    Ok(secrets)
}

/// Whether a stage is a server, and no Secret of the user has its certificate.
pub fn needs_certificate(stage: &Stage) -> bool {
    let sources = stage.definition.blocks.iter();
    let mut sources = sources.filter_map(|block| block.source.as_ref()?.http.as_ref());
    sources.any(|http| http.tls.is_none())
}

fn keyed(found: &Live) -> Option<KeyedCertificate> {
    let secret: Secret = serde_json::from_value(found.value.clone()).ok()?;
    let mut data = secret.data.unwrap_or_default();
    let mut text = |key| String::from_utf8(data.remove(key)?.0).ok();
    Some(KeyedCertificate {
        certificate: text(KEYS.0)?,
        key: text(KEYS.1)?,
    })
}

/// Whether a certificate is still the right one.
fn is_current(
    kept: &KeyedCertificate,
    cluster: &ClusterFacts,
    hosts: &[String],
    now: Timestamp,
) -> bool {
    let Ok(facts) = certificates::facts(&kept.certificate) else {
        return false;
    };
    // While the CA is lost, what its clients trust decides.
    let authority = cluster
        .cluster_ca
        .as_ref()
        .map(|ca| ca.certificate.as_str());
    let authority = authority.unwrap_or(&cluster.trust_bundle);
    facts.hosts == hosts
        && facts.not_after > now + RENEW_BEFORE
        && is_signed(&kept.certificate, authority)
}

/// Whether one of these authorities has signed a certificate.
fn is_signed(certificate: &str, authorities: &str) -> bool {
    let mut rest = authorities.to_owned();
    while let Some(authority) = certificates::first(&rest) {
        if certificates::signed_by(certificate, &authority) {
            return true;
        }
        rest = certificates::without(&rest, &authority);
    }
    false
}

fn issue(
    cluster: &ClusterFacts,
    service: &str,
    hosts: &[String],
    now: Timestamp,
) -> Result<KeyedCertificate, Error> {
    let authority = cluster.cluster_ca.as_ref();
    let authority = authority.ok_or(certificates::CertificateError::Lost)?;
    let purpose = Purpose::Server { hosts };
    let mut issued =
        certificates::issue(authority, None, service, &purpose, now, CERTIFICATE_DAYS)?;
    let above = certificates::intermediates(&authority.certificate);
    issued.certificate.push_str(&above);
    Ok(issued)
}

fn secret(object: &Pipeline, name: String, keyed: KeyedCertificate) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: object.namespace(),
            labels: Some(labels::pipeline(&object.name_any())),
            owner_references: Some(vec![kubernetes::owner(object)]),
            ..Default::default()
        },
        type_: Some("kubernetes.io/tls".into()),
        data: Some(BTreeMap::from([
            (
                KEYS.0.to_owned(),
                ByteString(keyed.certificate.into_bytes()),
            ),
            (KEYS.1.to_owned(), ByteString(keyed.key.into_bytes())),
        ])),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::KafkaCluster;
    use serde_json::json;

    fn cluster(ca: Option<KeyedCertificate>) -> ClusterFacts {
        let cluster: KafkaCluster = serde_json::from_value(json!({
            "metadata": {"name": "demo", "namespace": "kafka"},
            "spec": {"version": "4.3.1", "nodePools": []},
        }))
        .unwrap();
        ClusterFacts {
            trust_bundle: ca
                .as_ref()
                .map_or(String::new(), |ca| ca.certificate.clone()),
            cluster_ca: ca,
            ..ClusterFacts::of_spec(&cluster)
        }
    }

    #[test]
    fn a_certificate_is_kept_until_its_end_is_near_or_its_names_or_its_ca_change() {
        let now = Timestamp::now();
        let ca = || Some(certificates::new_authority("demo", now).unwrap());
        let (one, another) = (cluster(ca()), cluster(ca()));
        let hosts = vec!["orders-in.shop.svc".to_owned()];
        let issued = issue(&one, "orders-in", &hosts, now).unwrap();
        let mut lost = one.clone();
        lost.cluster_ca = None;
        // After a rotation clients trust the CA before, too.
        lost.trust_bundle = another.trust_bundle.clone() + &one.trust_bundle;
        assert!(is_current(&issued, &one, &hosts, now));
        assert!(
            is_current(&issued, &lost, &hosts, now),
            "a lost key harms nothing yet"
        );
        assert!(!is_current(&issued, &another, &hosts, now));
        assert!(!is_current(&issued, &one, &["other".to_owned()], now));
        let later = now + SignedDuration::from_hours(24 * 61);
        assert!(!is_current(&issued, &one, &hosts, later));
        assert!(issue(&lost, "orders-in", &hosts, now).is_err());
    }

    #[test]
    fn a_broker_does_not_take_it_for_a_client_s_certificate() {
        let now = Timestamp::now();
        let one = cluster(Some(certificates::new_authority("demo", now).unwrap()));
        let issued = issue(&one, "orders-in", &["a".to_owned()], now).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(issued.certificate.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && !usage.client_auth && !usage.any);
        assert_eq!(certificate.subject().to_string(), "CN=orders-in");
    }
}
