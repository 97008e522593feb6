//! Computes a Pipeline's new status from what its runners report. Pure.

use crate::api::conditions::{
    Condition, ConditionStatus, ConditionType, Reason, State, conditions,
};
use crate::api::pipeline::{
    BlockError, BlockState, BlockStatus, Pipeline, PipelineState, PipelineStatus, ReadTopic,
    ScalingStatus, StageStatus,
};
use crate::api::replay::ReplayStatus;
use crate::kinds::pipeline::desired::{HTTP_PORT, group, replicas};
use crate::kinds::pipeline::pods::{self, PodFacts};
use crate::kinds::pipeline::scaling::{Observed, decide};
use crate::kinds::pipeline::sources::with_partitions;
use crate::kinds::pipeline::{alerts, cpu, no_output, replay, tenants};
use crate::words::{PART_CHARS_MAX, cut};
use freehold_kafka_client::figures::coarse;
use freehold_pipeline::report::{BlockReport, DROPPED, StageReport, merged, of_graph};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What a reconcile has learned. `None`: it did not come that far.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    pub revision: Option<i64>,
    pub warnings: Option<Vec<String>>,
    /// The topics that are read.
    pub topics: Option<Vec<ReadTopic>>,
    pub runs: Option<Runs>,
    /// What is to be said of a replay of dead letters; inside `None`: there is none.
    pub replay: Option<Option<ReplayStatus>>,
}

/// What runs.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// Names of the stages.
    pub stages: Vec<String>,
    /// What the pods of each stage must have been started with; empty while that is not known.
    pub started_with: BTreeMap<String, BTreeMap<String, String>>,
    pub pods: Vec<PodFacts>,
    pub reports: Vec<StageReport>,
    /// The partitions that stages read; inside `None`: it reads none, or they are not known.
    pub partitions: BTreeMap<String, Option<i32>>,
    /// What is known for the decisions of `scaling`, by stage.
    pub scaled: BTreeMap<String, Observed>,
    /// Stages whose group has no members of replicas that are gone.
    pub left: BTreeSet<String>,
    /// Why pods of a stage are not made, by stage.
    pub not_made: BTreeMap<String, String>,
}

/// The block that fails, and why. A block that has stopped its stage comes first, then one that
/// cannot reach its topic, then one that fails on records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    pub words: String,
    /// It keeps records from flowing.
    pub stops: bool,
}

impl Runs {
    /// Whether a stage has stopped: nothing goes on until somebody mends it.
    pub fn failing(&self) -> Option<Failing> {
        let stopped = self.reports.iter().find_map(|report| {
            let stopped = report.stopped.as_ref()?;
            let block = stopped.block.as_deref().unwrap_or(&report.stage);
            let at = stopped.address.as_ref();
            let at = at.map(|address| format!(" (record {address})"));
            Some(Failing {
                words: format!(
                    "block {}: stopped: {}{}",
                    of_graph(block),
                    stopped.error,
                    at.unwrap_or_default()
                ),
                stops: true,
            })
        });
        let blocks = merged(&self.reports);
        let problem = || {
            blocks.iter().find_map(|block| {
                let problem = block.problem.as_ref()?;
                Some(Failing {
                    words: format!("block {}: {problem}", of_graph(&block.name)),
                    stops: true,
                })
            })
        };
        let errors = || {
            let worst = blocks.iter().filter(|block| block.errors_per_second > 0.0);
            let worst = worst.max_by(|a, b| a.errors_per_second.total_cmp(&b.errors_per_second))?;
            let last = worst.last_error.as_ref();
            let at = last.and_then(|last| last.address.as_ref());
            let at = at.map(|address| format!(" (record {address})"));
            Some(Failing {
                words: format!(
                    "block {}: {}{}",
                    of_graph(&worst.name),
                    last.map_or("fails on records", |last| &last.summary),
                    at.unwrap_or_default()
                ),
                stops: false,
            })
        };
        stopped.or_else(problem).or_else(errors)
    }

    /// Whether all replicas of a stage are what they should be, and read their partitions.
    pub fn reads(&self, object: &Pipeline, stage: &str) -> bool {
        let replicas = usize::try_from(replicas(object, stage)).unwrap_or_default();
        let pods = self.pods.iter().filter(|pod| pod.stage == stage);
        let ready = pods.filter(|pod| self.lacks(pod).is_none()).count();
        // What it must have been started with is not known while nothing is brought in line.
        self.started_with.contains_key(stage) && replicas > 0 && ready >= replicas
    }

    /// The state, as far as pods and runners tell.
    pub fn state(&self, object: &Pipeline) -> State {
        if object.spec.state == PipelineState::Paused {
            return State::reconciling(Reason::Paused, "spec.state is Paused: no pods run");
        }
        if let Some(failing) = self.failing().filter(|failing| failing.stops) {
            return State::stalled(Reason::BlockFailing, failing.words);
        }
        for stage in &self.stages {
            let replicas = usize::try_from(replicas(object, stage)).unwrap_or_default();
            let pods = || self.pods.iter().filter(|pod| pod.stage == *stage);
            let ready = pods().filter(|pod| self.lacks(pod).is_none()).count();
            if ready >= replicas {
                continue;
            }
            let why = pods().find_map(|pod| self.lacks(pod));
            let refused = || {
                let why = self.not_made.get(stage)?;
                Some(format!("no pod is made: {why}"))
            };
            let why = why.or_else(refused);
            let why = why.unwrap_or_else(|| "pods are being made".to_owned());
            return State::reconciling(
                Reason::Starting,
                format!("stage {stage}: {ready} of {replicas} replicas are ready: {why}"),
            );
        }
        State::Ready
    }

    /// Why a replica is not ready; `None`: it is what it should be, and its runner says that it
    /// reads its partitions.
    fn lacks(&self, pod: &PodFacts) -> Option<String> {
        let name = &pod.name;
        if let Some(trouble) = &pod.trouble {
            return Some(format!("pod {name}: {trouble}"));
        }
        let wanted = self.started_with.get(&pod.stage);
        if wanted.is_some_and(|wanted| *wanted != pod.started_with) {
            return Some(format!("pod {name} is to be replaced"));
        }
        let mut reports = self.reports.iter();
        let report =
            reports.find(|report| report.stage == pod.stage && report.ordinal == pod.ordinal);
        match report {
            Some(report) if report.ready && pod.ready => None,
            Some(report) if !report.message.is_empty() => {
                Some(format!("pod {name}: {}", report.message))
            }
            None if pod.ready => Some(format!("pod {name} does not answer at port {HTTP_PORT}")),
            _ => Some(format!("pod {name} starts")),
        }
    }

    fn lag(&self, object: &Pipeline, stage: Option<&str>) -> Option<i64> {
        let lags = self.of_all(object, stage, |report| report.lag)?;
        Some(coarse(
            i64::try_from(lags.iter().sum::<u64>()).unwrap_or(i64::MAX),
        ))
    }

    /// Of the replica that is behind most.
    fn lag_seconds(&self, object: &Pipeline, stage: &str) -> Option<i64> {
        let lags = self.of_all(object, Some(stage), |report| report.lag_seconds)?;
        Some(rate(lags.into_iter().fold(0.0, f64::max)))
    }

    /// What the replicas of a stage, or of all, say; `None`: not every one says it.
    fn of_all<T>(
        &self,
        object: &Pipeline,
        stage: Option<&str>,
        said: impl Fn(&StageReport) -> Option<T>,
    ) -> Option<Vec<T>> {
        let of = |report: &&StageReport| stage.is_none_or(|stage| report.stage == stage);
        let reports = self.reports.iter().filter(of);
        let stages = self.stages.iter();
        let stages = stages.filter(|name| stage.is_none_or(|stage| *name == stage));
        let wanted: i32 = stages.map(|name| replicas(object, name)).sum();
        let wanted = usize::try_from(wanted).unwrap_or_default();
        let all: Option<Vec<T>> = reports.map(said).collect();
        all.filter(|all| wanted > 0 && all.len() >= wanted)
    }
}

/// The new status. Values that were not learned keep their old value.
pub fn status(object: &Pipeline, learned: &Learned, state: &State, now: &Time) -> PipelineStatus {
    let old = object.status.clone().unwrap_or_default();
    let counted = learned.runs.as_ref().map(|runs| &runs.partitions);
    let counted = counted.and_then(|counted| with_partitions(object, counted));
    let object = counted.as_deref().unwrap_or(object);
    let generation = object.metadata.generation;
    let Learned {
        revision,
        warnings,
        topics,
        runs,
        replay,
    } = learned;
    let mut all = conditions(state, generation, &old.conditions, now);
    let (blocks, failing) = match runs {
        Some(runs) => {
            let blocks = blocks(object, runs, &old.blocks, now);
            let degraded = match runs.reports.is_empty() && !runs.pods.is_empty() {
                // Nobody answers: what failed before may fail still.
                true => old.conditions.into_iter().find(is_degraded),
                false => degraded(object, runs, &blocks, now),
            };
            let failing = degraded.iter().map(|found| found.message.clone());
            let failing = failing.collect();
            all.extend(degraded);
            (blocks, failing)
        }
        None => {
            all.extend(old.conditions.into_iter().filter(is_degraded));
            (unjudged(old.blocks), old.failing)
        }
    };
    let stages = match runs {
        Some(runs) => stages(object, runs, &old.stages, now),
        None => old.stages,
    };
    let replay = replay.clone().unwrap_or(old.replay);
    PipelineStatus {
        observed_generation: generation,
        conditions: all,
        reason: if *state == State::Ready {
            String::new()
        } else {
            state.words().0.to_string()
        },
        failing,
        warnings: warnings.clone().unwrap_or(old.warnings),
        revision: revision.or(old.revision),
        user: Some(tenants::user_name(object)),
        replicas: Some(most(object, &stages)),
        selector: Some(pods::selector(object)),
        lag: match runs {
            Some(runs) => runs.lag(object, None),
            None => old.lag,
        },
        topics: topics.clone().unwrap_or(old.topics),
        stages,
        blocks,
        replays: replay::past(replay.as_ref(), &old.replays),
        replay,
    }
}

fn is_degraded(known: &Condition) -> bool {
    known.kind == ConditionType::Degraded
}

/// The blocks while nobody asks the runners: that time does not count as one without output.
fn unjudged(mut blocks: Vec<BlockStatus>) -> Vec<BlockStatus> {
    for block in &mut blocks {
        block.no_output_since = None;
    }
    blocks
}

/// What fails comes before what only says nothing.
fn degraded(
    object: &Pipeline,
    runs: &Runs,
    blocks: &[BlockStatus],
    now: &Time,
) -> Option<Condition> {
    let failing = runs
        .failing()
        .map(|failing| (Reason::BlockFailing, failing.words));
    let silent = || {
        let words = no_output::words(
            &no_output::silent(object, &runs.stages, &runs.reports),
            blocks,
            now,
        )?;
        Some((Reason::NoOutput, words))
    };
    let (reason, words) = failing.or_else(silent)?;
    let old = object.status.as_ref().map(|status| &status.conditions);
    let before = old.into_iter().flatten();
    let mut before = before.filter(|condition| condition.kind == ConditionType::Degraded);
    Some(Condition {
        kind: ConditionType::Degraded,
        status: ConditionStatus::True,
        reason: reason.name().to_owned(),
        message: cut(words, PART_CHARS_MAX),
        observed_generation: object.metadata.generation,
        last_transition_time: before
            .next()
            .map_or_else(|| now.clone(), |before| before.last_transition_time.clone()),
    })
}

/// The replicas of the stage that has the most.
fn most(object: &Pipeline, stages: &[StageStatus]) -> i32 {
    match (&object.spec.scaling, object.spec.state) {
        (Some(scaling), PipelineState::Running) => {
            let wanted = stages.iter().filter_map(|stage| stage.wanted);
            wanted.max().unwrap_or(scaling.min)
        }
        _ => {
            let of_stages = stages.iter().map(|stage| replicas(object, &stage.name));
            of_stages.max().unwrap_or_else(|| replicas(object, ""))
        }
    }
}

fn stages(object: &Pipeline, runs: &Runs, old: &[StageStatus], now: &Time) -> Vec<StageStatus> {
    let stage = |name: &String| {
        let pods = || runs.pods.iter().filter(|pod| pod.stage == *name);
        let ready = pods().filter(|pod| pod.ready);
        let known = old.iter().find(|known| known.name == *name);
        let (wanted, scaling) = scaled(object, runs, name, known, now);
        StageStatus {
            name: name.clone(),
            group: group(object, name),
            ready: i32::try_from(ready.count()).unwrap_or(i32::MAX),
            lag: runs.lag(object, Some(name)),
            lag_seconds: runs.lag_seconds(object, name),
            slowest: cpu::slowest(&runs.reports, name),
            partitions: runs
                .partitions
                .get(name)
                .copied()
                .unwrap_or_else(|| known?.partitions),
            wanted,
            members: Some(members(object, runs, name, known)),
            scaling,
        }
    };
    runs.stages.iter().map(stage).collect()
}

/// The replicas that a stage with `scaling` should have from now on, and why. What was decided last
/// stays while the Pipeline is Paused, or too little is known.
fn scaled(
    object: &Pipeline,
    runs: &Runs,
    stage: &str,
    known: Option<&StageStatus>,
    now: &Time,
) -> (Option<i32>, Option<ScalingStatus>) {
    if object.spec.scaling.is_none() {
        return (None, None);
    }
    let kept = known.and_then(|known| known.scaling.clone());
    match runs.scaled.get(stage) {
        Some(observed) if object.spec.state == PipelineState::Running => {
            let now_wanted = replicas(object, stage);
            let decision = decide(*observed, now_wanted, &kept.unwrap_or_default(), now.0);
            (Some(decision.wanted), Some(decision.status))
        }
        _ => (known.and_then(|known| known.wanted), kept),
    }
}

/// The replicas of each stage whose pods are gone and whose members may still be in its group.
pub fn members_gone(object: &Pipeline, runs: &Runs) -> Vec<(String, Range<i32>)> {
    let status = object.status.iter().flat_map(|status| &status.stages);
    let gone = status.filter_map(|known| {
        let wanted = replicas(object, &known.name);
        let is_surplus = |pod: &PodFacts| {
            pod.stage == known.name && i32::try_from(pod.ordinal).is_ok_and(|one| one >= wanted)
        };
        let still = runs.pods.iter().any(is_surplus);
        let members = known.members.unwrap_or_default();
        let is_gone = runs.stages.contains(&known.name) && !still && members > wanted;
        is_gone.then(|| (known.name.clone(), wanted..members))
    });
    gone.collect()
}

/// Replicas whose members Kafka may have in the group of a stage, as the status says.
pub fn members_known(object: &Pipeline, stage: &str) -> i32 {
    let mut stages = object.status.iter().flat_map(|status| &status.stages);
    let known = stages.find(|known| known.name == stage);
    known.and_then(|known| known.members).unwrap_or_default()
}

/// Replicas whose members Kafka may have in the group.
fn members(object: &Pipeline, runs: &Runs, stage: &str, known: Option<&StageStatus>) -> i32 {
    let wanted = replicas(object, stage);
    let before = known.and_then(|known| known.members).unwrap_or_default();
    match runs.left.contains(stage) {
        true => wanted,
        false => before.max(wanted),
    }
}

/// The blocks of the graph. What the ends of a stage (`<block>~in`, `<block>~out`) fail on is told
/// of the block that they belong to.
fn blocks(object: &Pipeline, runs: &Runs, old: &[BlockStatus], now: &Time) -> Vec<BlockStatus> {
    let reports = merged(&runs.reports);
    let silent = no_output::silent(object, &runs.stages, &runs.reports);
    let stopped: Vec<&str> = runs
        .reports
        .iter()
        .filter_map(|report| report.stopped.as_ref()?.block.as_deref())
        .map(of_graph)
        .collect();
    let block = |name: &String| {
        let own = reports.iter().find(|report| report.name == *name);
        let parts: Vec<&BlockReport> = reports
            .iter()
            .filter(|report| of_graph(&report.name) == name)
            .collect();
        let fails =
            |report: &&BlockReport| report.problem.is_some() || report.errors_per_second > 0.0;
        let known = old.iter().find(|known| known.name == *name);
        let errors: f64 = parts.iter().map(|report| report.errors_per_second).sum();
        BlockStatus {
            name: name.clone(),
            state: match (stopped.contains(&name.as_str()), own) {
                (true, _) => BlockState::Stopped,
                (_, None) => BlockState::Unknown,
                (_, Some(_)) if parts.iter().any(fails) => BlockState::Failing,
                _ => BlockState::Running,
            },
            in_per_second: own.map_or(0, |report| rate(report.in_per_second)),
            out_per_second: own.map_or(0, |report| rate(report.out_per_second)),
            errors_per_second: rate(errors),
            dropped_per_second: dropped(&parts),
            cpu_seconds_per_million: cpu::seconds_per_million(own, &parts, known),
            no_output_since: no_output::since(&silent, name, old, now),
            last_error: last_error(&parts).or_else(|| known?.last_error.clone()),
            last_alert: alerts::last(known, own.and_then(|own| own.last_alert.as_ref()), now),
        }
    };
    object
        .spec
        .blocks
        .iter()
        .map(|one| block(&one.name))
        .collect()
}

/// What ends at a block, by reason.
fn dropped(parts: &[&BlockReport]) -> BTreeMap<String, i64> {
    let of = |reason: &str| -> f64 {
        let rates = parts.iter().map(|part| part.dropped_per_second.get(reason));
        rates.flatten().sum()
    };
    let reasons = DROPPED.iter().map(|reason| (*reason, of(reason)));
    reasons
        .filter(|(_, found)| *found > 0.0)
        .map(|(reason, found)| (reason.to_owned(), rate(found)))
        .collect()
}

/// Whole records a second, rounded down coarsely, so that the status is rarely written; what is
/// above nothing is at least 1.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a rate is far below the largest i64, and casts of floats saturate"
)]
fn rate(per_second: f64) -> i64 {
    coarse(per_second.ceil() as i64)
}

fn last_error(parts: &[&BlockReport]) -> Option<BlockError> {
    let errors = parts.iter().filter_map(|report| report.last_error.as_ref());
    let last = errors.max_by_key(|error| error.time_ms)?;
    Some(BlockError {
        message: cut(&last.summary, PART_CHARS_MAX),
        address: last.address.as_ref().map(ToString::to_string),
        // To the second: a block that fails all the time changes it all the time.
        time: Time(Timestamp::from_second(last.time_ms / 10_000 * 10).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::is_ready;
    use crate::kinds::pipeline::scaling::{Limits, Load};
    use freehold_pipeline::report::{LastError, Stopped};
    use serde_json::json;

    fn pipeline() -> Pipeline {
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop", "generation": 3},
            "spec": {"clusterRef": {"name": "demo"}, "blocks": [
                {"name": "in", "source": {"kafka": {"topic": "orders"}}},
                {"name": "clean", "from": ["in"], "transform": {"vrl": "del(.card)"}},
                {"name": "out", "from": ["clean"], "sink": {"kafka": {"topic": "clean"}}},
            ]},
        }))
        .unwrap()
    }

    fn block(name: &str) -> BlockReport {
        BlockReport {
            name: name.to_owned(),
            in_per_second: 1234.5,
            out_per_second: 1230.0,
            ..BlockReport::default()
        }
    }

    fn failing(name: &str, time_ms: i64) -> BlockReport {
        BlockReport {
            errors_per_second: 0.1,
            last_error: Some(LastError {
                summary: "line 1: not a number".to_owned(),
                address: "orders/0/7".parse().ok(),
                time_ms,
            }),
            ..block(name)
        }
    }

    fn runs(blocks: &[BlockReport], stopped: Option<Stopped>) -> Runs {
        let report = StageReport {
            stage: "in".to_owned(),
            ready: true,
            lag: Some(77),
            stopped,
            blocks: blocks.to_vec(),
            ..StageReport::default()
        };
        let pod = PodFacts {
            name: "orders-in-0".to_owned(),
            stage: "in".to_owned(),
            ready: true,
            ..PodFacts::default()
        };
        Runs {
            stages: vec!["in".to_owned()],
            started_with: BTreeMap::new(),
            pods: vec![pod],
            reports: vec![report],
            ..Runs::default()
        }
    }

    fn after(object: &Pipeline, runs: Runs) -> PipelineStatus {
        let state = runs.state(object);
        let learned = Learned {
            runs: Some(runs),
            ..Learned::default()
        };
        status(object, &learned, &state, &Time(Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn a_stage_reads_once_all_of_its_pods_are_what_they_should_be_and_say_so() {
        let object = pipeline();
        let mut runs = runs(&[], None);
        let name = "in".to_owned();
        let not_known = runs.reads(&object, "in");
        assert!(!not_known, "nothing was brought in line");
        runs.started_with.insert(name.clone(), BTreeMap::new());
        assert!(runs.reads(&object, "in") && !runs.reads(&object, "other"));
        let other = BTreeMap::from([("hash".to_owned(), "b".to_owned())]);
        runs.started_with.insert(name.clone(), other);
        assert!(!runs.reads(&object, "in"), "it is to be replaced");
        runs.started_with.insert(name, BTreeMap::new());
        runs.reports[0].ready = false;
        assert!(!runs.reads(&object, "in"), "it has stopped, or starts");
    }

    #[test]
    fn a_block_that_fails_on_records_is_named_and_the_pipeline_stays_ready() {
        let mut object = pipeline();
        let found = after(
            &object,
            runs(&[block("in"), failing("clean", 15_000)], None),
        );
        assert!(is_ready(&found.conditions));
        let said = "block clean: line 1: not a number (record orders/0/7)";
        assert_eq!(found.failing, said);
        let degraded = found.conditions.last().unwrap();
        assert_eq!(
            (degraded.kind, &*degraded.message),
            (ConditionType::Degraded, said)
        );
        assert_eq!(found.blocks[1].state, BlockState::Failing);
        assert_eq!((found.lag, found.blocks[0].in_per_second), (Some(50), 1000));

        object.status = Some(found);
        let unanswered = Runs {
            reports: Vec::new(),
            ..runs(&[], None)
        };
        let unanswered = after(&object, unanswered);
        assert_eq!(unanswered.failing, said, "nobody says that it is over");
        assert_eq!(
            unanswered.conditions.last().unwrap().kind,
            ConditionType::Degraded
        );
        let quiet = after(&object, runs(&[block("in"), block("clean")], None));
        assert_eq!((&*quiet.failing, quiet.conditions.len()), ("", 1));
        assert_eq!(quiet.blocks[1].state, BlockState::Running);
        let last = quiet.blocks[1].last_error.as_ref().unwrap();
        assert_eq!(last.address.as_deref(), Some("orders/0/7"), "it stays");
    }

    #[test]
    fn a_block_at_which_all_records_end_is_said_after_a_minute_and_clears_by_itself() {
        let mut object = pipeline();
        let ends = BlockReport {
            out_per_second: 0.0,
            dropped_per_second: [("aborted".to_owned(), 1234.5)].into(),
            ..block("clean")
        };
        let at = |object: &Pipeline, second: i64, block: &BlockReport| {
            let runs = runs(std::slice::from_ref(block), None);
            let state = runs.state(object);
            let learned = Learned {
                runs: Some(runs),
                ..Learned::default()
            };
            status(
                object,
                &learned,
                &state,
                &Time(Timestamp::from_second(second).unwrap()),
            )
        };
        for second in [100, 104, 159] {
            let found = at(&object, second, &ends);
            let since = found.blocks[1].no_output_since.as_ref().unwrap();
            assert_eq!((since.0.as_second(), &*found.failing), (100, ""));
            object.status = Some(found);
        }
        let state = State::reconciling(Reason::WaitingForCluster, "it is paused");
        let now = Time(Timestamp::from_second(159).unwrap());
        let unasked = status(&object, &Learned::default(), &state, &now);
        assert_eq!(unasked.blocks[1].no_output_since, None, "nobody looks");
        let found = at(&object, 160, &ends);
        assert!(
            found
                .failing
                .starts_with("block clean: records come and none leaves")
        );
        let degraded = found.conditions.last().unwrap();
        assert_eq!(
            (degraded.kind, &*degraded.reason),
            (ConditionType::Degraded, "NoOutput")
        );
        assert!(is_ready(&found.conditions), "the stream goes on");
        object.status = Some(found);
        let failed = at(&object, 164, &failing("clean", 1));
        assert_eq!(failed.conditions.last().unwrap().reason, "BlockFailing");
        let again = at(&object, 164, &block("clean"));
        assert_eq!((&*again.failing, again.conditions.len()), ("", 1));
        assert_eq!(again.blocks[1].no_output_since, None);
    }

    #[test]
    fn what_ends_at_a_block_is_told_by_reason_and_how_far_a_stage_is_behind() {
        let mut object = pipeline();
        let drops = |reason: &str, name: &str| BlockReport {
            dropped_per_second: [(reason.to_owned(), 1234.5), ("made up".to_owned(), 1.0)].into(),
            ..block(name)
        };
        let mut found = runs(
            &[drops("filtered", "clean"), drops("skipped", "clean~out")],
            None,
        );
        found.reports[0].lag_seconds = Some(33.4);
        let told = after(&object, found.clone());
        let expected = [
            ("filtered".to_owned(), 1_000),
            ("skipped".to_owned(), 1_000),
        ];
        assert_eq!(told.blocks[1].dropped_per_second, BTreeMap::from(expected));
        assert_eq!(told.blocks[0].dropped_per_second, BTreeMap::new());
        assert_eq!(told.stages[0].lag_seconds, Some(20));
        object.spec.replicas = 2;
        let told = after(&object, found);
        assert_eq!(told.stages[0].lag_seconds, None, "one does not answer");
    }

    #[test]
    fn a_stage_that_lags_gets_replicas_and_paused_keeps_what_was_decided() {
        let mut object = pipeline();
        object.spec.scaling = serde_json::from_value(json!({"max": 4})).unwrap();
        let mut found = runs(&[], None);
        let observed = Observed {
            target_secs: 30.0,
            limits: Limits { min: 1, max: 4 },
            load: Some(Load {
                lag: 9_000.0,
                rate: 100.0,
                busy: Some(100.0),
            }),
        };
        found.scaled = [("in".to_owned(), observed)].into();
        let lagged = after(&object, found.clone());
        let stage = &lagged.stages[0];
        assert_eq!((stage.wanted, stage.members), (Some(4), Some(1)));
        let scaling = stage.scaling.as_ref().unwrap();
        assert_eq!(
            (&*scaling.reason, scaling.changes.len()),
            ("it lagged with 1", 1)
        );
        assert_eq!(scaling.forecast_seconds, Some(50));
        assert_eq!((lagged.replicas, replicas(&object, "in")), (Some(4), 1));
        object.status = Some(lagged);
        assert_eq!(replicas(&object, "in"), 4);
        object.spec.state = PipelineState::Paused;
        let paused = after(&object, found);
        assert_eq!((paused.replicas, replicas(&object, "in")), (Some(0), 0));
        assert_eq!(paused.stages[0].wanted, Some(4));
        object.spec.scaling = None;
        assert_eq!(after(&object, runs(&[], None)).stages[0].wanted, None);
    }

    #[test]
    fn a_replica_leaves_its_group_when_its_pod_is_gone() {
        let mut object = pipeline();
        object.spec.replicas = 3;
        object.status = Some(after(&object, runs(&[], None)));
        object.spec.replicas = 1;
        let mut going = runs(&[], None);
        going.pods.push(PodFacts {
            ordinal: 2,
            ..going.pods[0].clone()
        });
        assert_eq!(members_gone(&object, &going), [], "its pod still ends");
        let mut gone = runs(&[], None);
        assert_eq!(members_gone(&object, &gone), [("in".to_owned(), 1..3)]);
        let failed = after(&object, gone.clone());
        assert_eq!(failed.stages[0].members, Some(3), "it is tried again");
        gone.left.insert("in".to_owned());
        object.status = Some(after(&object, gone.clone()));
        assert_eq!(members_gone(&object, &gone), []);
    }

    #[test]
    fn what_stops_the_stream_comes_before_what_fails_on_records() {
        let object = pipeline();
        let away = BlockReport {
            problem: Some("topic clean: unknown topic".to_owned()),
            ..block("out")
        };
        let found = after(&object, runs(&[failing("clean", 1), away.clone()], None));
        assert!(!is_ready(&found.conditions));
        assert_eq!(found.failing, "block out: topic clean: unknown topic");
        let stopped = Stopped {
            block: Some("clean".to_owned()),
            error: "line 1: not a number".to_owned(),
            address: "orders/0/7".parse().ok(),
        };
        let found = after(&object, runs(&[block("clean"), away], Some(stopped)));
        let said = "block clean: stopped: line 1: not a number (record orders/0/7)";
        assert_eq!((&*found.failing, &*found.reason), (said, "BlockFailing"));
        assert_eq!(found.blocks[1].state, BlockState::Stopped);
    }

    #[test]
    fn the_end_of_a_stage_is_told_of_its_block() {
        let object = pipeline();
        let found = after(
            &object,
            runs(&[block("clean"), failing("clean~out", 1)], None),
        );
        assert!(
            found.failing.starts_with("block clean: "),
            "{}",
            found.failing
        );
        assert_eq!(found.blocks[1].state, BlockState::Failing);
    }

    #[test]
    fn a_replica_that_does_not_answer_leaves_the_lag_unknown() {
        let object = pipeline();
        let silent = Runs {
            reports: Vec::new(),
            ..runs(&[], None)
        };
        let found = after(&object, silent);
        assert_eq!(
            (found.lag, found.blocks[0].state),
            (None, BlockState::Unknown)
        );
        let starting = Runs {
            pods: vec![PodFacts {
                trouble: Some("ImagePullBackOff".to_owned()),
                ..runs(&[], None).pods[0].clone()
            }],
            ..Runs::default()
        };
        let not_ready = Runs {
            stages: vec!["in".to_owned()],
            started_with: BTreeMap::new(),
            pods: vec![PodFacts {
                ready: false,
                ..starting.pods[0].clone()
            }],
            ..Runs::default()
        };
        let state = not_ready.state(&object);
        let said = "stage in: 0 of 1 replicas are ready: pod orders-in-0: ImagePullBackOff";
        assert_eq!(state, State::reconciling(Reason::Starting, said));
    }

    #[test]
    fn a_pod_that_is_not_made_says_why() {
        let mut object = pipeline();
        object.spec.replicas = 2;
        let why = "pods \"orders-in-1\" is forbidden: exceeded quota: small";
        let mut found = runs(&[], None);
        found.not_made.insert("in".to_owned(), why.to_owned());
        let said = format!("stage in: 1 of 2 replicas are ready: no pod is made: {why}");
        assert_eq!(
            found.state(&object),
            State::reconciling(Reason::Starting, said)
        );
    }

    #[test]
    fn a_replica_counts_only_if_it_runs_the_newest_stage_and_its_runner_is_ready() {
        let object = pipeline();
        let said = |runs: &Runs| runs.state(&object).words().1.to_owned();
        let mut old = runs(&[], None);
        let hash = |hash: &str| BTreeMap::from([("hash".to_owned(), hash.to_owned())]);
        old.pods[0].started_with = hash("old");
        assert_eq!(old.state(&object), State::Ready);
        old.started_with.insert("in".to_owned(), hash("new"));
        assert!(said(&old).ends_with("pod orders-in-0 is to be replaced"));
        let mut silent = runs(&[], None);
        silent.reports.clear();
        assert!(said(&silent).ends_with("pod orders-in-0 does not answer at port 8080"));
        let mut stuck = runs(&[], None);
        stuck.reports[0].ready = false;
        stuck.reports[0].message = "no broker answers".to_owned();
        assert!(said(&stuck).ends_with("pod orders-in-0: no broker answers"));
    }
}
