//! `freehold plan NAMESPACE/NAME [--file FILE]`: what a cluster's spec, or another one, would do. It asks the cluster as the
//! operator does and changes nothing: `kubectl exec -i deploy/freehold -- freehold plan kafka/demo --file - < new.yaml`.

use crate::kinds::kafka_cluster::api::KafkaCluster;
use crate::kinds::kafka_cluster::observe::{self, KafkaFacts, Observed};
use crate::kinds::kafka_cluster::{autoscale, preview, validate};
use crate::kinds::reference::ClusterKey;
use crate::operator::MainError;
use crate::runtime::context::{Context, Settings};
use kube::Client;
use kube::api::Api;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The first answer of a cluster takes a moment: its metadata is read from the start.
const ASK_LIMIT: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub struct Options {
    /// The KafkaCluster: NAMESPACE/NAME.
    cluster: String,
    /// A KafkaCluster whose spec is looked at instead of the one in force; `-`: standard input.
    #[arg(long)]
    file: Option<PathBuf>,
    /// The operator's own namespace.
    #[arg(long, env = "FREEHOLD_NAMESPACE", default_value = "freehold-system")]
    namespace: String,
    /// Kafka images by version, as the operator has them.
    #[arg(long, env = "FREEHOLD_IMAGES", default_value = "", value_delimiter = ',')]
    images: Vec<String>,
}

pub fn main(options: &Options) -> Result<(), MainError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lines = runtime.block_on(lines(options))?;
    let mut out = std::io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    Ok(())
}

fn given(options: &Options) -> Result<Option<KafkaCluster>, MainError> {
    let Some(path) = &options.file else { return Ok(None) };
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(Some(serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?))
}

async fn lines(options: &Options) -> Result<Vec<String>, MainError> {
    let key: ClusterKey = options.cluster.parse()?;
    let client = Client::try_default().await?;
    let images: BTreeMap<String, String> =
        options.images.iter().filter_map(|image| image.split_once('=')).map(|(version, image)| (version.into(), image.into())).collect();
    let settings = Settings { namespace: options.namespace.clone(), images, ..Settings::default() };
    let context = Context::new(client.clone(), settings);
    let mut object = find(client, &key).await?;
    if let Some(given) = given(options)? {
        object.spec = given.spec;
    }
    let object = autoscale::effective(&object);
    let mut observed = answered(&context, &object).await?;
    // The operator asks for sizes now and then; here nobody has yet.
    if let Some(connected) = context.clients.get(&object, &observed.pods, &observed.secrets)? {
        match connected.figures.ask_bytes(connected.admin.direct()).await {
            Ok(_) => observed = answered(&context, &object).await?,
            Err(error) => eprintln!("freehold: what moves is counted without its bytes: {error}"),
        }
    }
    let cluster = validate::validate(&object, &observed)
        .map_err(|invalids| invalids.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    Ok(preview::preview(&object, &cluster, &observed))
}

/// Looks until the brokers answer, or it has been long enough: what can be said without them is said.
async fn answered(context: &Context, object: &KafkaCluster) -> Result<Observed, MainError> {
    let start = Instant::now();
    loop {
        let observed = observe::observe(context, object).await?;
        if !matches!(observed.kafka, KafkaFacts::Unavailable(_)) || start.elapsed() > ASK_LIMIT {
            return Ok(observed);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The KafkaCluster of this name.
///
/// # Errors
/// There is none, or the API server does not say.
pub async fn find(client: Client, key: &ClusterKey) -> Result<KafkaCluster, MainError> {
    let found = Api::<KafkaCluster>::namespaced(client, &key.namespace).get_opt(&key.name).await?;
    Ok(found.ok_or_else(|| format!("there is no KafkaCluster {} in namespace {}; give NAMESPACE/NAME", key.name, key.namespace))?)
}
