//! Decides what becomes of a request to replay dead letters: it begins, runs, ends, or is refused.
//! Pure.
//!
//! The status is the memory of it. Objects are made only for a replay that the status names, so that
//! whoever comes later finds everything that there may be; and a replay counts as finished only
//! when its pod and its consumer group are gone. A request whose name is in the status is not
//! carried out again: without its group it would begin anew, and write everything twice.

use crate::api::conditions::State;
use crate::api::pipeline::{Pipeline, PipelineState, PipelineStatus};
use crate::api::replay::{
    KEPT_MAX, KEPT_WITH_BLOCKS_MAX, PastReplay, ReplayState, ReplayStatus, Request,
};
use crate::kinds::pipeline::desired::group;
use crate::kinds::pipeline::pods::PodFacts;
use crate::kinds::pipeline::wanted::Replaying;
use crate::kubernetes::{labels, names};
use crate::words::{PART_CHARS_MAX, cut as cut_words};
use freehold_kafka_client::figures::coarse;
use freehold_pipeline::nearest::instead;
use freehold_pipeline::replay::{Replay, ReplayReport};
use freehold_pipeline::report::{StageReport, Stopped, of_graph};
use freehold_pipeline::rights::Rights;
use freehold_pipeline::stages::{Cut, Role, Stage};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// What is to be done about a replay. Each has what the status says of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// None runs. The request, if there is one, is refused or was carried out.
    Nothing(Option<ReplayStatus>),
    /// It is named in the status; its objects are made when it is there.
    Begin(ReplayStatus),
    /// Its objects are to be there.
    Run(ReplayStatus, Box<Replaying>),
    /// Its objects and its consumer group are to be gone.
    End(ReplayStatus),
}

impl Decision {
    /// What the status says so far.
    pub fn status(&self) -> Option<&ReplayStatus> {
        match self {
            Self::Nothing(status) => status.as_ref(),
            Self::Begin(status) | Self::Run(status, _) | Self::End(status) => Some(status),
        }
    }

    /// The rights of the graph, and what the replay needs beside them.
    pub fn needs(&self, rights: &Rights) -> Rights {
        let mut needed = rights.clone();
        if let Self::Run(_, replaying) = self {
            needed.read.insert(replaying.replay.topic.clone());
        }
        needed
    }

    /// What the pod of a replay runs, if its objects are to be there.
    pub fn replaying(&self) -> Option<&Replaying> {
        match self {
            Self::Run(_, replaying) => Some(replaying),
            _ => None,
        }
    }

    /// The topic that only a replay needed to read: the right is taken away when the replay ends,
    /// whatever else the pods are waiting for.
    pub fn needs_no_more(&self, rights: &Rights, cut: &Cut) -> Option<String> {
        let Self::End(known) = self else {
            return None;
        };
        let topic = match known.topic.is_empty() {
            true => dead_letters(cut),
            // The Pipeline may name another one now.
            false => Some(known.topic.clone()),
        };
        topic.filter(|topic| !rights.read.contains(topic))
    }
}

/// What is to be done.
pub fn decide(object: &Pipeline, cut: &Cut, now: Timestamp) -> Decision {
    let status = object.status.clone().unwrap_or_default();
    let asked = object.metadata.annotations.as_ref();
    let asked = asked.and_then(|all| all.get(labels::REPLAY));
    let request = asked.map(|text| Request::read(text)).transpose();
    match status.replay.clone() {
        Some(known) if known.is_under_way() => under_way(object, cut, known, request.ok()),
        Some(known) if !known.is_over() => Decision::End(known),
        known => {
            let why = match &request {
                Ok(None) => {
                    let kept = known.filter(|known| known.state != ReplayState::Refused);
                    return Decision::Nothing(kept);
                }
                Ok(Some(request)) => match asked_anew(object, cut, &status, request) {
                    Ok(None) => return Decision::Nothing(known),
                    Ok(Some(replaying)) => {
                        return Decision::Begin(begun(request, &replaying, now));
                    }
                    Err(why) => why,
                },
                Err(why) => {
                    format!(
                        "annotation {}: {why}; mend it, or remove it",
                        labels::REPLAY
                    )
                }
            };
            let request = request.ok().flatten().unwrap_or_default();
            Decision::Nothing(Some(refused(request, why, known, now)))
        }
    }
}

/// A replay that the status says is under way. `request`: what is asked for now; none if the
/// annotation cannot be read.
fn under_way(
    object: &Pipeline,
    cut: &Cut,
    known: ReplayStatus,
    request: Option<Option<Request>>,
) -> Decision {
    let ends = |state, message: String| {
        Decision::End(ReplayStatus {
            state,
            message: cut_words(message, PART_CHARS_MAX),
            finished_at: None,
            ..known.clone()
        })
    };
    // Letters that it passed over do not come again: what it asks for must not change.
    let is_same = |request: &Request| {
        let asked = ReplayStatus {
            id: request.id.clone(),
            block: request.block.clone(),
            dry_run: request.dry_run,
            ..chosen(request)
        };
        let begun = ReplayStatus {
            id: known.id.clone(),
            block: known.block.clone(),
            dry_run: known.dry_run,
            error: known.error.clone(),
            since: known.since.clone(),
            until: known.until.clone(),
            ..ReplayStatus::default()
        };
        asked == begun
    };
    let Some(request) = request.flatten().filter(is_same) else {
        let why = "its annotation was removed or replaced; what was committed stays";
        return ends(ReplayState::Cancelled, why.to_owned());
    };
    match placed(object, cut, &request, known.started_at.as_ref()) {
        Ok(replaying) if replaying.stage.name != known.stage => {
            let why = format!(
                "block {} came into another stage, {}, with another consumer group; what was \
                 committed stays",
                known.block, replaying.stage.name
            );
            ends(ReplayState::Failed, why)
        }
        Ok(replaying) if !known.topic.is_empty() && replaying.replay.topic != known.topic => {
            let why = format!(
                "spec.errors.deadLetter names another topic, {}, and letters are left in {}; what \
                 was committed stays",
                replaying.replay.topic, known.topic
            );
            ends(ReplayState::Failed, why)
        }
        Ok(replaying) => Decision::Run(known, Box::new(replaying)),
        Err(why) => ends(ReplayState::Failed, why),
    }
}

/// What a request asks for that is not under way; `None`: it was carried out.
fn asked_anew(
    object: &Pipeline,
    cut: &Cut,
    status: &PipelineStatus,
    request: &Request,
) -> Result<Option<Replaying>, String> {
    let last = status.replay.as_ref();
    let last = last.filter(|known| known.state != ReplayState::Refused);
    // A dry run has written nothing: the same may be asked for in earnest by its name.
    let is_last =
        |known: &ReplayStatus| (&known.id, known.dry_run) == (&request.id, request.dry_run);
    if last.is_some_and(is_last) {
        return Ok(None);
    }
    if status.replays.iter().any(|past| past.id == request.id) {
        return Err(format!(
            "a replay {} has run already, and none runs twice; give another id, or remove the \
             annotation {}",
            request.id,
            labels::REPLAY
        ));
    }
    placed(object, cut, request, None).map(Some)
}

fn begun(request: &Request, replaying: &Replaying, now: Timestamp) -> ReplayStatus {
    ReplayStatus {
        id: request.id.clone(),
        block: request.block.clone(),
        stage: replaying.stage.name.clone(),
        topic: replaying.replay.topic.clone(),
        dry_run: request.dry_run,
        state: ReplayState::Running,
        started_at: Some(second(now)),
        ..chosen(request)
    }
}

/// Which letters are asked for, as the status says it.
fn chosen(request: &Request) -> ReplayStatus {
    let time = |time: &Time| second(time.0);
    ReplayStatus {
        error: request.error.clone(),
        since: request.since.as_ref().map(time),
        until: request.until.as_ref().map(time),
        ..ReplayStatus::default()
    }
}

/// To the second, as Kubernetes writes times.
fn second(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// A request that does not begin. The same refusal stays as it is.
fn refused(
    request: Request,
    why: String,
    known: Option<ReplayStatus>,
    now: Timestamp,
) -> ReplayStatus {
    let new = ReplayStatus {
        id: request.id,
        block: request.block,
        dry_run: request.dry_run,
        state: ReplayState::Refused,
        message: cut_words(why, PART_CHARS_MAX),
        ..ReplayStatus::default()
    };
    let since = known.and_then(|known| {
        let before = ReplayStatus {
            finished_at: None,
            ..known.clone()
        };
        known.finished_at.filter(|_| before == new)
    });
    ReplayStatus {
        finished_at: Some(since.unwrap_or_else(|| second(now))),
        ..new
    }
}

/// The name of the Pipeline's topic of dead letters.
fn dead_letters(cut: &Cut) -> Option<String> {
    let target = cut.stages.first()?.definition.errors.dead_letter.as_ref();
    target?.topic.clone()
}

/// The stage that replays, and what it replays. `started`: letters from before that time alone, so
/// that a later replay can go on there.
///
/// # Errors
/// Why not, and what to do.
fn placed(
    object: &Pipeline,
    cut: &Cut,
    request: &Request,
    started: Option<&Time>,
) -> Result<Replaying, String> {
    let block = &request.block;
    let blocks = &object.spec.blocks;
    if !blocks.iter().any(|known| known.name == *block) {
        let known = blocks.iter().map(|block| &*block.name);
        return Err(format!(
            "there is no block {block}; {}",
            instead(block, known)
        ));
    }
    let topic = dead_letters(cut).ok_or(
        "the Pipeline has no spec.errors.deadLetter, so there are no dead letters; name the topic \
         that has them",
    )?;
    let stage = stage(cut, block)?;
    let own = names::replay(&stage.name);
    if cut.stages.iter().any(|known| known.name == own) {
        return Err(format!(
            "the pods of stage {own} have the name that those of the replay would have; give that \
             block another name"
        ));
    }
    let millis = |time: &Time| time.0.as_millisecond();
    let until = [request.until.as_ref(), started].into_iter().flatten();
    Ok(Replaying {
        stage: stage.clone(),
        replay: Replay {
            id: request.id.clone(),
            topic,
            block: block.clone(),
            error: request.error.clone(),
            since_ms: request.since.as_ref().map(millis),
            until_ms: until.map(millis).min(),
            records_per_second: request.records_per_second,
            dry_run: request.dry_run,
        },
    })
}

/// The stage that has a block: one that reads and writes Kafka.
fn stage<'a>(cut: &'a Cut, block: &str) -> Result<&'a Stage, String> {
    let has = |stage: &&Stage| {
        let mut blocks = stage.definition.blocks.iter();
        blocks.any(|known| known.name == block)
    };
    let all: Vec<&Stage> = cut.stages.iter().filter(has).collect();
    let role = |stage: &Stage| Role::of(&stage.definition.blocks);
    let mut flows = all.iter().filter(|stage| role(stage) == Role::Flow);
    match (flows.next(), flows.next()) {
        (Some(stage), None) => Ok(*stage),
        (Some(one), Some(other)) => Err(format!(
            "block {block} is in several stages ({}, {}), and only the letters of one stage can be \
             replayed; write the records to the topic of its source again",
            one.name, other.name
        )),
        (None, _) if all.iter().any(|stage| role(stage) == Role::Deliver) => Err(format!(
            "block {block} delivers records outside Kafka, and its dead letters cannot be replayed \
             yet; write them to a topic that the Pipeline reads"
        )),
        (None, _) => Err(format!(
            "block {block} takes records from outside Kafka: its dead letters are what came, before \
             it was a record; have it sent again"
        )),
    }
}

/// The consumer group of a replay.
pub fn replay_group(object: &Pipeline, status: &ReplayStatus) -> String {
    format!("{}.replay.{}", group(object, &status.stage), status.id)
}

/// The consumer group that a replay may have left; `None`: there is none.
pub fn group_left(object: &Pipeline) -> Option<String> {
    let known = object.status.as_ref()?.replay.as_ref()?;
    let is_named = !known.id.is_empty() && !known.stage.is_empty();
    (is_named && !known.is_over()).then(|| replay_group(object, known))
}

/// Whether a pod is one of the replay's.
pub fn is_its_pod(status: &ReplayStatus, pod: &PodFacts) -> bool {
    pod.replays && pod.stage == names::replay(&status.stage)
}

/// The status of a replay while the Pipeline waits for its User or for a Topic. A User that is
/// refused the right to read the dead letters would keep the whole Pipeline waiting: the replay
/// ends.
pub fn waiting(
    decision: &Decision,
    so_far: Option<ReplayStatus>,
    state: &State,
    refused: Option<String>,
) -> Option<ReplayStatus> {
    let Decision::Run(known, _) = decision else {
        return so_far;
    };
    let (state, why) = match refused {
        Some(why) => (ReplayState::Failed, why),
        None => (known.state, state.words().1.to_owned()),
    };
    Some(ReplayStatus {
        state,
        message: cut_words(why, PART_CHARS_MAX),
        ..known.clone()
    })
}

/// The status of a replay that is to run. `waits`: what keeps its pod from being made.
pub fn running(
    object: &Pipeline,
    known: &ReplayStatus,
    waits: Option<String>,
    pod: Option<&PodFacts>,
    report: Option<&StageReport>,
) -> ReplayStatus {
    let replay = report.and_then(|report| report.replay.as_ref());
    let replay = replay.filter(|replay| replay.id == known.id);
    if let Some(replay) = replay.filter(|replay| replay.is_done) {
        return ReplayStatus {
            state: ReplayState::Done,
            message: String::new(),
            ..counted(known, replay, exact)
        };
    }
    let counted = match replay {
        Some(replay) => counted(known, replay, |count| coarse(exact(count))),
        None => known.clone(),
    };
    let stopped = report.and_then(|report| report.stopped.as_ref());
    let in_words = |stopped: &Stopped| {
        let block = of_graph(stopped.block.as_deref().unwrap_or(&known.block));
        format!(
            "block {block}: stopped: {}; mend it, and the replay goes on with the next revision, or \
             when its pod is deleted; or remove the annotation",
            stopped.error
        )
    };
    let is_paused = object.spec.state == PipelineState::Paused;
    let paused = is_paused.then(|| "it waits: spec.state is Paused".to_owned());
    let message = waits
        .or(paused)
        .or_else(|| stopped.map(in_words))
        .or_else(|| trouble(pod, report));
    ReplayStatus {
        state: match stopped {
            Some(_) => ReplayState::Stopped,
            None => ReplayState::Running,
        },
        message: cut_words(message.unwrap_or_default(), PART_CHARS_MAX),
        ..counted
    }
}

/// What keeps a replay from going on.
fn trouble(pod: Option<&PodFacts>, report: Option<&StageReport>) -> Option<String> {
    let Some(pod) = pod else {
        return Some("its pod is being made".to_owned());
    };
    let Some(report) = report else {
        let why = pod.trouble.clone();
        return Some(why.unwrap_or_else(|| "its pod starts".to_owned()));
    };
    let problem = report.blocks.iter().find_map(|block| {
        let problem = block.problem.as_ref()?;
        Some(format!("block {}: {problem}", of_graph(&block.name)))
    });
    let said = || (!report.message.is_empty()).then(|| report.message.clone());
    problem.or_else(said)
}

fn exact(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn counted(
    known: &ReplayStatus,
    report: &ReplayReport,
    count: impl Fn(u64) -> i64,
) -> ReplayStatus {
    ReplayStatus {
        read: count(report.read),
        matched: count(report.matched),
        replayed: count(report.replayed),
        failed: count(report.failed),
        given_up: count(report.given_up),
        left: count(report.left),
        ..known.clone()
    }
}

/// The status of a replay that has ended, of which nothing is left.
pub fn finished(known: &ReplayStatus, now: Timestamp) -> ReplayStatus {
    ReplayStatus {
        finished_at: Some(second(now)),
        ..known.clone()
    }
}

/// The replays that wrote records, with this one if it is over.
pub fn past(status: Option<&ReplayStatus>, before: &[PastReplay]) -> Vec<PastReplay> {
    let mut all = before.to_vec();
    let wrote = status.filter(|one| {
        one.is_over() && !one.dry_run && one.state != ReplayState::Refused && !one.id.is_empty()
    });
    if let Some(one) = wrote.filter(|one| before.iter().all(|past| past.id != one.id)) {
        all.insert(
            0,
            PastReplay {
                id: one.id.clone(),
                block: one.block.clone(),
                error: one.error.clone(),
                until: one.until.clone(),
                state: one.state,
                started_at: one.started_at.clone(),
            },
        );
        while all.len() > KEPT_MAX {
            // The last one of a block says where the next one begins.
            let is_last = |place: usize| {
                let newer = &all[..place];
                newer.iter().all(|newer| newer.block != all[place].block)
            };
            let Some(oldest) = (0..all.len()).rev().find(|place| !is_last(*place)) else {
                break;
            };
            all.remove(oldest);
        }
        all.truncate(KEPT_WITH_BLOCKS_MAX);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::pipeline::desired::replay_replicas;
    use freehold_pipeline::graph::Graph;
    use freehold_pipeline::report::BlockReport;
    use freehold_pipeline::stages::cut;
    use freehold_pipeline::topics::TopicNames;
    use serde_json::{Value, json};

    const ASKED: &str = r#"{"id": "r1", "block": "clean"}"#;

    fn now() -> Timestamp {
        "2026-03-01T12:00:00.5Z".parse().unwrap()
    }

    /// A Pipeline that is asked for a replay, with what its status says of it.
    fn asked(annotation: Option<&str>, status: &Value) -> Pipeline {
        let annotations = annotation.map(|text| json!({labels::REPLAY: text}));
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u",
                "annotations": annotations},
            "spec": {"clusterRef": {"name": "demo"}, "errors": {"deadLetter": {"topic": "bad"}},
                "blocks": [
                    {"name": "in", "source": {"kafka": {"topic": "orders"}}},
                    {"name": "clean", "from": ["in"], "transform": {"vrl": "del(.card)"}},
                    {"name": "slow", "from": ["clean"], "isolate": true, "transform": {"vrl": "."}},
                    {"name": "out", "from": ["slow"], "sink": {"kafka": {"topic": "clean"}}},
                    {"name": "hook", "from": ["clean"], "sink": {"http": {
                        "url": "https://hook.example.com/", "delivery": "AtLeastOnce"}}},
                    {"name": "posted", "source": {"http": {
                        "authentication": {"bearer": {"name": "t"}}}}},
                    {"name": "kept", "from": ["posted"], "sink": {"kafka": {"topic": "kept"}}},
                ]},
            "status": status,
        }))
        .unwrap()
    }

    fn cut_of(object: &Pipeline) -> Cut {
        let definition = object.spec.definition();
        let graph = Graph::of(&definition).unwrap();
        let names = TopicNames::default();
        cut(&graph, &definition, &names, "shop", "orders")
    }

    fn decided(object: &Pipeline) -> Decision {
        decide(object, &cut_of(object), now())
    }

    fn with_status(object: &Pipeline, status: Option<ReplayStatus>) -> Pipeline {
        let mut object = object.clone();
        let known = object.status.get_or_insert_default();
        known.replays = past(status.as_ref(), &known.replays);
        known.replay = status;
        object
    }

    fn refusal(annotation: &str) -> String {
        let object = asked(Some(annotation), &json!({}));
        let Decision::Nothing(Some(status)) = decided(&object) else {
            panic!("{annotation} is not refused");
        };
        assert_eq!(status.state, ReplayState::Refused);
        assert!(status.is_over() && status.started_at.is_none());
        let again = with_status(&object, Some(status.clone()));
        let later = decide(&again, &cut_of(&again), Timestamp::MAX);
        assert_eq!(
            later,
            Decision::Nothing(Some(status.clone())),
            "it is written once"
        );
        status.message
    }

    fn report(change: impl Fn(&mut StageReport, &mut ReplayReport)) -> StageReport {
        let mut report = StageReport::default();
        let mut replay = ReplayReport {
            id: "r1".to_owned(),
            read: 1_234,
            matched: 1_000,
            replayed: 777,
            ..ReplayReport::default()
        };
        change(&mut report, &mut replay);
        report.replay = Some(replay);
        report
    }

    #[test]
    fn a_replay_is_in_the_status_before_it_runs_and_finished_when_nothing_is_left() {
        let object = asked(Some(ASKED), &json!({}));
        let Decision::Begin(begun) = decided(&object) else {
            panic!("it does not begin");
        };
        assert_eq!((&*begun.stage, begun.state), ("in", ReplayState::Running));
        let object = with_status(&object, Some(begun.clone()));
        let Decision::Run(known, replaying) = decided(&object) else {
            panic!("it does not run");
        };
        assert_eq!((&known, &*replaying.stage.name), (&begun, "in"));
        let millis = begun.started_at.as_ref().unwrap().0.as_millisecond();
        assert_eq!(
            replaying.replay.until_ms,
            Some(millis),
            "a later one goes on there"
        );
        assert_eq!(
            (&*replaying.replay.topic, &*replaying.replay.id),
            ("bad", "r1")
        );
        assert_eq!(replay_group(&object, &known), "shop.orders.in.replay.r1");
        assert_eq!(
            group_left(&object).as_deref(),
            Some("shop.orders.in.replay.r1")
        );

        let done = running(
            &object,
            &known,
            None,
            None,
            Some(&report(|_, replay| replay.is_done = true)),
        );
        assert_eq!(
            (done.state, done.read, done.replayed),
            (ReplayState::Done, 1_234, 777)
        );
        let object = with_status(&object, Some(done.clone()));
        assert_eq!(decided(&object), Decision::End(done.clone()));
        assert!(
            group_left(&object).is_some() && object.status.as_ref().unwrap().replays.is_empty()
        );

        let finished = finished(&done, now());
        let object = with_status(&object, Some(finished.clone()));
        assert_eq!(decided(&object), Decision::Nothing(Some(finished.clone())));
        assert_eq!(group_left(&object), None);
        let mut object = object;
        object.metadata.annotations = None;
        assert_eq!(
            decided(&object),
            Decision::Nothing(Some(finished)),
            "the result stays"
        );
    }

    #[test]
    fn what_ran_once_never_runs_again() {
        let mut object = asked(
            Some(ASKED),
            &json!({"replays": [{"id": "r1", "block": "clean"}]}),
        );
        let Decision::Nothing(Some(status)) = decided(&object) else {
            panic!("it runs again");
        };
        assert!(
            status.message.contains("has run already"),
            "{}",
            status.message
        );
        // Another request was carried out in between.
        object = with_status(&object, None);
        let other = ReplayStatus {
            id: "r2".to_owned(),
            state: ReplayState::Done,
            finished_at: Some(Time(now())),
            ..ReplayStatus::default()
        };
        object = with_status(&object, Some(other));
        assert!(matches!(decided(&object), Decision::Nothing(_)));
        let ids: Vec<String> = object
            .status
            .unwrap()
            .replays
            .into_iter()
            .map(|one| one.id)
            .collect();
        assert_eq!(ids, ["r2", "r1"]);
    }

    #[test]
    fn one_that_is_cancelled_has_no_pod_whatever_keeps_it_from_its_end() {
        let replicas = |annotation| replay_replicas(&asked(annotation, &json!({})));
        assert_eq!((replicas(Some(ASKED)), replicas(None)), (1, 0));
    }

    #[test]
    fn after_a_dry_run_its_name_may_ask_for_the_replay() {
        let dry = r#"{"id": "r1", "block": "clean", "dryRun": true}"#;
        let done = |dry_run| {
            json!({"replay": {"id": "r1", "block": "clean", "stage": "in", "state": "Done",
                "dryRun": dry_run, "finishedAt": "2026-01-01T00:00:00Z"}})
        };
        let of = |annotation, dry_run| decided(&asked(Some(annotation), &done(dry_run)));
        assert!(matches!(of(dry, true), Decision::Nothing(_)));
        assert!(matches!(of(ASKED, true), Decision::Begin(_)));
        assert!(matches!(of(ASKED, false), Decision::Nothing(_)));
    }

    #[test]
    fn it_remembers_which_letters_it_takes() {
        let request = r#"{"id": "r1", "block": "clean", "error": "x",
            "since": "2026-01-01T00:00:00.7Z"}"#;
        let object = asked(Some(request), &json!({}));
        let Decision::Begin(begun) = decided(&object) else {
            panic!("it does not begin");
        };
        assert_eq!((begun.error.as_deref(), &*begun.topic), (Some("x"), "bad"));
        let text = serde_json::to_value(&begun).unwrap();
        let kept: ReplayStatus = serde_json::from_value(text).unwrap();
        let object = with_status(&object, Some(kept));
        assert!(matches!(decided(&object), Decision::Run(..)));
        let done = ReplayStatus {
            state: ReplayState::Done,
            ..begun
        };
        let all = past(Some(&finished(&done, now())), &[]);
        assert_eq!(all[0].error.as_deref(), Some("x"));
    }

    #[test]
    fn without_its_annotation_or_with_another_one_it_ends() {
        let begun = json!({"replay": {"id": "r1", "block": "clean", "stage": "in",
            "state": "Running", "replayed": 5}});
        for other in [
            None,
            Some("nonsense"),
            Some(r#"{"id": "r2", "block": "clean"}"#),
            Some(r#"{"id": "r1", "block": "in"}"#),
            Some(r#"{"id": "r1", "block": "clean", "dryRun": true}"#),
            Some(r#"{"id": "r1", "block": "clean", "error": "x"}"#),
            Some(r#"{"id": "r1", "block": "clean", "since": "2026-01-01T00:00:00Z"}"#),
        ] {
            let Decision::End(status) = decided(&asked(other, &begun)) else {
                panic!("{other:?} does not end it");
            };
            assert_eq!((status.state, status.replayed), (ReplayState::Cancelled, 5));
            assert!(status.message.contains("what was committed stays"));
        }
        let slower = r#"{"id": "r1", "block": "clean", "recordsPerSecond": 5}"#;
        let Decision::Run(_, replaying) = decided(&asked(Some(slower), &begun)) else {
            panic!("another rate is the same replay");
        };
        assert_eq!(replaying.replay.records_per_second, Some(5));
    }

    #[test]
    fn a_change_of_the_pipeline_ends_it_only_where_it_cannot_go_on() {
        let begun = json!({"replay": {"id": "r1", "block": "clean", "stage": "in",
            "topic": "bad", "state": "Stopped"}});
        let ends = |change: fn(&mut Pipeline)| {
            let mut object = asked(Some(ASKED), &begun);
            change(&mut object);
            match decided(&object) {
                Decision::End(status) => Some((status.state, status.message)),
                _ => None,
            }
        };
        assert_eq!(ends(|_| {}), None);
        assert_eq!(
            ends(|object| object.spec.state = PipelineState::Paused),
            None
        );
        let failed = |change, says: &str| {
            let (state, message) = ends(change).unwrap();
            assert!(
                state == ReplayState::Failed && message.contains(says),
                "{message}"
            );
        };
        failed(
            |object| object.spec.errors.dead_letter = None,
            "no spec.errors.deadLetter",
        );
        failed(
            |object| {
                let target = json!({"topic": "worse"});
                object.spec.errors.dead_letter = serde_json::from_value(target).unwrap();
            },
            "names another topic, worse, and letters are left in bad",
        );
        failed(
            |object| object.spec.blocks[1].isolate = true,
            "another stage, clean,",
        );
        failed(
            |object| {
                object.spec.blocks[1].name = "wash".to_owned();
                for block in &mut object.spec.blocks[2..5] {
                    block.from = block
                        .from
                        .iter()
                        .map(|from| from.replace("clean", "wash"))
                        .collect();
                }
            },
            "there is no block clean",
        );
    }

    #[test]
    fn a_request_that_cannot_be_carried_out_says_the_way_out() {
        for (request, says) in [
            (
                "{}",
                "annotation freehold.dev/replay: missing field `id` at line 1",
            ),
            (
                r#"{"id": "a", "block": "claen"}"#,
                "there is no block claen; did you mean clean?",
            ),
            (
                r#"{"id": "a", "block": "hook"}"#,
                "delivers records outside Kafka",
            ),
            (r#"{"id": "a", "block": "posted"}"#, "have it sent again"),
        ] {
            let said = refusal(request);
            assert!(said.contains(says), "{said}");
        }
        let mended = with_status(
            &asked(Some(ASKED), &json!({})),
            decided(&asked(Some("{}"), &json!({}))).status().cloned(),
        );
        assert!(matches!(decided(&mended), Decision::Begin(_)));
        let mut removed = mended;
        removed.metadata.annotations = None;
        assert_eq!(
            decided(&removed),
            Decision::Nothing(None),
            "the refusal goes with it"
        );
    }

    #[test]
    fn names_that_would_be_used_twice_are_refused() {
        let mut object = asked(Some(ASKED), &json!({}));
        let mut other = object.spec.blocks[2].clone();
        other.name = "in-replay".to_owned();
        object.spec.blocks.push(other);
        let Decision::Nothing(Some(status)) = decided(&object) else {
            panic!("two StatefulSets of one name");
        };
        assert!(
            status.message.contains("pods of stage in-replay"),
            "{}",
            status.message
        );
    }

    #[test]
    fn an_isolated_block_is_replayed_in_its_own_stage() {
        let object = asked(Some(r#"{"id": "a", "block": "slow"}"#), &json!({}));
        let Decision::Begin(begun) = decided(&object) else {
            panic!("it does not begin");
        };
        assert_eq!(begun.stage, "slow");
    }

    #[test]
    fn only_a_replay_that_runs_may_read_the_dead_letters() {
        let object = asked(Some(ASKED), &json!({}));
        let cut = cut_of(&object);
        let rights = Rights::of(&cut, "shop", "orders");
        assert!(!rights.read.contains("bad"));
        let begun = decided(&object);
        assert_eq!(begun.needs(&rights), rights);
        let object = with_status(&object, begun.status().cloned());
        let runs = decided(&object);
        assert!(runs.needs(&rights).read.contains("bad"));
        assert_eq!(runs.needs_no_more(&rights, &cut), None);
        let mut object = object;
        object.metadata.annotations = None;
        let ends = decided(&object);
        assert_eq!(ends.needs(&rights), rights);
        assert_eq!(ends.needs_no_more(&rights, &cut).as_deref(), Some("bad"));
    }

    #[test]
    fn what_keeps_a_replay_is_said_and_its_counts_are_rounded_while_it_runs() {
        let known = ReplayStatus {
            id: "r1".to_owned(),
            block: "clean".to_owned(),
            stage: "in".to_owned(),
            state: ReplayState::Running,
            ..ReplayStatus::default()
        };
        let pod = PodFacts {
            stage: "in-replay".to_owned(),
            replays: true,
            ..PodFacts::default()
        };
        assert!(is_its_pod(&known, &pod));
        let mut object = asked(Some(ASKED), &json!({}));
        let said = |object: &Pipeline, waits: Option<&str>, report: Option<&StageReport>| {
            running(object, &known, waits.map(str::to_owned), Some(&pod), report)
        };
        let runs = said(&object, None, Some(&report(|_, _| {})));
        assert_eq!(
            (runs.read, runs.matched, runs.replayed),
            (1_000, 1_000, 500)
        );
        assert_eq!((runs.state, &*runs.message), (ReplayState::Running, ""));
        let other = report(|_, replay| replay.id = "r0".to_owned());
        assert_eq!(
            said(&object, None, Some(&other)),
            known,
            "another one's counts"
        );
        assert_eq!(said(&object, None, None).message, "its pod starts");
        assert_eq!(
            running(&object, &known, None, None, None).message,
            "its pod is being made"
        );
        assert_eq!(
            said(&object, Some("User a lacks b"), None).message,
            "User a lacks b"
        );
        let stopped = report(|report, _| {
            report.stopped = Some(Stopped {
                error: "too many".to_owned(),
                ..Stopped::default()
            });
        });
        let stopped = said(&object, None, Some(&stopped));
        assert_eq!(stopped.state, ReplayState::Stopped);
        assert!(
            stopped
                .message
                .starts_with("block clean: stopped: too many; mend it")
        );
        let problem = report(|report, _| {
            report.blocks = vec![BlockReport {
                name: "out".to_owned(),
                problem: Some("no such topic".to_owned()),
                ..BlockReport::default()
            }];
        });
        assert_eq!(
            said(&object, None, Some(&problem)).message,
            "block out: no such topic"
        );
        object.spec.state = PipelineState::Paused;
        assert_eq!(
            said(&object, None, None).message,
            "it waits: spec.state is Paused"
        );
    }

    #[test]
    fn a_right_that_is_refused_ends_the_replay_and_not_the_pipeline() {
        let object = asked(
            Some(ASKED),
            &json!({"replay": {"id": "r1", "block": "clean",
            "stage": "in", "state": "Running"}}),
        );
        let (runs, state) = (decided(&object), State::Ready);
        let waits = waiting(&runs, None, &state, None).unwrap();
        assert_eq!(waits.state, ReplayState::Running);
        let refused = Some("User a: not yours".to_owned());
        let ends = waiting(&runs, None, &state, refused.clone()).unwrap();
        assert_eq!(
            (ends.state, &*ends.message),
            (ReplayState::Failed, "User a: not yours")
        );
        let rest = Decision::Nothing(None);
        assert_eq!(waiting(&rest, None, &state, refused), None);
    }

    #[test]
    fn only_replays_that_wrote_are_remembered_and_not_for_ever() {
        let one = |id: String, dry_run| ReplayStatus {
            id,
            dry_run,
            state: ReplayState::Cancelled,
            finished_at: Some(Time(now())),
            ..ReplayStatus::default()
        };
        assert_eq!(past(Some(&one("a".to_owned(), true)), &[]), []);
        let mut all = Vec::new();
        for number in 0..KEPT_MAX + 5 {
            all = past(Some(&one(number.to_string(), false)), &all);
            all = past(Some(&one(number.to_string(), false)), &all);
        }
        assert_eq!(all.len(), KEPT_MAX);
        assert_eq!(all[0].id, (KEPT_MAX + 4).to_string());
        let of_block = |number: usize, block: &str| ReplayStatus {
            block: block.to_owned(),
            ..one(format!("{block}{number}"), false)
        };
        all = past(Some(&of_block(0, "rare")), &all);
        for number in 0..KEPT_MAX + 5 {
            all = past(Some(&of_block(number, "often")), &all);
        }
        // The newest of the block without a name, too.
        assert_eq!(all.len(), KEPT_MAX);
        let is_kept = |id: &str| all.iter().any(|past| past.id == id);
        assert!(is_kept("rare0") && is_kept("24") && is_kept("often24"));
        for number in 0..KEPT_WITH_BLOCKS_MAX + 5 {
            all = past(Some(&of_block(0, &number.to_string())), &all);
        }
        assert_eq!(all.len(), KEPT_WITH_BLOCKS_MAX);
    }
}
