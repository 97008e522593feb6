//! `freehold operator`: logs, health, leader election, and every kind in every watched namespace.

use crate::clusters::ClusterEvent;
use crate::fault;
use crate::kinds::REGISTRY;
use crate::kinds::context::{Context, Settings};
use crate::kinds::definitions;
use crate::kinds::registration::Served;
use crate::kubernetes::names::ClusterDomain;
use crate::runtime::health;
use crate::runtime::health::Health;
use crate::runtime::{lease, namespaces, sockets};
use crate::webhook;
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

/// What an operator watches and where it is: for itself, and for the commands that look after it.
#[derive(clap::Args)]
pub struct Scope {
    /// Namespaces that the operator watches, separated by commas.
    #[arg(
        long,
        env = "FREEHOLD_WATCH_NAMESPACES",
        default_value = "",
        value_delimiter = ','
    )]
    watch_namespaces: Vec<String>,
    /// It watches every namespace. Its ServiceAccount needs rights in all of them then, on Secrets
    /// too.
    #[arg(long, env = "FREEHOLD_ALL_NAMESPACES")]
    all_namespaces: bool,
    /// The operator's own namespace.
    #[arg(long, env = "FREEHOLD_NAMESPACE", default_value = "freehold-system")]
    pub namespace: String,
}

impl Scope {
    /// The namespaces to watch; none stands for all, which must be asked for: a list that came to
    /// nothing is a mistake.
    ///
    /// # Errors
    /// Both are given, or neither.
    pub fn watched(&self) -> Result<Vec<String>, MainError> {
        let names: Vec<String> = self
            .watch_namespaces
            .iter()
            .filter(|name| !name.is_empty())
            .cloned()
            .collect();
        match (self.all_namespaces, names.as_slice()) {
            (true, [_, ..]) => {
                Err("--watch-namespaces and --all-namespaces: give one of them".into())
            }
            (false, []) => Err(
                "--watch-namespaces names no namespace: name some, or give --all-namespaces".into(),
            ),
            _ => Ok(names),
        }
    }
}

/// Options of Kafka nodes, for the operator and for the command that plans as the operator does.
#[derive(clap::Args)]
pub struct NodeOptions {
    /// Kafka images: VERSION=IMAGE, separated by commas.
    #[arg(
        long,
        env = "FREEHOLD_IMAGES",
        default_value = "",
        value_delimiter = ','
    )]
    images: Vec<String>,
    /// Secrets, in the namespace of each KafkaCluster and Pipeline, by which the images of Kafka and
    /// of the runner are pulled; separated by commas.
    #[arg(
        long,
        env = "FREEHOLD_IMAGE_PULL_SECRETS",
        default_value = "",
        value_delimiter = ','
    )]
    image_pull_secrets: Vec<String>,
    /// The domain of this Kubernetes' Services, as its kubelets have it (clusterDomain):
    /// certificates carry names below it.
    #[arg(long, env = "FREEHOLD_CLUSTER_DOMAIN", default_value_t)]
    cluster_domain: ClusterDomain,
}

impl NodeOptions {
    /// Puts these options into settings.
    ///
    /// # Errors
    /// An image without its version.
    pub fn put(&self, settings: Settings) -> Result<Settings, MainError> {
        let mut images = BTreeMap::new();
        for pair in self.images.iter().filter(|pair| !pair.is_empty()) {
            let (version, image) = pair
                .split_once('=')
                .ok_or_else(|| format!("--images: {pair:?} is not VERSION=IMAGE"))?;
            images.insert(version.to_owned(), image.to_owned());
        }
        let secrets = self.image_pull_secrets.iter();
        Ok(Settings {
            images,
            image_pull_secrets: secrets.filter(|name| !name.is_empty()).cloned().collect(),
            cluster_domain: self.cluster_domain.clone(),
            ..settings
        })
    }
}

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
    /// This replica's name in the Lease.
    #[arg(long, env = "FREEHOLD_IDENTITY", default_value = "freehold")]
    identity: String,
    #[command(flatten)]
    nodes: NodeOptions,
    /// The image of the runner, which the pods of Pipelines run; empty: no Pipeline can run.
    #[arg(long, env = "FREEHOLD_RUNNER_IMAGE", default_value = "")]
    runner_image: String,
    /// Address of /healthz, /readyz and /metrics; [::] is every address, of IPv4 too.
    #[arg(long, env = "FREEHOLD_HTTP", default_value = "[::]:8080")]
    http: SocketAddr,
    /// Address of the admission webhook.
    #[arg(long, env = "FREEHOLD_WEBHOOK_HTTPS", default_value = "[::]:9443")]
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
///
/// # Errors
/// What is wrong with the options, and what kept the operator from starting.
pub fn main(options: Options) -> Result<(), MainError> {
    // Two threads: reconciles wait for others nearly all of their time.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> Result<(), MainError> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter(&options.log))?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Json => logs.json().flatten_event(true).init(),
        LogFormat::Human => logs.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    fault::check(std::env::vars_os().map(|(name, _)| name))?;
    let settings = settings(&options)?;
    let config = kube::Config::infer().await?;
    if !options.webhook_configuration.is_empty() {
        // On every replica, leader or not.
        serve_webhook(&options, config.clone(), settings.clone())?;
    }
    let client = fault::client(config.clone())?;
    let context = Arc::new(Context::new(client.clone(), settings));
    let listener = sockets::bind(options.http).await?;
    let health = Health::default();
    let counted = Arc::clone(&context);
    let metrics = move || {
        counted.inventory.count(&counted.clusters);
        counted.metrics.text()
    };
    tokio::spawn(health::serve(listener, health.clone(), metrics));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        () = definitions::wait(&client, &health) => {}
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    let for_the_lease = move || Ok(ClientBuilder::try_from(config)?.build());
    let mut candidate = lease::Candidate::stand(
        for_the_lease,
        options.scope.namespace.clone(),
        options.identity.clone(),
        || {
            // Another may lead soon: nothing more is written by this process, whatever its other
            // threads are about.
            tracing::error!("the lease was lost");
            std::process::exit(1);
        },
    )?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "waiting for the lease");
    tokio::select! {
        version = candidate.acquired() => context.listed_until(version.ok_or("no client of the API server for the lease")?),
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    }
    tracing::info!("leading");
    context.metrics.leads(true);
    let (stop, stopped) = watch::channel(false);
    let kinds = tokio::spawn(run_kinds(context, health, stopped));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.send(true)?;
    // The lease is renewed until all has ended.
    if tokio::time::timeout(STOP_LIMIT, kinds).await.is_err() {
        tracing::warn!("something under way did not end in time: the lease is left to expire");
        return Ok(());
    }
    tokio::task::spawn_blocking(|| candidate.release()).await?;
    Ok(())
}

/// What is logged. The client library's own words are of use only where they are asked for; two of
/// its modules log an answer that they cannot read as it is, be it a list of Secrets, and so never
/// do.
fn filter(asked: &str) -> String {
    format!(
        "kube_runtime=warn,kube_client=warn,{asked},kube_client::client=off,kube_client::api=off"
    )
}

/// Serves the webhook on a thread and a runtime of its own: a review waits for no reconcile, and no
/// reconcile for a review.
fn serve_webhook(
    options: &Options,
    config: kube::Config,
    settings: Settings,
) -> Result<(), MainError> {
    // While one thread waits for a check in a child process, another one resolves names.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(2)
        .enable_all()
        .build()?;
    let (address, namespace, configuration) = (
        options.webhook_https,
        options.scope.namespace.clone(),
        options.webhook_configuration.clone(),
    );
    let serve = async move {
        let client = fault::client(config)?;
        let serving = webhook::ServingCertificate::default();
        tokio::spawn(webhook::keep(
            client.clone(),
            namespace,
            configuration,
            serving.clone(),
        ));
        webhook::serve(address, client, settings, serving).await?;
        Ok::<_, MainError>(())
    };
    let thread = move || {
        if let Err(error) = runtime.block_on(serve) {
            tracing::error!(%error, "the webhook ended; objects are checked at reconcile");
        }
    };
    std::thread::Builder::new()
        .name("webhook".into())
        .spawn(thread)?;
    Ok(())
}

fn settings(options: &Options) -> Result<Settings, MainError> {
    options.nodes.put(Settings {
        namespace: options.scope.namespace.clone(),
        watch_namespaces: options.scope.watched()?,
        cluster_namespaces: options
            .cluster_namespaces
            .iter()
            .filter(|name| !name.is_empty())
            .cloned()
            .collect(),
        runner_image: Some(options.runner_image.clone()).filter(|image| !image.is_empty()),
        ..Settings::default()
    })
}

/// Every kind in every namespace where it is served, side by side.
async fn run_kinds(context: Arc<Context>, health: Health, stop: watch::Receiver<bool>) {
    let namespaces: Vec<Option<String>> = match context.settings.watch_namespaces.as_slice() {
        [] => vec![None],
        names => names.iter().cloned().map(Some).collect(),
    };
    let cluster_namespaces = match context.settings.cluster_namespaces.as_slice() {
        [] => namespaces.clone(),
        names => names.iter().cloned().map(Some).collect(),
    };
    let mut running = tokio::task::JoinSet::new();
    let announcing = Arc::clone(&context);
    let changed = move |namespace| {
        announcing
            .clusters
            .announce(ClusterEvent::Namespace(namespace))
    };
    let (followed, stop_following) = (Arc::clone(&context), stop.clone());
    running.spawn(async move {
        namespaces::follow(
            &followed.client,
            &followed.namespaces,
            changed,
            stop_following,
        )
        .await
    });
    for entry in &REGISTRY {
        let driver = entry.driver(&context);
        let served = match entry.served {
            Served::Watched => &namespaces,
            Served::WithClusters => &cluster_namespaces,
        };
        for namespace in served {
            running.spawn(driver(namespace.clone(), health.clone(), stop.clone()));
        }
    }
    while running.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::Client;
    use std::io::Write;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_never_gets_into_the_log() {
        use k8s_openapi::api::core::v1::Secret;
        use kube::api::{Api, ListParams};
        for asked in ["info", "trace", "info,kube_client=trace"] {
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(tracing_subscriber::EnvFilter::try_new(filter(asked)).unwrap())
                .with_writer(move || writer.clone())
                .finish();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            tracing::subscriber::with_default(subscriber, || {
                runtime.block_on(async {
                    let answer = r#"{"apiVersion": "v1", "kind": "SecretList", "metadata": {}, "items": [{"data": {"password": "aHVudGVyMg=="}, "type": 7}]}"#;
                    let service = tower::service_fn(move |_: http::Request<kube::client::Body>| async move {
                        Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(answer.as_bytes().to_vec())))
                    });
                    let api: Api<Secret> = Api::default_namespaced(Client::new(service, "n"));
                    let error = api.list(&ListParams::default()).await.expect_err("it cannot be read");
                    tracing::warn!(%error, "a list failed");
                });
            });
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("a list failed"), "{asked}: {text}");
            assert!(!text.contains("aHVudGVyMg"), "{asked}: {text}");
        }
    }

    #[test]
    fn an_empty_name_of_the_runner_s_image_is_none() {
        #[derive(clap::Parser)]
        struct Arguments {
            #[command(flatten)]
            options: Options,
        }
        for (given, wanted) in [("", None), ("r:5000/runner:1.0", Some("r:5000/runner:1.0"))] {
            let words = ["operator", "--all-namespaces", "--runner-image", given];
            let Arguments { options } = clap::Parser::parse_from(words);
            let settings = settings(&options).unwrap();
            assert_eq!(settings.runner_image.as_deref(), wanted);
        }
    }

    #[test]
    fn all_namespaces_are_watched_only_where_that_is_asked_for() {
        let scope = |names: &[&str], all_namespaces| Scope {
            watch_namespaces: names.iter().map(|&name| name.to_owned()).collect(),
            all_namespaces,
            namespace: String::new(),
        };
        let (none, some) = ([""].as_slice(), ["kafka", ""].as_slice());
        assert_eq!(scope(some, false).watched().unwrap(), ["kafka"]);
        assert!(scope(none, true).watched().unwrap().is_empty());
        for (names, all) in [(none, false), (some, true)] {
            let error = scope(names, all).watched().unwrap_err().to_string();
            assert!(error.contains("--all-namespaces"), "{error}");
        }
    }
}
