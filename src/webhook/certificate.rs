//! The webhook's certificate: creates it, shares it between all replicas through a Secret, renews
//! it in time, and gives its CA to the API server.

use crate::certificates;
use crate::certificates::{CertificateError, KeyedCertificate, ORGANIZATION, Purpose};
use crate::kubernetes::labels;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Name of the Secret and of the Service.
pub const NAME: &str = "freehold-webhook";
const DAYS: u32 = 365;
const RENEW_BEFORE_DAYS: i64 = 60;
/// Interval between checks. After this time a replica uses the certificate that another one has
/// renewed.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
const LOOK_SOON: Duration = Duration::from_secs(5);

/// The current TLS settings; none before the first certificate exists.
#[derive(Clone, Default)]
pub struct ServingCertificate(Arc<RwLock<Option<Arc<ServerConfig>>>>);

impl ServingCertificate {
    /// The current TLS settings; `None` before the first certificate exists.
    pub fn current(&self) -> Option<Arc<ServerConfig>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the webhook's certificate cannot be served: {0}")]
    Serve(String),
}

/// Keeps the certificate up to date for ever.
pub async fn keep(
    client: Client,
    namespace: String,
    configuration: String,
    serving: ServingCertificate,
) {
    loop {
        match look(&client, &namespace, &configuration, &serving).await {
            Ok(()) => tokio::time::sleep(LOOK_AGAIN).await,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the webhook has no current certificate; until it has, objects are checked at \
                     reconcile alone"
                );
                tokio::time::sleep(LOOK_SOON).await;
            }
        }
    }
}

async fn look(
    client: &Client,
    namespace: &str,
    configuration: &str,
    serving: &ServingCertificate,
) -> Result<(), KeepError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = secrets.get_opt(NAME).await?;
    let now = Timestamp::now();
    let kept = found.as_ref().and_then(kept);
    let current = kept.as_ref().is_some_and(|(_, leaf)| {
        certificates::facts(&leaf.certificate).is_ok_and(|facts| {
            facts.not_after > now + SignedDuration::from_hours(24 * RENEW_BEFORE_DAYS)
        })
    });
    let (authority, leaf) = match kept {
        Some(kept) if current => kept,
        other => {
            // The same CA signs the new certificate, so that clients continue to trust it.
            let authority = other.map_or_else(
                || certificates::new_authority(NAME, now),
                |(authority, _)| Ok(authority),
            )?;
            let hosts = vec![format!("{NAME}.{namespace}.svc")];
            let leaf = certificates::issue(
                &authority,
                Some(ORGANIZATION),
                NAME,
                &Purpose::Node { hosts: &hosts },
                now,
                DAYS,
            )?;
            let secret = secret(
                namespace,
                &authority,
                &leaf,
                found.as_ref().and_then(ResourceExt::resource_version),
            );
            // A conflict means that another replica was faster; the next check reads its
            // certificate.
            match found {
                None => secrets.create(&PostParams::default(), &secret).await?,
                Some(_) => {
                    secrets
                        .replace(NAME, &PostParams::default(), &secret)
                        .await?
                }
            };
            (authority, leaf)
        }
    };
    let config = server_config(&leaf)?;
    *serving.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config));
    tell(client, configuration, &authority.certificate).await?;
    Ok(())
}

/// The CA and the certificate, if the Secret has both.
fn kept(secret: &Secret) -> Option<(KeyedCertificate, KeyedCertificate)> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    let authority = KeyedCertificate {
        certificate: text("ca.crt")?,
        key: text("ca.key")?,
    };
    Some((
        authority,
        KeyedCertificate {
            certificate: text("tls.crt")?,
            key: text("tls.key")?,
        },
    ))
}

fn secret(
    namespace: &str,
    authority: &KeyedCertificate,
    leaf: &KeyedCertificate,
    version: Option<String>,
) -> Secret {
    let data = [
        ("ca.crt", &authority.certificate),
        ("ca.key", &authority.key),
        ("tls.crt", &leaf.certificate),
        ("tls.key", &leaf.key),
    ];
    Secret {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(
                labels::MANAGED_BY.to_owned(),
                "freehold".to_owned(),
            )])),
            resource_version: version,
            ..Default::default()
        },
        type_: Some("Opaque".into()),
        data: Some(
            data.into_iter()
                .map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())))
                .collect(),
        ),
        ..Default::default()
    }
}

fn server_config(leaf: &KeyedCertificate) -> Result<ServerConfig, KeepError> {
    let bad = |error: &dyn std::fmt::Display| KeepError::Serve(error.to_string());
    let chain: Vec<_> = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| bad(&error))?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).map_err(|error| bad(&error))?;
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| bad(&error))
}

/// Writes the CA into the ValidatingWebhookConfiguration if it is not there yet.
async fn tell(client: &Client, configuration: &str, authority: &str) -> Result<(), KeepError> {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let Some(found) = api.get_opt(configuration).await? else {
        tracing::warn!(
            configuration,
            "there is no such ValidatingWebhookConfiguration"
        );
        return Ok(());
    };
    let bundle = ByteString(authority.as_bytes().to_vec());
    let webhooks = found.webhooks.unwrap_or_default();
    if webhooks
        .iter()
        .all(|webhook| webhook.client_config.ca_bundle.as_ref() == Some(&bundle))
    {
        return Ok(());
    }
    let patch: Vec<_> = webhooks
        .iter()
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    api.patch(
        configuration,
        &PatchParams::default(),
        &Patch::Strategic(json!({"webhooks": patch})),
    )
    .await?;
    Ok(())
}
