//! `freehold check`, which `helm test` runs: whether an installation works, seen with the
//! operator's own account. Changes nothing.

use crate::cli::operator::{MainError, Scope};
use crate::kinds::REGISTRY;
use crate::kinds::definitions;
use crate::kinds::registration::Served;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, ListParams};
use kube::core::DynamicObject;
use std::io::Write;
use std::time::Duration;

/// An operator that has just been installed needs some time until it leads, and its webhook until
/// it has a certificate.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    scope: Scope,
    /// Those of them that have KafkaClusters, separated by commas; empty: all.
    #[arg(
        long,
        env = "FREEHOLD_CLUSTER_NAMESPACES",
        default_value = "",
        value_delimiter = ','
    )]
    cluster_namespaces: Vec<String>,
    /// The ValidatingWebhookConfiguration that sends objects to the webhook; empty: no webhook.
    #[arg(long, env = "FREEHOLD_WEBHOOK_CONFIGURATION", default_value = "")]
    webhook_configuration: String,
}

/// Prints a line for each thing that is as it should be.
///
/// # Errors
/// What is not, all of it.
pub fn main(options: &Options) -> Result<(), MainError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (good, bad) = runtime.block_on(checked(options))?;
    let mut out = std::io::stdout().lock();
    good.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    if bad.is_empty() {
        Ok(())
    } else {
        Err(bad.join("\n").into())
    }
}

/// What is well, and what is not once it has had its time.
async fn checked(options: &Options) -> Result<(Vec<String>, Vec<String>), MainError> {
    let namespaces = options.scope.watched()?;
    let clusters: Vec<_> = options
        .cluster_namespaces
        .iter()
        .filter(|name| !name.is_empty())
        .map(String::as_str)
        .collect();
    let client = Client::try_default().await?;
    let start = tokio::time::Instant::now();
    loop {
        let mut all = vec![
            definitions(&client).await,
            leader(&client, &options.scope.namespace).await,
        ];
        if !options.webhook_configuration.is_empty() {
            all.push(webhook(&client, &options.webhook_configuration).await);
        }
        let watched: Vec<Option<&str>> = if namespaces.is_empty() {
            vec![None]
        } else {
            namespaces.iter().map(|name| Some(name.as_str())).collect()
        };
        for namespace in watched {
            all.push(may_read(&client, namespace, clusters.is_empty()).await);
        }
        for namespace in &clusters {
            all.push(may_read(&client, Some(namespace), true).await);
        }
        let (good, bad): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
        let bad: Vec<String> = bad.into_iter().filter_map(Result::err).collect();
        if bad.is_empty() || start.elapsed() > LIMIT {
            return Ok((good.into_iter().flatten().collect(), bad));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn definitions(client: &Client) -> Result<String, String> {
    let lacking = definitions::lacking(client)
        .await
        .map_err(|error| format!("the CustomResourceDefinitions cannot be read: {error}"))?;
    match lacking.first() {
        None => {
            Ok("the CustomResourceDefinitions have every field that this operator knows".into())
        }
        Some(first) => Err(format!(
            "the CustomResourceDefinitions lack {} fields, {first} first: upgrade freehold-crds",
            lacking.len()
        )),
    }
}

async fn leader(client: &Client, namespace: &str) -> Result<String, String> {
    let lease = Api::<Lease>::namespaced(client.clone(), namespace)
        .get_opt("freehold")
        .await;
    let lease =
        lease.map_err(|error| format!("Lease {namespace}/freehold cannot be read: {error}"))?;
    let holder = holder(lease.as_ref(), Timestamp::now())?;
    Ok(format!("{holder} leads"))
}

/// Who holds the lease, and has renewed it in its time. (Clocks of machines in one cluster are near
/// enough for this.)
fn holder(lease: Option<&Lease>, now: Timestamp) -> Result<String, String> {
    let spec = lease
        .and_then(|lease| lease.spec.as_ref())
        .ok_or("there is no Lease: no operator has led yet; see the logs of its pods")?;
    let holder = spec
        .holder_identity
        .clone()
        .filter(|holder| !holder.is_empty())
        .ok_or("no operator leads; see the logs of its pods")?;
    let renewed = spec
        .renew_time
        .as_ref()
        .map_or(i64::MAX, |renewed| now.duration_since(renewed.0).as_secs());
    if renewed > i64::from(spec.lease_duration_seconds.unwrap_or_default()) {
        return Err(format!(
            "{holder} led, and has not renewed its Lease in time; see the logs of the operator's pods"
        ));
    }
    Ok(holder)
}

async fn webhook(client: &Client, name: &str) -> Result<String, String> {
    let found = Api::<ValidatingWebhookConfiguration>::all(client.clone())
        .get_opt(name)
        .await;
    let found = found.map_err(|error| {
        format!("ValidatingWebhookConfiguration {name} cannot be read: {error}")
    })?;
    let webhooks = found.and_then(|found| found.webhooks).unwrap_or_default();
    let trusted = |bundle: Option<&k8s_openapi::ByteString>| {
        bundle.is_some_and(|bundle| !bundle.0.is_empty())
    };
    if webhooks.is_empty()
        || !webhooks
            .iter()
            .all(|webhook| trusted(webhook.client_config.ca_bundle.as_ref()))
    {
        return Err(format!(
            "ValidatingWebhookConfiguration {name} has no CA of the webhook: objects are not checked at kubectl apply"
        ));
    }
    Ok("the API server knows the webhook's CA".into())
}

/// Whether the kinds that are served in a namespace can be listed. `clusters`: it has
/// KafkaClusters.
async fn may_read(
    client: &Client,
    namespace: Option<&str>,
    clusters: bool,
) -> Result<String, String> {
    let what = namespace.map_or_else(
        || "every namespace".to_owned(),
        |name| format!("namespace {name}"),
    );
    let read = async {
        for entry in REGISTRY
            .iter()
            .filter(|entry| clusters || entry.served == Served::Watched)
        {
            list(client, namespace, &entry.resource()).await?;
        }
        Ok::<_, kube::Error>(())
    };
    match read.await {
        Ok(()) => Ok(format!("{what} is served")),
        Err(error) => Err(format!("{what} cannot be served: {error}")),
    }
}

/// Fails unless objects of a kind may be listed.
async fn list(
    client: &Client,
    namespace: Option<&str>,
    resource: &ApiResource,
) -> Result<(), kube::Error> {
    let api: Api<DynamicObject> = match namespace {
        None => Api::all_with(client.clone(), resource),
        Some(name) => Api::namespaced_with(client.clone(), name, resource),
    };
    api.list_metadata(&ListParams::default().limit(1))
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    #[test]
    fn a_leader_is_one_that_has_renewed_its_lease_in_time() {
        let lease = |holder: &str| Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(10),
                renew_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        assert_eq!(holder(Some(&lease("one")), at(5)), Ok("one".into()));
        for (lease, now, words) in [
            (Some(lease("one")), 11, "not renewed"),
            (Some(lease("")), 0, "no operator leads"),
            (None, 0, "no Lease"),
        ] {
            let said = holder(lease.as_ref(), at(now)).unwrap_err();
            assert!(said.contains(words), "{said}");
        }
    }
}
