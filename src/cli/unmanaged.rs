//! `freehold unmanaged NAMESPACE/NAME`: what a cluster holds that no Topic and no User owns, as
//! Kafka itself records it. It asks the cluster as the operator does, and so runs where the
//! operator does: `kubectl exec deploy/freehold -- freehold unmanaged kafka/demo`.

use crate::api::reference::ClusterKey;
use crate::cli::operator::MainError;
use crate::cli::plan;
use crate::kinds::context::Settings;
use crate::kinds::kafka_cluster::context::Context;
use crate::kinds::kafka_cluster::observe;
use freehold_kafka::census::Census;
use kube::Client;
use std::io::Write;
use std::time::Duration;

const LOAD_LIMIT: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub struct Options {
    /// The KafkaCluster: NAMESPACE/NAME.
    cluster: String,
}

pub fn main(options: &Options) -> Result<(), MainError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
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
    let object = plan::find(client.clone(), &key).await?;
    let observed = observe::observe(&context, &object).await?;
    let connected = context
        .clients
        .get(&object, &observed.pods, &observed.secrets)?;
    let mirror = connected.ok_or("no broker of the cluster is ready")?.mirror;
    mirror.wait(LOAD_LIMIT, |_| mirror.is_loaded()).await;
    if !mirror.is_loaded() {
        return Err("no controller of the cluster answers".into());
    }
    let census = Census::of(&mirror.read());
    Ok(census)
}
