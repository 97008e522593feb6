//! Runs the steps of a Pipeline's reconcile: observe, check, record the revision, apply, ask the
//! runners, status.

use crate::api::conditions::{Condition, ConditionType, Reason, State};
use crate::api::pipeline::{Pipeline, PipelineStatus, ReadTopic};
use crate::api::reference::ClusterKey;
use crate::api::replay::ReplayStatus;
use crate::clusters::{Cluster, ClusterEvent};
use crate::kinds::dependent::lookup::Dependence;
use crate::kinds::dependent::outcome::Reconciled;
use crate::kinds::dependent::{events, lookup, outcome};
use crate::kinds::drift;
use crate::kinds::error::{Error, Invalid};
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::desired::{self, USER_FOLDER, Wanted};
use crate::kinds::pipeline::observe::Credential;
use crate::kinds::pipeline::plan::Applied;
use crate::kinds::pipeline::pods::PodFacts;
use crate::kinds::pipeline::replay::Decision;
use crate::kinds::pipeline::status::{Learned, Runs, members_gone};
use crate::kinds::pipeline::{
    alerts, apply, certificate, deletion, observe, pods, programs, purging, replay, replaying,
    runners, scaling, sources, status, tenants, validate,
};
use crate::kubernetes::{self, labels};
use crate::runtime::kind::{Kind, Outcome, Requeue, Requeued, Watch};
use freehold_pipeline::graph::Graph;
use freehold_pipeline::rights::Rights;
use freehold_pipeline::stages::{Cut, Stage, cut};
use freehold_pipeline::topics::TopicNames;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often the runners are asked: a block that fails is named within ten seconds.
const ASK_AGAIN: Duration = Duration::from_secs(4);

/// While it starts or changes it is looked at this often, …
const ASK_SOON: Duration = Duration::from_millis(500);
/// … for this time.
const SOON_FOR_SECS: i64 = 60;

/// The Pipeline kind, for the driver.
pub struct PipelineKind;

impl Kind for PipelineKind {
    type Object = Pipeline;
    type Status = PipelineStatus;
    type Context = Context;
    type Group = ClusterKey;

    const CONCURRENCY: u16 = 16;
    const DEBOUNCE: Duration = Duration::from_millis(10);
    /// What an earlier leader still writes late must not begin a replay of dead letters again.
    const STATUS_IS_A_LEASE: bool = true;

    fn status(object: &Pipeline) -> Option<&PipelineStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &PipelineStatus) -> &[Condition] {
        &status.conditions
    }
    fn group(object: &Pipeline) -> Option<ClusterKey> {
        let namespace = object.namespace().unwrap_or_default();
        Some(object.spec.cluster_ref.key(&namespace))
    }
    fn watches() -> Vec<Watch> {
        vec![Watch {
            resource: kubernetes::resource::<StatefulSet>(),
            label: labels::PIPELINE,
        }]
    }
    fn triggers(
        context: &Arc<Context>,
        _namespace: Option<&str>,
    ) -> Vec<BoxStream<'static, Requeued<Pipeline, ClusterKey>>> {
        let events = events::receive(context.clusters.subscribe());
        let requeued = events.filter_map(|event| async {
            match event {
                Some(ClusterEvent::Changed(cluster)) => Some(Requeued::Group(cluster)),
                // Its Topics and its User are looked at whenever the runners are asked.
                Some(ClusterEvent::Metadata(..)) => None,
                Some(ClusterEvent::Namespace(_)) | None => Some(Requeued::All),
            }
        });
        vec![requeued.boxed()]
    }
    fn gone(context: &Context, object: &Pipeline) {
        context.forget(object);
    }

    async fn reconcile(object: Arc<Pipeline>, context: Arc<Context>) -> Outcome<PipelineStatus> {
        let now = Time(Timestamp::now());
        let namespace = object.namespace().unwrap_or_default();
        let is_listed = context.topics.is_listed(&namespace) && context.users.is_listed(&namespace);
        let result = if !is_listed {
            unlisted(&object, &context).await
        } else if object.metadata.deletion_timestamp.is_some() {
            let ended = deletion::end(&object, &context, now.0).await;
            outcome::end(&context, &*object, ended, now.0).await
        } else {
            run(&object, &context, &now).await.map(Some)
        };
        outcome::outcome(result, |learned, state| {
            status::status(&object, learned, state, &now)
        })
    }
}

/// What a reconcile needs throughout.
#[derive(Clone, Copy)]
struct Scope<'a> {
    object: &'a Pipeline,
    context: &'a Context,
    names: &'a TopicNames,
    cut: &'a Cut,
    /// What is known of the topics that it reads.
    topics: &'a [ReadTopic],
    /// The stages whose topics have other partitions now, with those before.
    changed: &'a BTreeMap<String, i32>,
    /// The partitions that each stage reads, as `changed` has seen them: the status must say no
    /// others, or members that have to join anew would be missed.
    partitions: &'a BTreeMap<String, i32>,
}

/// Before Topics and Users are listed nothing can be said; the replicas are what the spec says.
async fn unlisted(
    object: &Pipeline,
    context: &Context,
) -> Result<Option<Reconciled<Learned>>, Error> {
    if object.metadata.deletion_timestamp.is_none() {
        apply::scale(&context.client, object).await?;
    }
    Err(Error::Unlisted)
}

async fn run(
    object: &Pipeline,
    context: &Context,
    now: &Time,
) -> Result<Reconciled<Learned>, Error> {
    let mut done = observed(object, context).await;
    match &mut done {
        Ok(Reconciled {
            learned: Learned {
                runs: Some(runs), ..
            },
            notices,
            ..
        }) => notices.extend(alerts::notices(object, &runs.reports, now)),
        // Whatever keeps it from more: it has the replicas that the spec says.
        _ => {
            context.figures.forget(object);
            apply::scale(&context.client, object).await?;
        }
    }
    done
}

async fn observed(object: &Pipeline, context: &Context) -> Result<Reconciled<Learned>, Error> {
    let namespace = object.namespace().unwrap_or_default();
    let names = match observe::topics(context, object) {
        Ok(names) => names,
        Err(state) => return Ok(Reconciled::waiting(state, ASK_AGAIN)),
    };
    let definition = object.spec.definition();
    let graph = Graph::of(&definition)
        .map_err(|findings| Error::Invalid(validate::findings(Err(findings)).0))?;
    let cut = cut(&graph, &definition, &names, &namespace, &object.name_any());
    let scope = Scope {
        object,
        context,
        names: &names,
        cut: &cut,
        topics: &[],
        changed: &BTreeMap::new(),
        partitions: &BTreeMap::new(),
    };
    let key = object.spec.cluster_ref.key(&namespace);
    match lookup::cluster(context, &key, &namespace).await? {
        Ok(cluster) => with_cluster(&scope, &cluster).await,
        Err(dependence) => without_cluster(&scope, &dependence).await,
    }
}

/// While its cluster is Paused or does not answer the operator, the runners still tell how they do.
async fn without_cluster(
    scope: &Scope<'_>,
    dependence: &Dependence,
) -> Result<Reconciled<Learned>, Error> {
    let Scope {
        object, context, ..
    } = scope;
    let mut done: Reconciled<Learned> = dependence.reconciled::<PipelineKind, _>(object, context);
    // What it said before of its pods may be so no more.
    let is_of_pods = [Reason::Ready, Reason::Starting, Reason::BlockFailing];
    if is_of_pods.contains(&done.state.words().0) {
        apply::scale(&context.client, object).await?;
        let pods = pods::list(&context.client, object).await?;
        let runs = look(scope, pods, BTreeMap::new(), None).await?;
        done.state = runs.state(object);
        done.learned.runs = Some(runs);
        done.requeue = Requeue::After(ASK_AGAIN);
    }
    Ok(done)
}

async fn with_cluster(scope: &Scope<'_>, cluster: &Cluster) -> Result<Reconciled<Learned>, Error> {
    let partitions = sources::partitions(&scope.cut.stages, |topic| {
        observe::partition_count(cluster, topic)
    });
    let changed = sources::changed(scope.object, &partitions);
    let counted = sources::with_partitions(scope.object, &partitions);
    let object = counted.as_deref().unwrap_or(scope.object);
    let (stages, now) = (&scope.cut.stages, Time(Timestamp::now()));
    let id = |topic: &str| observe::topic_id(cluster, topic);
    let topics = sources::topics(object, stages, id, &now);
    let scope = &Scope {
        object,
        topics: &topics,
        changed: &changed,
        partitions: &partitions,
        ..*scope
    };
    let Scope {
        object, context, ..
    } = scope;
    if context.settings.runner_image.is_none() {
        let why = "this Freehold was started without an image of the runner; set runnerImage of \
                   the chart (--runner-image)";
        return Err(Error::Invalid(vec![Invalid::new("spec", why)]));
    }
    let mut warnings = programs::checked(object, context, cluster, scope.names).await?;
    warnings.extend(sources::warnings(object, &topics, &now));
    if !kubernetes::has_finalizer(*object) {
        context.ensure_current(*object).await?;
        kubernetes::set_finalizer(&context.client, *object, true).await?;
    }
    let revision = match context.recorded(object) {
        Some(revision) => revision,
        None => {
            context.ensure_current(*object).await?;
            let revision = apply::record(&context.client, object, cluster, scope.cut).await?;
            context.record(object, revision);
            revision
        }
    };
    let Brought {
        state,
        runs,
        replay,
        applied,
    } = bring(scope, cluster, revision).await?;
    let requeue = match &replay {
        // A pod on a node that is lost can take hours to go.
        Some(replay) if !replay.is_over() && is_new(replay) => ASK_SOON,
        _ => ask_again(object, &state),
    };
    Ok(Reconciled {
        learned: Learned {
            revision: Some(revision),
            warnings: Some([warnings, applied.warnings()].concat()),
            topics: Some(topics.clone()),
            runs,
            replay: Some(replay),
        },
        notices: [
            drift::notices(&applied.drift),
            sources::notices(object, stages, &topics),
        ]
        .concat(),
        requeue: Requeue::After(requeue),
        state,
    })
}

/// When to ask again: soon while something is on its way, but not for long.
fn ask_again(object: &Pipeline, state: &State) -> Duration {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.kind == ConditionType::Ready);
    let since = ready.next().map(|ready| ready.last_transition_time.0);
    let waited = since.map(|since| Timestamp::now().duration_since(since));
    let is_new = waited.is_none_or(|waited| waited.as_secs() < SOON_FOR_SECS);
    match state {
        State::Reconciling { .. } if is_new => ASK_SOON,
        _ => ASK_AGAIN,
    }
}

/// Whether a replay was asked for a short time ago.
fn is_new(replay: &ReplayStatus) -> bool {
    let since = replay.started_at.as_ref();
    since.is_some_and(|since| Timestamp::now().duration_since(since.0).as_secs() < SOON_FOR_SECS)
}

/// What a reconcile has brought about.
struct Brought {
    state: State,
    /// `None`: it did not come as far as the pods.
    runs: Option<Runs>,
    replay: Option<ReplayStatus>,
    applied: Applied,
}

/// What the pods connect with.
struct Means {
    credential: Credential,
    client: Value,
    /// What the stages cannot do.
    lacking: Option<State>,
    /// What a replay of dead letters cannot do.
    replay_lacks: Option<String>,
}

/// Brings everything in line with the spec, and asks the runners. Without a User nothing starts,
/// and what runs stays as it is.
async fn bring(scope: &Scope<'_>, cluster: &Cluster, revision: i64) -> Result<Brought, Error> {
    let Scope {
        object,
        context,
        cut,
        ..
    } = scope;
    let namespace = object.namespace().unwrap_or_default();
    let (decision, mut replay) = decide_replay(scope, cluster).await?;
    let rights = Rights::of(cut, &namespace, &object.name_any());
    let mut applied = Applied::default();
    let has_more = make(scope, cluster, &rights, &decision, &mut applied).await?;
    let means = match means(scope, cluster, &rights, &decision).await? {
        Ok(means) => means,
        Err(state) => {
            let refused = observe::refused_user(context, object);
            return Ok(Brought {
                replay: replay::waiting(&decision, replay, &state, refused),
                state,
                runs: None,
                applied,
            });
        }
    };
    let replaying = decision.replaying();
    let wanted = Wanted {
        object,
        settings: &context.settings,
        image: context.settings.runner_image.as_deref().unwrap_or_default(),
        cluster: &object.spec.cluster_ref.key(&namespace),
        ports: &tenants::ports(&cluster.facts),
        stages: &cut.stages,
        topics: scope.topics,
        revision,
        client: &means.client,
        secret: &means.credential.secret,
        credential: &means.credential.hash,
        replay: replaying.filter(|_| means.replay_lacks.is_none()),
    };
    let mut objects = certificate::secrets(context, object, &cut.stages, &cluster.facts).await?;
    objects.extend(desired::objects(&wanted));
    apply::all(context, object, &objects, &mut applied).await?;
    let started_with = |stage: &Stage| (stage.name.clone(), desired::started_with(&wanted, stage));
    let started_with = cut.stages.iter().map(started_with).collect();
    let pods = pods::list(&context.client, object).await?;
    if let Decision::Run(known, replaying) = &decision {
        let lacks = means.replay_lacks;
        replay = Some(replaying::look(object, known, replaying, lacks, &pods).await);
    }
    let mut runs = look(scope, pods, started_with, Some(cluster)).await?;
    let replaced = runs.pods.is_empty() || runs.state(object) == State::Ready;
    if has_more && replaced {
        let user = tenants::user(object, &cluster.facts, &decision.needs(&rights));
        apply::one(context, object, &user, &mut applied).await?;
    }
    runs.left = leave(scope, cluster, &runs).await;
    apply::join_anew(cluster, object, scope.changed, &mut runs.partitions).await;
    purging::purge(object, context, cluster, cut, &runs).await;
    // Pods that run already say themselves which block lacks what.
    let state = match (applied.state(runs.state(object)), means.lacking) {
        (State::Ready, Some(lacking)) => lacking,
        (state, _) => state,
    };
    Ok(Brought {
        state,
        runs: Some(runs),
        replay,
        applied,
    })
}

/// What is to be done about a replay of dead letters, and what is to be said of it so far. One that
/// has ended is cleaned up, whatever else the Pipeline waits for.
async fn decide_replay(
    scope: &Scope<'_>,
    cluster: &Cluster,
) -> Result<(Decision, Option<ReplayStatus>), Error> {
    let Scope {
        object,
        context,
        cut,
        ..
    } = scope;
    let decision = replay::decide(object, cut, Timestamp::now());
    if !matches!(decision, Decision::Nothing(_)) {
        context.ensure_current(*object).await?;
    }
    let status = match &decision {
        Decision::End(known) => Some(replaying::end(context, object, cluster, known).await?),
        other => other.status().cloned(),
    };
    Ok((decision, status))
}

/// What the pods connect with, or what to wait for before any pod starts.
async fn means(
    scope: &Scope<'_>,
    cluster: &Cluster,
    rights: &Rights,
    decision: &Decision,
) -> Result<Result<Means, State>, Error> {
    let Scope {
        object,
        context,
        cut,
        ..
    } = scope;
    if let Some(state) = observe::waiting_topics(context, object, &cut.internal) {
        return Ok(Err(state));
    }
    let (user, credential) = match observe::user(context, object).await? {
        Ok(found) => found,
        Err(state) => return Ok(Err(state)),
    };
    let lacking = match observe::lacking(object, cluster, &user, cut, rights) {
        Some(lacking) => Some(lacking),
        None => observe::waiting_secret(context, object).await?,
    };
    if let Some(state) = &lacking {
        let pods = pods::list(&context.client, object).await?;
        if pods.iter().all(|pod| pod.replays) {
            return Ok(Err(state.clone()));
        }
    }
    let Some(client) = tenants::client_settings(&user, &cluster.facts, USER_FOLDER) else {
        let why = "the cluster has no listener for the authentication of this User; add one";
        return Err(Error::Invalid(vec![Invalid::new("spec.userRef", why)]));
    };
    let replay_lacks = match decision {
        Decision::Run(known, _) => {
            let groups = [replay::replay_group(object, known)];
            let lacks = observe::lacks(cluster, &user, &decision.needs(rights), &groups);
            let is_own = object.spec.user_ref.is_none();
            let given = || "its User is being given the right to read the dead letters".to_owned();
            lacks.map(|lacks| if is_own { given() } else { lacks })
        }
        _ => None,
    };
    Ok(Ok(Means {
        credential,
        client,
        lacking,
        replay_lacks,
    }))
}

/// Makes the Topics of isolated blocks, and the User. Until the last pod of the revision before is
/// replaced, the User has that one's rights too: then it returns true.
async fn make(
    scope: &Scope<'_>,
    cluster: &Cluster,
    rights: &Rights,
    decision: &Decision,
    applied: &mut Applied,
) -> Result<bool, Error> {
    let Scope {
        object,
        context,
        names,
        cut,
        ..
    } = scope;
    for internal in &cut.internal {
        let partitions = observe::partitions(context, object, names, internal, cluster);
        let topic = tenants::topic(object, internal, partitions);
        apply::one(context, object, &topic, applied).await?;
    }
    if object.spec.user_ref.is_some() {
        return Ok(false);
    }
    let needed = decision.needs(rights);
    let user = tenants::user(object, &cluster.facts, &needed);
    let namespace = object.namespace().unwrap_or_default();
    let found = kubernetes::get(&context.client, &namespace, &user.resource, user.name()).await?;
    let mut granted = match &found {
        Some(live) => tenants::with_granted(&needed, live),
        None => needed.clone(),
    };
    if let Some(topic) = decision.needs_no_more(rights, cut) {
        granted.read.remove(&topic);
    }
    let user = tenants::user(object, &cluster.facts, &granted);
    apply::found_as(context, object, &user, found.as_ref(), applied).await?;
    Ok(granted != needed)
}

/// Removes the members of replicas that are gone from their groups, and fences their transactional
/// ids. Returns the stages of which it is done; what fails is tried again.
async fn leave(scope: &Scope<'_>, cluster: &Cluster, runs: &Runs) -> BTreeSet<String> {
    let object = scope.object;
    let mut left = BTreeSet::new();
    for (stage, gone) in members_gone(object, runs) {
        let group = desired::group(object, &stage);
        let ended = match apply::end_members(cluster, &group, gone.clone()).await {
            Ok(()) => apply::fence(cluster, object, &group, gone).await,
            failed => failed,
        };
        match ended {
            Ok(()) => drop(left.insert(stage)),
            Err(error) => tracing::warn!(group, %error, "replicas that are gone are still members"),
        }
    }
    left
}

/// The pods of the stages, and what their runners say.
async fn look(
    scope: &Scope<'_>,
    mut pods: Vec<PodFacts>,
    started_with: BTreeMap<String, BTreeMap<String, String>>,
    cluster: Option<&Cluster>,
) -> Result<Runs, Error> {
    let Scope {
        object, context, ..
    } = scope;
    let stages = &scope.cut.stages;
    pods.retain(|pod| !pod.replays);
    let reports = runners::ask(object, stages, &pods).await;
    let of_topic = |topic: &str| observe::partition_count(cluster?, topic);
    let replicas = |stage: &str| desired::replicas(object, stage);
    let mut runs = Runs {
        stages: stages.iter().map(|stage| stage.name.clone()).collect(),
        started_with,
        partitions: scope.partitions.clone(),
        scaled: scaling::observed(object, stages, &reports, of_topic, replicas),
        reports,
        pods,
        left: BTreeSet::new(),
        not_made: BTreeMap::new(),
    };
    runs.not_made = observe::not_made(context, object, &runs).await;
    context.figures.set(object, &runs);
    Ok(runs)
}
