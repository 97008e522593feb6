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
use crate::kinds::pipeline::desired::{self, Wanted};
use crate::kinds::pipeline::plan::Applied;
use crate::kinds::pipeline::pods::PodFacts;
use crate::kinds::pipeline::replay::Decision;
use crate::kinds::pipeline::scope::Scope;
use crate::kinds::pipeline::status::{Learned, Runs};
use crate::kinds::pipeline::{
    alerts, apply, certificate, deletion, given, members, observe, pods, programs, purging,
    refused, replay, replaying, runners, scaling, sources, status, tenants, validate,
};
use crate::kubernetes::{self, labels};
use crate::runtime::kind::{Kind, Outcome, Requeue, Requeued, Watch};
use freehold_pipeline::graph::Graph;
use freehold_pipeline::rights::Rights;
use freehold_pipeline::stages::{Stage, cut};
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
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

/// Before Topics and Users are listed nothing can be said; the replicas are what the spec says, or
/// none if the cluster did not allow the namespace.
async fn unlisted(
    object: &Pipeline,
    context: &Context,
) -> Result<Option<Reconciled<Learned>>, Error> {
    if object.metadata.deletion_timestamp.is_none() && !refused::was_refused(object) {
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
        // Whatever keeps it from more: it has the replicas that the spec says. While it is not known
        // whether its namespace is allowed now, it has none if that was not so before.
        _ => {
            context.figures.forget(object);
            if !refused::was_refused(object) {
                apply::scale(&context.client, object).await?;
            }
        }
    }
    done
}

async fn observed(object: &Pipeline, context: &Context) -> Result<Reconciled<Learned>, Error> {
    let namespace = object.namespace().unwrap_or_default();
    let key = object.spec.cluster_ref.key(&namespace);
    let cluster = lookup::cluster(context, &key, &namespace).await?;
    if let Err(dependence @ Dependence::Forbidden { .. }) = &cluster {
        let told = dependence.reconciled::<PipelineKind, _>(object, context);
        return refused::stopped(object, context, told).await;
    }
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
        changed: &BTreeSet::new(),
        partitions: &BTreeMap::new(),
    };
    match cluster {
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
    let (stages, now) = (&scope.cut.stages, Time(Timestamp::now()));
    let count = |topic: &str| observe::partition_count(cluster, topic);
    let partitions = sources::partitions(scope.object, stages, count);
    let changed = sources::changed(scope.object, stages, count);
    let counted = sources::with_partitions(scope.object, &partitions);
    let object = counted.as_deref().unwrap_or(scope.object);
    let found = |topic: &str| observe::topic_id(cluster, topic).zip(count(topic));
    let topics = sources::topics(object, stages, found, &now);
    let as_found = scope.object;
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
    let revision = recorded(scope, cluster).await?;
    let mut brought = bring(scope, cluster, revision).await?;
    let mut topics = topics.clone();
    note_topics(as_found, stages, &changed, &mut topics, &mut brought);
    let Brought {
        state,
        runs,
        replay,
        applied,
        members,
    } = brought;
    let mut notices = drift::notices(&applied.drift);
    notices.extend(sources::notices(object, stages, &topics));
    let requeue = match &replay {
        // A pod on a node that is lost can take hours to go.
        Some(replay) if !replay.is_over() && is_new(replay) => ASK_SOON,
        _ => ask_again(object, &state),
    };
    Ok(Reconciled {
        learned: Learned {
            revision: Some(revision),
            warnings: Some([warnings, applied.warnings(), members.waits].concat()),
            topics: Some(topics),
            runs,
            replay: Some(replay),
        },
        notices,
        requeue: Requeue::After(requeue),
        state,
    })
}

/// The number of the present revision.
async fn recorded(scope: &Scope<'_>, cluster: &Cluster) -> Result<i64, Error> {
    let Scope {
        object,
        context,
        cut,
        ..
    } = scope;
    if let Some(revision) = context.recorded(object) {
        return Ok(revision);
    }
    context.ensure_current(*object).await?;
    let revision = apply::record(&context.client, object, cluster, cut).await?;
    context.record(object, revision);
    Ok(revision)
}

/// What came of a reconcile for what is known of the topics: who reads them, and of which partitions
/// the members of all groups know. `object`: as it was found.
fn note_topics(
    object: &Pipeline,
    stages: &[Stage],
    changed: &BTreeSet<String>,
    topics: &mut [ReadTopic],
    brought: &mut Brought,
) {
    let joined = &brought.members.joined;
    let waits = changed.difference(joined).cloned().collect();
    let mut none = BTreeMap::new();
    let runs = brought.runs.as_mut();
    let of_stages = runs.map_or(&mut none, |runs| &mut runs.partitions);
    sources::not_joined(object, stages, &waits, topics, of_stages);
    if let Some(runs) = &brought.runs {
        let has_pod = |stage: &str| runs.pods.iter().any(|pod| pod.stage == stage);
        let goes_on = |stage: &str| runs.reads(object, stage);
        sources::note_readers(stages, topics, has_pod, goes_on);
    }
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
    members: members::Settled,
}

/// Brings everything in line with the spec, and asks the runners. Without a User and internal topics
/// nothing starts, and what runs stays as it is.
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
    let given = given::given(scope, cluster, &rights, &decision, &mut applied).await?;
    let (has_more, means) = match given {
        Ok(given) => given,
        Err(state) => {
            let refused = observe::refused_user(context, object);
            return Ok(Brought {
                replay: replay::waiting(&decision, replay, &state, refused),
                state,
                runs: asked_only(scope, cluster).await?,
                applied,
                members: members::Settled::default(),
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
        given::take_back(scope, cluster, &rights, &decision, &mut applied).await?;
    }
    let members = members::settle(cluster, object, scope.changed, &mut runs).await;
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
        members,
    })
}

/// What the runners say while nothing can be brought in line; `None`: none has run.
async fn asked_only(scope: &Scope<'_>, cluster: &Cluster) -> Result<Option<Runs>, Error> {
    let Scope {
        object, context, ..
    } = scope;
    let pods = pods::list(&context.client, object).await?;
    let mut known = object.status.iter().flat_map(|status| &status.stages);
    if pods.is_empty() && known.all(|stage| stage.ready == 0) {
        return Ok(None);
    }
    apply::scale(&context.client, object).await?;
    let runs = look(scope, pods, BTreeMap::new(), Some(cluster)).await?;
    Ok(Some(runs))
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
