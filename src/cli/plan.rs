//! `freehold plan NAMESPACE/NAME [--file FILE]`: what a cluster's spec, or another one, would do.
//! It asks the cluster as the operator does and changes nothing: `kubectl exec -i deploy/freehold
//! -- freehold plan kafka/demo --file - < new.yaml`.

use crate::api::kafka_cluster::{KafkaCluster, RightsPolicy};
use crate::api::reference::ClusterKey;
use crate::api::topic::Topic;
use crate::api::user::User;
use crate::cli::operator::{MainError, NodeOptions};
use crate::cli::render;
use crate::kinds::context::Settings;
use crate::kinds::kafka_cluster::context::Context;
use crate::kinds::kafka_cluster::observe;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use crate::kinds::kafka_cluster::{facts, preview, scaling, validate};
use crate::kinds::topic::TopicKind;
use crate::kubernetes;
use crate::kubernetes::guarded::Guarded;
use crate::runtime::kind::Kind;
use crate::tenancy::rights;
use kube::api::{Api, ListParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The first answer of a cluster takes a moment: its metadata is read from the start.
const ASK_LIMIT: Duration = Duration::from_secs(20);
/// Objects of one answer of the API server.
const PAGE: u32 = 500;

#[derive(clap::Args)]
pub struct Options {
    /// The KafkaCluster: NAMESPACE/NAME.
    cluster: String,
    /// A KafkaCluster whose spec is looked at instead of the one in force; `-`: standard input.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Namespaces whose Topics and Users count, separated by commas; empty: all.
    #[arg(
        long,
        env = "FREEHOLD_WATCH_NAMESPACES",
        default_value = "",
        value_delimiter = ','
    )]
    watch_namespaces: Vec<String>,
    /// The operator's own namespace.
    #[arg(long, env = "FREEHOLD_NAMESPACE", default_value = "freehold-system")]
    namespace: String,
    #[command(flatten)]
    nodes: NodeOptions,
}

pub fn main(options: &Options) -> Result<(), MainError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let lines = runtime.block_on(lines(options))?;
    let mut out = std::io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    Ok(())
}

fn given(options: &Options) -> Result<Option<KafkaCluster>, MainError> {
    let Some(path) = &options.file else {
        return Ok(None);
    };
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let value: Value =
        serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(
        render::cluster(value).map_err(|error| format!("{}: {error}", path.display()))?,
    ))
}

async fn lines(options: &Options) -> Result<Vec<String>, MainError> {
    let key: ClusterKey = options.cluster.parse()?;
    let client = Client::try_default().await?;
    let settings = options.nodes.put(Settings {
        namespace: options.namespace.clone(),
        ..Settings::default()
    })?;
    let context = Context::new(client.clone(), settings);
    let mut object = find(client, &key).await?;
    if let Some(given) = given(options)? {
        object.spec = given.spec;
    }
    let object = scaling::effective(&object);
    let mut observed = answered(&context, &object).await?;
    // The operator asks for sizes now and then; here nobody has yet.
    if let Some(connected) = context
        .clients
        .get(&object, &observed.pods, &observed.secrets)?
    {
        match connected.figures.ask_bytes(connected.admin.direct()).await {
            Ok(_) => observed = answered(&context, &object).await?,
            Err(error) => eprintln!("freehold: what moves is counted without its bytes: {error}"),
        }
    }
    let cluster = validate::validate(&object, &observed).map_err(|invalids| {
        invalids
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    let mut lines = preview::preview(&object, &cluster, &observed);
    lines.extend(rights(options, &context, &object, &key, &observed).await?);
    Ok(lines)
}

/// What Users would lose where this spec says `Own`, or says nothing and the cluster is from before
/// that was the default.
async fn rights(
    options: &Options,
    context: &Context,
    object: &KafkaCluster,
    key: &ClusterKey,
    observed: &Observed,
) -> Result<Vec<String>, MainError> {
    let in_force = object
        .status
        .as_ref()
        .and_then(|status| status.rights)
        .unwrap_or(facts::rights(object, observed.identity.as_ref()));
    let Some(connected) = context
        .clients
        .get(object, &observed.pods, &observed.secrets)?
    else {
        return Ok(Vec::new());
    };
    if in_force == RightsPolicy::Own || object.spec.access.rights == Some(RightsPolicy::Any) {
        return Ok(Vec::new());
    }
    connected
        .mirror
        .wait(ASK_LIMIT, |_| connected.mirror.is_loaded())
        .await;
    let namespaces: Vec<_> = options
        .watch_namespaces
        .iter()
        .filter(|namespace| !namespace.is_empty())
        .map(String::as_str)
        .collect();
    for topic in all::<Topic>(&context.client, &namespaces).await? {
        TopicKind::noted(context, &topic);
    }
    let users = all::<User>(&context.client, &namespaces).await?;
    let losses = rights::losses(
        users.iter(),
        &object.spec.access,
        key,
        &context.sharing,
        &connected.mirror.read(),
    );
    let when = if object.spec.access.rights.is_none() {
        "once spec.access.rights is Own"
    } else {
        "at once"
    };
    Ok(losses
        .into_iter()
        .map(|line| format!("{when}: {line}"))
        .collect())
}

/// Every object of a kind in some namespaces; none named: in all.
///
/// # Errors
/// What the API server says.
async fn all<K>(client: &Client, namespaces: &[&str]) -> Result<Vec<K>, MainError>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let apis: Vec<(&str, Api<Guarded<K>>)> = match namespaces {
        [] => vec![("", Api::all(client.clone()))],
        names => names
            .iter()
            .map(|name| (*name, Api::namespaced(client.clone(), name)))
            .collect(),
    };
    let mut all = Vec::new();
    let kind = K::kind(&());
    for (namespace, api) in apis {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match api.list(&params).await {
                Ok(page) => page,
                // A namespace that is gone has none; of one that lets nobody look the others are
                // told all the same.
                Err(kube::Error::Api(answer))
                    if !namespace.is_empty() && [403, 404].contains(&answer.code) =>
                {
                    eprintln!(
                        "freehold: namespace {namespace}: {}; its {kind}s are left out",
                        answer.message
                    );
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            for object in page.items {
                match object.read() {
                    Ok(object) => all.push(object),
                    Err(unread) => eprintln!(
                        "freehold: {kind} {}/{} cannot be read ({}: {}); it is left out",
                        unread.meta.namespace.unwrap_or_default(),
                        unread.meta.name.unwrap_or_default(),
                        unread.field,
                        unread.why
                    ),
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
    }
    Ok(all)
}

/// Looks until the brokers answer, or it has been long enough: what can be said without them is
/// said.
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
    let found = Api::<Guarded<KafkaCluster>>::namespaced(client, &key.namespace)
        .get_opt(&key.name)
        .await?;
    let found = found.map(kubernetes::understood).transpose()?;
    Ok(found.ok_or_else(|| {
        format!(
            "there is no KafkaCluster {} in namespace {}; give NAMESPACE/NAME",
            key.name, key.namespace
        )
    })?)
}
