//! `freehold operator`: logs, health, leader election, and every kind in every watched namespace.

use crate::definitions;
use crate::fault::FaultLayer;
use crate::kinds::{kafka_cluster::KafkaClusterKind, topic::TopicKind, user::UserKind};
use crate::runtime::context::{Context, Settings};
use crate::runtime::health::{self, Health};
use crate::runtime::{driver, lease};
use crate::webhook;
use kube::Client;
use kube::client::ClientBuilder;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What is under way is finished within this; Kubernetes kills after 30 s.
const STOP_LIMIT: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub struct Options {
    /// Namespaces to watch, separated by commas; empty: all.
    #[arg(long, env = "FREEHOLD_WATCH_NAMESPACES", default_value = "", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// The operator's own namespace.
    #[arg(long, env = "FREEHOLD_NAMESPACE", default_value = "freehold-system")]
    namespace: String,
    /// This replica's name in the Lease.
    #[arg(long, env = "FREEHOLD_IDENTITY", default_value = "freehold")]
    identity: String,
    /// Kafka images: VERSION=IMAGE, separated by commas.
    #[arg(long, env = "FREEHOLD_IMAGES", default_value = "", value_delimiter = ',')]
    images: Vec<String>,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "FREEHOLD_HTTP", default_value = "0.0.0.0:8080")]
    http: SocketAddr,
    /// Address of the admission webhook.
    #[arg(long, env = "FREEHOLD_WEBHOOK_HTTPS", default_value = "0.0.0.0:9443")]
    webhook_https: SocketAddr,
    /// The ValidatingWebhookConfiguration that sends objects to the webhook; empty: no webhook.
    #[arg(long, env = "FREEHOLD_WEBHOOK_CONFIGURATION", default_value = "")]
    webhook_configuration: String,
    /// Log as JSON or for people.
    #[arg(long, env = "FREEHOLD_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
    /// What to log, as tracing's EnvFilter reads it.
    #[arg(long, env = "FREEHOLD_LOG", default_value = "info")]
    log: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    Json,
    Human,
}

pub type MainError = Box<dyn std::error::Error + Send + Sync>;

/// Runs until SIGTERM or the loss of the lease.
pub fn main(options: Options) -> Result<(), MainError> {
    // Two threads: reconciles wait for others nearly all of their time.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(4).enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> Result<(), MainError> {
    // The client library's own words are of use only where they are asked for.
    let filter = tracing_subscriber::EnvFilter::try_new(format!("kube_runtime=warn,kube_client=warn,{}", options.log))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Json => logs.json().flatten_event(true).init(),
        LogFormat::Human => logs.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    let settings = settings(&options)?;
    let config = kube::Config::infer().await?;
    let client: Client = ClientBuilder::try_from(config)?.with_layer(&FaultLayer).build();
    if !options.webhook_configuration.is_empty() {
        // On every replica, leader or not.
        let serving = webhook::ServingCertificate::default();
        let (namespace, configuration) = (options.namespace.clone(), options.webhook_configuration.clone());
        tokio::spawn(webhook::keep(client.clone(), namespace, configuration, serving.clone()));
        let (address, client, settings) = (options.webhook_https, client.clone(), settings.clone());
        tokio::spawn(async move {
            if let Err(error) = webhook::serve(address, client, settings, serving).await {
                tracing::error!(%error, "the webhook ended; objects are checked at reconcile");
            }
        });
    }
    let context = Arc::new(Context::new(client.clone(), settings));
    let listener = tokio::net::TcpListener::bind(options.http).await?;
    let health = Health::default();
    tokio::spawn(health::serve(listener, health.clone(), Arc::clone(&context)));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = definitions::wait(&client, &health) => {}
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    let mut elector = lease::Elector::new(client, &options.namespace, "freehold", options.identity);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "waiting for the lease");
    tokio::select! {
        version = elector.acquire() => context.listed_until(version),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    tracing::info!("leading");
    context.metrics.leads(true);
    let (stop, stopped) = watch::channel(false);
    let kinds = tokio::spawn(run_kinds(context, health, stopped));
    let lost = tokio::select! {
        () = elector.hold() => true,
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
    };
    if lost {
        // Another may lead by now: nothing more is written by this process.
        return Err("the lease was lost".into());
    }
    tracing::info!("stopping");
    stop.send(true)?;
    if tokio::time::timeout(STOP_LIMIT, kinds).await.is_err() {
        tracing::warn!("something under way did not end in time");
    }
    elector.release().await?;
    Ok(())
}

fn settings(options: &Options) -> Result<Settings, MainError> {
    let mut images = BTreeMap::new();
    for pair in options.images.iter().filter(|pair| !pair.is_empty()) {
        let (version, image) = pair.split_once('=').ok_or_else(|| format!("--images: {pair:?} is not VERSION=IMAGE"))?;
        images.insert(version.to_owned(), image.to_owned());
    }
    let watch_namespaces = options.watch_namespaces.iter().filter(|name| !name.is_empty()).cloned().collect();
    Ok(Settings { namespace: options.namespace.clone(), watch_namespaces, images })
}

/// Every kind in every watched namespace, side by side.
async fn run_kinds(context: Arc<Context>, health: Health, stop: watch::Receiver<bool>) {
    let namespaces: Vec<Option<String>> = match context.settings.watch_namespaces.as_slice() {
        [] => vec![None],
        names => names.iter().cloned().map(Some).collect(),
    };
    let mut running = tokio::task::JoinSet::new();
    for namespace in namespaces {
        running.spawn(driver::run::<KafkaClusterKind>(Arc::clone(&context), namespace.clone(), health.clone(), stop.clone()));
        running.spawn(driver::run::<TopicKind>(Arc::clone(&context), namespace.clone(), health.clone(), stop.clone()));
        running.spawn(driver::run::<UserKind>(Arc::clone(&context), namespace, health.clone(), stop.clone()));
    }
    while running.join_next().await.is_some() {}
}
