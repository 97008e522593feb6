//! Decides how many replicas a stage has by its lag, from what its runners say and what the status
//! has kept. Pure.
//!
//! A replica's capacity is what it processes while records wait for it. The forecast is the time in
//! which the replicas process what waits. Above `targetLag` the stage gets at once as many replicas
//! as process that in `targetLag`, beside what comes. It gives replicas back one at a time, after a
//! long time in which one less would do.

use crate::api::pipeline::{Pipeline, PipelineSpec, Scaling, ScalingStatus};
use freehold_kafka_client::figures::coarse;
use freehold_pipeline::duration::Duration;
use freehold_pipeline::finding::Finding;
use freehold_pipeline::report::StageReport;
use freehold_pipeline::source::Source;
use freehold_pipeline::stages::{Role, Stage};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// Changes in an hour. Each one is a rebalance of the group, in which its records wait for seconds.
const CHANGES_MAX: usize = 6;
/// Of these, so many may take a replica away: the others are left for a load that comes.
const CHANGES_DOWN_MAX: usize = 4;
const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// A replica that was added needs this time to start, and to show what it does.
const SETTLE: SignedDuration = SignedDuration::from_secs(60);
/// One replica less must do for this long. Loads that come in waves have shorter pauses.
const QUIET: SignedDuration = SignedDuration::from_mins(10);
/// What the replicas that are left may be used, so that the next one is not needed at once.
const USE_MAX: f64 = 0.7;
/// A replica with more records than it processes in this time is busy. Below it they may only wait
/// for the next commit.
const BUSY_SECS: f64 = 5.0;
/// A capacity that differs less from the known one is the same: the status is rarely written.
const CAPACITY_STEP: f64 = 0.2;

/// The replicas that a stage may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub min: i32,
    pub max: i32,
}

impl Limits {
    /// `partitions`: of the topic that the stage reads; of several, the most. A stage without them
    /// has no lag. Some sources are read by the first replica alone.
    pub fn of(scaling: &Scaling, stage: &Stage, partitions: i32) -> Self {
        let blocks = &stage.definition.blocks;
        let mut sources = blocks.iter().filter_map(|block| block.source.as_ref());
        let is_alone = |source: &Source| {
            let mqtt = source.mqtt.as_ref();
            mqtt.is_some_and(|mqtt| !mqtt.shared) || source.http_poll.is_some()
        };
        if sources.any(is_alone) {
            return Self { min: 1, max: 1 };
        }
        let max = match Role::of(blocks) {
            Role::Ingest => scaling.min,
            Role::Flow | Role::Deliver => scaling.max.min(partitions.max(1)),
        };
        Self {
            min: scaling.min.min(max),
            max,
        }
    }

    pub fn clamp(self, replicas: i32) -> i32 {
        replicas.clamp(self.min, self.max)
    }
}

/// What is wrong with `scaling`: a person finds it out before the API server does.
pub fn findings(spec: &PipelineSpec) -> Vec<Finding> {
    let Some(scaling) = &spec.scaling else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    if spec.replicas != 1 {
        let why = "the lag decides (scaling); remove replicas, or change scaling.min and \
                   scaling.max";
        findings.push(Finding::error("replicas", why));
    }
    if scaling.min > scaling.max {
        let why = format!("{}: less than min, {}", scaling.max, scaling.min);
        findings.push(Finding::error("scaling.max", why));
    }
    findings
}

/// What is known of a stage for a decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observed {
    pub target_secs: f64,
    pub limits: Limits,
    pub load: Option<Load>,
}

/// What is known of the stages of a Pipeline with `scaling`. `partitions`: of a topic; a stage with
/// a topic of which they are not known is left as it is. `replicas`: of a stage.
pub fn observed(
    object: &Pipeline,
    stages: &[Stage],
    reports: &[StageReport],
    partitions: impl Fn(&str) -> Option<i32>,
    replicas: impl Fn(&str) -> i32,
) -> BTreeMap<String, Observed> {
    let Some(scaling) = &object.spec.scaling else {
        return BTreeMap::new();
    };
    let of_stage = |stage: &Stage| {
        let blocks = stage.definition.blocks.iter();
        let sources = blocks.clone().filter_map(|block| block.source.as_ref());
        let topics = sources.filter_map(|source| source.kafka.as_ref()?.target.topic.as_deref());
        let of_topics: Option<Vec<i32>> = topics.map(&partitions).collect();
        let sinks = blocks.filter_map(|block| block.sink.as_ref()?.s3.as_ref());
        let waits = sinks.map(|s3| seconds(s3.file_every)).fold(0.0, f64::max);
        let observed = Observed {
            target_secs: seconds(scaling.target_lag) + waits,
            limits: Limits::of(scaling, stage, of_topics?.into_iter().max().unwrap_or(1)),
            load: load(stage, reports, replicas(&stage.name)),
        };
        Some((stage.name.clone(), observed))
    };
    stages.iter().filter_map(of_stage).collect()
}

fn seconds(duration: Duration) -> f64 {
    std::time::Duration::from(duration).as_secs_f64()
}

/// What the replicas of a stage say together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Records that wait.
    pub lag: f64,
    /// Records a second that are processed.
    pub rate: f64,
    /// Records a second of a replica that is busy; `None`: none is.
    pub busy: Option<f64>,
}

/// What the replicas of a stage say; `None`: not all of them say it, or are ready.
#[allow(
    clippy::cast_precision_loss,
    reason = "a lag of 2^53 records is as good as more"
)]
pub fn load(stage: &Stage, reports: &[StageReport], replicas: i32) -> Option<Load> {
    let of_stage = |report: &&StageReport| report.stage == stage.name;
    let reports: Vec<&StageReport> = reports.iter().filter(of_stage).collect();
    let blocks = stage.definition.blocks.iter();
    let sources: Vec<&str> = blocks
        .filter(|block| block.source.is_some())
        .map(|block| &*block.name)
        .collect();
    if reports.len() != usize::try_from(replicas).ok()? || reports.is_empty() {
        return None;
    }
    let mut load = Load {
        lag: 0.0,
        rate: 0.0,
        busy: None,
    };
    let (mut busy, mut busy_rate) = (0.0, 0.0);
    for report in reports {
        let lag = report.lag.filter(|_| report.ready)? as f64;
        let blocks = report.blocks.iter();
        let read = blocks.filter(|block| sources.contains(&&*block.name));
        let rate: f64 = read.map(|block| block.in_per_second).sum();
        load.lag += lag;
        load.rate += rate;
        if rate > 0.0 && lag > rate * BUSY_SECS {
            busy += 1.0;
            busy_rate += rate;
        }
    }
    if busy > 0.0 {
        load.busy = Some(busy_rate / busy);
    }
    Some(load)
}

/// What a stage should have, and what its status keeps of the decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub wanted: i32,
    pub status: ScalingStatus,
}

/// Decides from what the replicas say now. `replicas`: what the stage should have had until now.
pub fn decide(observed: Observed, replicas: i32, old: &ScalingStatus, now: Timestamp) -> Decision {
    let Observed {
        target_secs,
        limits,
        load,
    } = observed;
    let within_the_hour = |change: &&Time| now.duration_since(change.0) < HOUR;
    let mut status = ScalingStatus {
        changes: old
            .changes
            .iter()
            .filter(within_the_hour)
            .cloned()
            .collect(),
        capacity_per_minute: old.capacity_per_minute,
        ..ScalingStatus::default()
    };
    let keeps = |status: ScalingStatus, reason: String| Decision {
        wanted: replicas,
        status: ScalingStatus { reason, ..status },
    };
    let allowed = limits.clamp(replicas);
    if allowed != replicas {
        // What somebody asks for is no change of the load.
        status.reason = format!("it may have {} to {}", limits.min, limits.max);
        return Decision {
            wanted: allowed,
            status,
        };
    }
    let Some(load) = load else {
        return keeps(status, "not every replica says what it does".to_owned());
    };
    status.capacity_per_minute = capacity(load, replicas, old.capacity_per_minute);
    let Some(seconds) = forecast(load, replicas, status.capacity_per_minute) else {
        return keeps(status, "records wait and none is processed".to_owned());
    };
    status.forecast_seconds = Some(coarse(whole(seconds.ceil())));
    if seconds > target_secs {
        return more(target_secs, limits, replicas, load, status, now);
    }
    let would_do =
        would_do(load, replicas - 1, status.capacity_per_minute) && seconds <= target_secs / 2.0;
    if replicas <= limits.min || !would_do {
        return keeps(status, "it keeps up".to_owned());
    }
    less(replicas, status, old.quiet_since.clone(), now)
}

/// Whether fewer replicas would process what comes. Without a known capacity it is tried.
fn would_do(load: Load, replicas: i32, capacity: Option<i64>) -> bool {
    let all = |one| per_second(one) * f64::from(replicas);
    capacity.is_none_or(|one| load.rate <= all(one) * USE_MAX)
}

/// Records a minute of a replica: of the busy ones what they do, else at least what each does.
fn capacity(load: Load, replicas: i32, known: Option<i64>) -> Option<i64> {
    let known_rate = known.map(per_second);
    let rate = match (load.busy, known_rate) {
        (Some(busy), _) => busy,
        (None, Some(known)) => known.max(load.rate / f64::from(replicas)),
        (None, None) => return None,
    };
    let is_same = |known: f64| (rate - known).abs() <= known * CAPACITY_STEP;
    match known_rate.is_some_and(is_same) {
        true => known,
        false => Some(whole((rate * 60.0).ceil()).max(1)),
    }
}

/// Seconds in which what waits is processed; `None`: nothing is processed.
fn forecast(load: Load, replicas: i32, capacity: Option<i64>) -> Option<f64> {
    if load.lag <= 0.0 {
        return Some(0.0);
    }
    if load.rate <= 0.0 {
        return None;
    }
    let all = capacity.map_or(load.rate, |one| per_second(one) * f64::from(replicas));
    Some(load.lag / all)
}

fn more(
    target_secs: f64,
    limits: Limits,
    replicas: i32,
    load: Load,
    mut status: ScalingStatus,
    now: Timestamp,
) -> Decision {
    let needed = status
        .capacity_per_minute
        .map_or(f64::from(replicas + 1), |one| {
            (load.rate + load.lag / target_secs) / per_second(one)
        });
    let last = status.changes.last();
    let settles = last.is_some_and(|last| now.duration_since(last.0) < SETTLE);
    let (wanted, reason) = if replicas >= limits.max {
        (
            replicas,
            "it lags and has as many as it may have".to_owned(),
        )
    } else if settles {
        (replicas, "it lags and waits for the last change".to_owned())
    } else if status.changes.len() >= CHANGES_MAX {
        let reason = format!("it lags and was changed {CHANGES_MAX} times within an hour");
        (replicas, reason)
    } else {
        let most = limits
            .max
            .min(i32::try_from(whole(needed.ceil())).unwrap_or(i32::MAX));
        let wanted = most.max(replicas + 1);
        status.changes.push(second(now));
        (wanted, format!("it lagged with {replicas}"))
    };
    status.reason = reason;
    Decision { wanted, status }
}

fn less(
    replicas: i32,
    mut status: ScalingStatus,
    quiet_since: Option<Time>,
    now: Timestamp,
) -> Decision {
    let since = quiet_since.unwrap_or_else(|| second(now));
    let fewer = replicas - 1;
    let is_quiet = now.duration_since(since.0) >= QUIET;
    if !is_quiet || status.changes.len() >= CHANGES_DOWN_MAX {
        status.reason = format!("{fewer} would do; it waits whether that lasts");
        status.quiet_since = Some(since);
        return Decision {
            wanted: replicas,
            status,
        };
    }
    status.changes.push(second(now));
    status.reason = format!("{fewer} do since {}", since.0);
    Decision {
        wanted: fewer,
        status,
    }
}

fn second(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "no replica processes 2^53 records a minute"
)]
fn per_second(per_minute: i64) -> f64 {
    per_minute as f64 / 60.0
}

#[allow(clippy::cast_possible_truncation, reason = "casts of floats saturate")]
fn whole(value: f64) -> i64 {
    value as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_pipeline::graph::Graph;
    use freehold_pipeline::report::BlockReport;
    use freehold_pipeline::stages::cut;
    use freehold_pipeline::topics::TopicNames;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;
    use std::collections::VecDeque;

    const TARGET_SECS: f64 = 30.0;
    const TICK_SECS: i64 = 4;
    /// How long replicas do not answer after a change, and nothing is processed: a rebalance.
    const REBALANCE_SECS: i64 = 20;

    /// A stage: what comes, what a replica can do, and what was decided.
    struct Simulated {
        limits: Limits,
        /// Records a second of a replica.
        capacity: f64,
        now: i64,
        lag: f64,
        replicas: i32,
        status: ScalingStatus,
        /// Records that were processed in each of the last ticks: rates are over ten seconds.
        processed: VecDeque<f64>,
        changed: i64,
        /// When, from and to.
        changes: Vec<(i64, i32, i32)>,
        forecast: f64,
    }

    impl Simulated {
        fn new(limits: Limits, capacity: f64) -> Self {
            Self {
                limits,
                capacity,
                now: 0,
                lag: 0.0,
                replicas: limits.min,
                status: ScalingStatus::default(),
                processed: VecDeque::new(),
                changed: -REBALANCE_SECS,
                changes: Vec::new(),
                forecast: 0.0,
            }
        }

        fn all(&self) -> f64 {
            self.capacity * f64::from(self.replicas)
        }

        /// So many records a second come for a time.
        fn run(&mut self, arrival: f64, seconds: i64) {
            let tick = TICK_SECS as f64;
            for _ in 0..seconds / TICK_SECS {
                self.now += TICK_SECS;
                let starts = self.now - self.changed < REBALANCE_SECS;
                self.lag += arrival * tick;
                let done = if starts {
                    0.0
                } else {
                    self.lag.min(self.all() * tick)
                };
                self.lag -= done;
                self.processed.push_back(done);
                if self.processed.len() > 3 {
                    self.processed.pop_front();
                }
                let rate = self.processed.iter().sum::<f64>() / (tick * 3.0);
                let one = rate / f64::from(self.replicas);
                let busy = self.lag / f64::from(self.replicas) > one * BUSY_SECS && one > 0.0;
                let load = Load {
                    lag: self.lag,
                    rate,
                    busy: busy.then_some(one),
                };
                self.forecast = self.lag / self.all();
                self.decide((!starts).then_some(load));
            }
        }

        fn decide(&mut self, load: Option<Load>) {
            let now = Timestamp::from_second(self.now).unwrap();
            let observed = Observed {
                target_secs: TARGET_SECS,
                limits: self.limits,
                load,
            };
            let decision = decide(observed, self.replicas, &self.status, now);
            // What the status keeps is all that the next decision knows.
            self.status =
                serde_json::from_value(serde_json::to_value(decision.status).unwrap()).unwrap();
            if decision.wanted != self.replicas {
                self.changes
                    .push((self.now, self.replicas, decision.wanted));
                self.replicas = decision.wanted;
                self.changed = self.now;
                self.processed.clear();
            }
        }

        fn changes_within_an_hour(&self) -> usize {
            let until = |time: i64| {
                let within =
                    |(other, _, _): &&(i64, i32, i32)| *other <= time && *other > time - 3_600;
                self.changes.iter().filter(within).count()
            };
            self.changes
                .iter()
                .map(|(time, _, _)| until(*time))
                .max()
                .unwrap_or_default()
        }
    }

    const LIMITS: Limits = Limits { min: 1, max: 8 };

    fn pipeline() -> Pipeline {
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"clusterRef": {"name": "demo"}, "scaling": {"min": 2, "max": 5}, "blocks": [
                {"name": "in", "source": {"kafka": {"topic": "orders"}}},
                {"name": "more", "source": {"kafka": {"topic": "more"}}},
                {"name": "clean", "from": ["in", "more"], "transform": {"vrl": "del(.a)"}},
                {"name": "out", "from": ["clean"], "sink": {"kafka": {"topic": "clean"}}},
                {"name": "files", "from": ["in"], "sink": {"s3": {
                    "bucket": "b", "credentials": {"name": "s"}}}},
                {"name": "posted", "source": {"http": {"authentication": {
                    "token": {"name": "s", "key": "token"}}}}},
                {"name": "a", "from": ["posted"], "sink": {"kafka": {"topic": "a"}}},
                {"name": "sensors", "source": {"mqtt": {
                    "url": "mqtts://b.example.com", "topics": ["t"], "basic": {"name": "s"}}}},
                {"name": "b", "from": ["sensors"], "sink": {"kafka": {"topic": "b"}}},
            ]},
        }))
        .unwrap()
    }

    fn report(stage: &str, lag: u64, rates: &[(&str, f64)]) -> StageReport {
        let block = |(name, rate): &(&str, f64)| BlockReport {
            name: (*name).to_owned(),
            in_per_second: *rate,
            ..BlockReport::default()
        };
        StageReport {
            stage: stage.to_owned(),
            ready: true,
            lag: Some(lag),
            blocks: rates.iter().map(block).collect(),
            ..StageReport::default()
        }
    }

    fn known(reports: &[StageReport]) -> BTreeMap<String, Observed> {
        let object = pipeline();
        let definition = object.spec.definition();
        let graph = Graph::of(&definition).unwrap();
        let cut = cut(
            &graph,
            &definition,
            &TopicNames::default(),
            "shop",
            "orders",
        );
        let partitions = |topic: &str| match topic {
            "orders" => Some(3),
            "more" => Some(4),
            _ => None,
        };
        observed(&object, &cut.stages, reports, partitions, |_| 2)
    }

    #[test]
    fn a_stage_has_no_more_replicas_than_can_share_its_source() {
        let known = known(&[]);
        let limits = |stage: &str| (known[stage].limits.min, known[stage].limits.max);
        assert_eq!(limits("in"), (2, 4), "the partitions of its largest topic");
        assert_eq!(limits("files"), (2, 3));
        assert_eq!(limits("posted"), (2, 2), "it has no lag");
        assert_eq!(limits("sensors"), (1, 1), "only the first replica reads");
        assert_eq!(known["in"].target_secs, 30.0);
        assert_eq!(
            known["files"].target_secs, 330.0,
            "a file waits for five minutes"
        );
        let scaling = pipeline().spec.scaling.unwrap();
        let mut stage = Stage {
            name: "x".to_owned(),
            definition: pipeline().spec.definition(),
        };
        stage.definition.blocks.truncate(1);
        let one = Limits::of(&scaling, &stage, 1);
        assert_eq!((one.min, one.max), (1, 1), "partitions come before min");
    }

    #[test]
    fn what_a_replica_can_do_is_measured_while_records_wait_for_it() {
        let rates = [("in", 60.0), ("more", 40.0), ("clean", 100.0)];
        let busy = report("in", 9_000, &rates);
        let idle = report("in", 20, &[("in", 10.0)]);
        let load = known(&[busy.clone(), idle.clone()])["in"].load.unwrap();
        assert_eq!(
            (load.lag, load.rate, load.busy),
            (9_020.0, 110.0, Some(100.0))
        );
        let load = known(&[idle.clone(), idle.clone()])["in"].load.unwrap();
        assert_eq!(load.busy, None);
        assert_eq!(
            known(std::slice::from_ref(&busy))["in"].load,
            None,
            "one of two answers"
        );
        let starts = StageReport {
            ready: false,
            ..idle
        };
        assert_eq!(known(&[busy, starts])["in"].load, None);
    }

    #[test]
    fn a_load_that_grows_gets_replicas_fast_and_gives_them_back_slowly() {
        let mut stage = Simulated::new(LIMITS, 100.0);
        stage.run(50.0, 1_200);
        assert_eq!(stage.changes, []);
        stage.run(450.0, 600);
        assert!(stage.replicas >= 5, "{:?}", stage.changes);
        assert!(stage.forecast < TARGET_SECS, "{}", stage.forecast);
        let up = stage.changes.len();
        assert!(up <= 3, "{:?}", stage.changes);
        stage.run(50.0, 4 * 3_600);
        assert_eq!(stage.replicas, 1, "{:?}", stage.changes);
        for pair in stage.changes[up..].windows(2) {
            assert!(pair[1].0 - pair[0].0 >= QUIET.as_secs());
        }
        assert!(
            stage.changes[up..]
                .iter()
                .all(|(_, from, to)| from - to == 1)
        );
    }

    #[test]
    fn more_than_it_may_have_is_never_asked_for_and_the_reason_is_said() {
        let mut stage = Simulated::new(Limits { min: 1, max: 2 }, 100.0);
        stage.run(500.0, 900);
        assert_eq!(stage.replicas, 2);
        assert_eq!(
            stage.status.reason,
            "it lags and has as many as it may have"
        );
        assert!(stage.status.forecast_seconds > Some(30));
    }

    #[test]
    fn a_change_of_the_limits_holds_at_once_and_is_no_change_of_the_load() {
        let at = |limits, replicas| {
            let observed = Observed {
                target_secs: TARGET_SECS,
                limits,
                load: None,
            };
            let status = ScalingStatus::default();
            decide(observed, replicas, &status, Timestamp::UNIX_EPOCH)
        };
        let raised = at(Limits { min: 3, max: 8 }, 1);
        assert_eq!((raised.wanted, raised.status.changes.len()), (3, 0));
        assert_eq!(at(Limits { min: 1, max: 2 }, 6).wanted, 2);
        let kept = at(LIMITS, 4);
        assert_eq!(kept.wanted, 4, "nobody answers");
        assert_eq!(kept.status.reason, "not every replica says what it does");
    }

    #[test]
    fn a_stage_that_processes_nothing_gets_no_replicas() {
        let load = Load {
            lag: 9e6,
            rate: 0.0,
            busy: None,
        };
        let observed = Observed {
            target_secs: TARGET_SECS,
            limits: LIMITS,
            load: Some(load),
        };
        let status = ScalingStatus::default();
        let found = decide(observed, 2, &status, Timestamp::UNIX_EPOCH);
        assert_eq!(found.wanted, 2);
        assert_eq!(found.status.reason, "records wait and none is processed");
    }

    #[test]
    fn a_slow_endpoint_has_a_capacity_below_a_record_a_second() {
        let mut stage = Simulated::new(LIMITS, 0.2);
        stage.run(0.7, 2_400);
        assert!((4..=6).contains(&stage.replicas), "{:?}", stage.changes);
        assert!(stage.status.capacity_per_minute.unwrap() <= 15);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 40, failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn any_load_is_followed_within_the_limits_and_without_flapping(
            min in 1..4_i32,
            more in 0..8_i32,
            capacity in 1.0..5_000.0_f64,
            // Parts of what the stage can do with all of its replicas, each for some hours.
            phases in vec((0.0..1.4_f64, 1..4_i64), 1..5),
        ) {
            let limits = Limits { min, max: min + more };
            let mut stage = Simulated::new(limits, capacity);
            for (part, hours) in phases {
                let arrival = part * capacity * f64::from(limits.max);
                let begin = stage.changes.len();
                stage.run(arrival, hours * 3_600);
                let changes = &stage.changes[begin..];
                for (_, from, to) in changes {
                    prop_assert!(*to >= limits.min && *to <= limits.max && to != from);
                    prop_assert!(to > from || from - to == 1);
                }
                // Under one load it goes up, then down, and not up again but once: what it has
                // learned of a replica can be too much at first.
                let turns = changes.windows(2).filter(|pair| {
                    (pair[0].1 < pair[0].2) != (pair[1].1 < pair[1].2)
                });
                prop_assert!(turns.count() <= 2, "{changes:?}");
                // It keeps up, or works off what an earlier phase has left, with all it may have.
                if part < 0.9 {
                    let keeps_up = stage.forecast <= TARGET_SECS;
                    let all = stage.replicas == limits.max;
                    prop_assert!(keeps_up || all, "{} {changes:?}", stage.forecast);
                }
                if part > 1.1 {
                    prop_assert_eq!(stage.replicas, limits.max);
                }
            }
            prop_assert!(stage.changes_within_an_hour() <= CHANGES_MAX, "{:?}", stage.changes);
        }

        #[test]
        fn a_load_that_goes_up_and_down_changes_it_a_few_times_an_hour(
            capacity in 1.0..5_000.0_f64,
            phases in vec((0.0..1.4_f64, 2..40_i64), 5..30),
        ) {
            let mut stage = Simulated::new(LIMITS, capacity);
            for (part, minutes) in phases {
                stage.run(part * capacity * f64::from(LIMITS.max), minutes * 60);
                prop_assert!(stage.replicas >= LIMITS.min && stage.replicas <= LIMITS.max);
            }
            prop_assert!(stage.changes_within_an_hour() <= CHANGES_MAX, "{:?}", stage.changes);
        }
    }
}
