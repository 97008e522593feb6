//! `freehold unmanaged NAMESPACE/NAME`: what a cluster holds that no Topic and no User manages. It asks the cluster as the
//! operator does, and so runs where the operator does: `kubectl exec deploy/freehold -- freehold unmanaged kafka/demo`.

use crate::kinds::kafka_cluster::observe;
use crate::kinds::reference::ClusterKey;
use crate::kinds::topic::api::Topic;
use crate::kinds::user::api::User;
use crate::kinds::{topic, user};
use crate::operator::MainError;
use crate::preview;
use crate::runtime::census::Census;
use crate::runtime::claims::{Claim, Claims};
use crate::runtime::context::{Context, Settings};
use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::io::Write;
use std::time::Duration;

const LOAD_LIMIT: Duration = Duration::from_secs(20);
/// Objects of one answer of the API server.
const PAGE: u32 = 500;

#[derive(clap::Args)]
pub struct Options {
    /// The KafkaCluster: NAMESPACE/NAME.
    cluster: String,
    /// Namespaces whose Topics and Users count, separated by commas; empty: all.
    #[arg(long, env = "FREEHOLD_WATCH_NAMESPACES", default_value = "", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
}

pub fn main(options: &Options) -> Result<(), MainError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let census = runtime.block_on(census(options))?;
    let mut out = std::io::stdout().lock();
    for topic in &census.topics {
        writeln!(out, "topic {topic}")?;
    }
    for principal in &census.principals {
        writeln!(out, "principal {principal}")?;
    }
    Ok(())
}

async fn census(options: &Options) -> Result<Census, MainError> {
    let key: ClusterKey = options.cluster.parse()?;
    let client = Client::try_default().await?;
    let context = Context::new(client.clone(), Settings::default());
    let object = preview::find(client.clone(), &key).await?;
    let observed = observe::observe(&context, &object).await?;
    let connected = context.clients.get(&object, &observed.pods, &observed.secrets)?;
    let mirror = connected.ok_or("no broker of the cluster is ready")?.mirror;
    mirror.wait(LOAD_LIMIT, |_| mirror.is_loaded()).await;
    if !mirror.is_loaded() {
        return Err("no controller of the cluster answers".into());
    }
    let (topics, users) = (Claims::default(), Claims::default());
    let namespaces: Vec<_> = options.watch_namespaces.iter().filter(|namespace| !namespace.is_empty()).map(String::as_str).collect();
    claims::<Topic>(&client, &namespaces, &topics, topic::observe::claim).await?;
    claims::<User>(&client, &namespaces, &users, user::observe::claim).await?;
    let census = Census::of(&key, &mirror.read(), &topics, &users);
    Ok(census)
}

async fn claims<K>(client: &Client, namespaces: &[&str], claims: &Claims, claim: fn(&K) -> Claim) -> Result<(), MainError>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let apis: Vec<Api<K>> = match namespaces {
        [] => vec![Api::all(client.clone())],
        names => names.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
    };
    for api in apis {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await?;
            page.items.iter().for_each(|object| claims.set(object, claim(object)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
    }
    Ok(())
}
