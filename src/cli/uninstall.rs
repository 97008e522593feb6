//! `freehold uninstall`: lets every object go, so that nothing hangs once the operator is gone.
//! Nothing in Kafka or Kubernetes is deleted by it: clusters run on, and can be deleted by hand, or
//! taken up by another installation.
//!
//! It takes the lease first: the operator that leads loses it and stops within two seconds, and no
//! other one leads before the chart's objects are gone. One that stays, because the uninstallation
//! failed, leads again when the lease expires.

use crate::cli::operator::{MainError, Scope};
use crate::kinds::REGISTRY;
use crate::kinds::registration::Entry;
use crate::kubernetes::labels;
use crate::runtime::lease::{DURATION, Elector};
use kube::api::{Api, ApiResource, ListParams, Patch, PatchParams};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::time::Duration;

/// Nobody leads for so long.
const SEIZED: Duration = Duration::from_secs(120);
/// Objects of one answer of the API server.
const PAGE: u32 = 100;
/// Somebody else may write an object meanwhile.
const TRIES_MAX: u32 = 5;

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    scope: Scope,
}

pub fn main(options: &Options) -> Result<(), MainError> {
    let watched = options.scope.watched()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::try_default().await?;
        let elector = Elector::new(
            client.clone(),
            &options.scope.namespace,
            "uninstall".to_owned(),
        );
        elector.seize(SEIZED).await?;
        // What the operator that led had under way has ended by then.
        tokio::time::sleep(DURATION / 2).await;
        let namespaces: Vec<_> = watched.iter().map(String::as_str).collect();
        for resource in resources() {
            let count = release_all(&client, &namespaces, &resource).await?;
            eprintln!("freehold: {count} {} let go", resource.plural);
        }
        Ok(())
    })
}

/// Every kind, each after the kinds that refer to it.
fn resources() -> Vec<ApiResource> {
    REGISTRY.iter().rev().map(Entry::resource).collect()
}

/// Takes our finalizer from every object; gives how many had it.
async fn release_all(
    client: &Client,
    namespaces: &[&str],
    resource: &ApiResource,
) -> Result<u32, MainError> {
    let apis: Vec<Api<DynamicObject>> = match namespaces {
        [] => vec![Api::all_with(client.clone(), resource)],
        names => names
            .iter()
            .map(|name| Api::namespaced_with(client.clone(), name, resource))
            .collect(),
    };
    let mut count = 0;
    for (index, api) in apis.into_iter().enumerate() {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match api.list_metadata(&params).await {
                Ok(page) => page,
                Err(kube::Error::Api(answer))
                    if !namespaces.is_empty() && [403, 404].contains(&answer.code) =>
                {
                    eprintln!(
                        "freehold: namespace {}: {}",
                        namespaces[index], answer.message
                    );
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            for object in page.items.iter().filter(|object| {
                object
                    .finalizers()
                    .iter()
                    .any(|one| one == labels::FINALIZER)
            }) {
                release(client, object, resource).await?;
                count += 1;
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
    }
    Ok(count)
}

async fn release(
    client: &Client,
    object: &PartialObjectMeta<DynamicObject>,
    resource: &ApiResource,
) -> kube::Result<()> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, resource);
    for attempt in 1.. {
        let Some(current) = api.get_metadata_opt(&name).await? else {
            return Ok(());
        };
        let left: Vec<_> = current
            .finalizers()
            .iter()
            .filter(|one| *one != labels::FINALIZER)
            .collect();
        let patch = json!({"metadata": {"finalizers": left, "uid": current.uid(), "resourceVersion": current.resource_version()}});
        match api
            .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(()),
            Err(kube::Error::Api(answer)) if answer.code == 409 && attempt < TRIES_MAX => {}
            other => return other.map(drop),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::Value;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    #[test]
    fn every_kind_is_let_go_and_the_cluster_last() {
        let plurals: Vec<_> = resources()
            .into_iter()
            .map(|resource| resource.plural)
            .collect();
        assert_eq!(plurals, ["pipelines", "users", "topics", "kafkaclusters"]);
    }

    #[tokio::test]
    async fn our_finalizer_alone_is_taken_and_a_namespace_that_lets_nobody_look_is_left_out() {
        let patches: Arc<Mutex<Vec<Value>>> = Arc::default();
        let noted = Arc::clone(&patches);
        let answer = move |request: Request<Body>| {
            let noted = Arc::clone(&noted);
            async move {
                let (method, path) = (request.method().clone(), request.uri().path().to_owned());
                let object = |name: &str, finalizers: &[&str]| {
                    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                        "metadata": {"name": name, "namespace": "n", "uid": "u", "resourceVersion": "7", "finalizers": finalizers}})
                };
                let ours = object("ours", &[labels::FINALIZER, "other"]);
                let (code, value) = match (method, path.as_str()) {
                    (_, path) if path.contains("/gone/") => (
                        403,
                        json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "message": "no", "code": 403}),
                    ),
                    (Method::PATCH, _) => {
                        let body = request.into_body().collect_bytes().await.unwrap();
                        noted
                            .lock()
                            .unwrap()
                            .push(serde_json::from_slice(&body).unwrap());
                        (200, ours)
                    }
                    (_, path) if path.ends_with("/ours") => (200, ours),
                    _ => (
                        200,
                        json!({"metadata": {}, "items": [ours, object("free", &["other"])]}),
                    ),
                };
                let answer = Response::builder()
                    .status(code)
                    .body(Body::from(value.to_string().into_bytes()))
                    .unwrap();
                Ok::<_, Infallible>(answer)
            }
        };
        let client = Client::new(tower::service_fn(answer), "n");
        assert_eq!(
            release_all(&client, &["gone", "n"], &resources()[0])
                .await
                .unwrap(),
            1
        );
        let patches = patches.lock().unwrap();
        assert_eq!(
            *patches,
            [json!({"metadata": {"finalizers": ["other"], "uid": "u", "resourceVersion": "7"}})]
        );
    }
}
