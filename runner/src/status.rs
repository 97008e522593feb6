//! What a stage reports at `/status`, from its figures. Pure: the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use freehold_pipeline::replay::ReplayReport;
use freehold_pipeline::report::{BlockReport, DROPPED, LastAlert, LastError, StageReport};
use freehold_pipeline::stage_document::StageDocument;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::figures::Figures as BlockFigures;

use crate::figures::{BlockProblem, Figures, PartitionFigures, Problem};
use crate::replay::ReplayCounts;
use crate::window::Window;

/// A transaction that fails once, as while brokers restart, does not make a stage unready.
const PROBLEM_AGE_MS: i64 = 3_000;

/// Longest text of a report: an object's status holds some of them.
const TEXT_CHARS_MAX: usize = 500;

/// Whose report it is.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    pipeline: String,
    stage: String,
    revision: u64,
    ordinal: u32,
    /// The topic that a block reads or writes, by the block's name.
    topics: BTreeMap<String, String>,
    /// The blocks that read a topic.
    readers: BTreeSet<String>,
    /// The id of its replay, if that is what it does.
    replay: Option<String>,
}

impl Replica {
    /// The replica of this number of a stage.
    #[must_use]
    pub fn of(document: &StageDocument, ordinal: u32) -> Self {
        let names = TopicNames::default();
        let blocks = &document.definition.blocks;
        let readers = blocks.iter().filter(|block| {
            let work = block.work();
            work.is_ok_and(|work| work.reads().is_some())
        });
        let topics = blocks.iter().filter_map(|block| {
            let work = block.work().ok()?;
            let topic = work.reads().or(work.writes())?.resolve(&names)?;
            Some((block.name.clone(), topic.to_owned()))
        });
        Self {
            pipeline: document.pipeline.clone(),
            stage: document.stage.clone(),
            revision: document.revision,
            ordinal,
            topics: topics.collect(),
            readers: readers.map(|block| block.name.clone()).collect(),
            replay: document.replay.as_ref().map(|replay| replay.id.clone()),
        }
    }
}

/// Counts of a block in the order of [`counts`].
type Counts = [u64; 9];

/// What is counted of a block: in, out, errors, then what [`DROPPED`] names, then nanoseconds of CPU
/// time.
fn counts(figures: &BlockFigures) -> Counts {
    [
        figures.records_in,
        figures.records_out,
        figures.errors,
        figures.filtered,
        figures.no_case,
        figures.not_read,
        figures.aborted,
        figures.skipped,
        figures.cpu_nanos,
    ]
}

/// The counts of blocks, as last published.
#[derive(Debug)]
pub struct BlockCounts {
    began: Instant,
    /// Name and counts, in the order of flow.
    all: Vec<(String, BlockFigures)>,
    window: Window<Vec<Counts>>,
    /// What a replay has counted.
    replay: ReplayCounts,
}

impl Default for BlockCounts {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            all: Vec::new(),
            window: Window::default(),
            replay: ReplayCounts::default(),
        }
    }
}

impl BlockCounts {
    /// Takes the counts of all blocks, in the order of flow, always the same blocks.
    pub fn publish<'a>(&mut self, all: impl Iterator<Item = (&'a str, &'a BlockFigures)>) {
        self.all.clear();
        self.all
            .extend(all.map(|(name, figures)| (name.to_owned(), figures.clone())));
        let counts = self.all.iter().map(|(_, figures)| counts(figures));
        self.window.record(self.began.elapsed(), counts.collect());
    }

    /// Takes the counts of a replay.
    pub fn publish_replay(&mut self, counts: ReplayCounts) {
        self.replay = counts;
    }

    /// Name and counts of each block, in the order of flow.
    #[must_use]
    pub fn all(&self) -> &[(String, BlockFigures)] {
        &self.all
    }

    /// Time since the counts began, which is the process's start.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    fn reports(&self, age: Duration) -> Vec<BlockReport> {
        let (base, seconds) = self.window.begin(age);
        let report = |(place, (name, figures)): (usize, &(String, BlockFigures))| {
            let before = base.map_or([0; 9], |base| base[place]);
            let mut rates = counts(figures)
                .into_iter()
                .zip(before)
                .map(|(now, before)| now.saturating_sub(before) as f64 / seconds);
            let mut next = || rates.next().unwrap_or_default();
            BlockReport {
                name: name.clone(),
                in_per_second: next(),
                out_per_second: next(),
                errors_per_second: next(),
                dropped_per_second: DROPPED
                    .iter()
                    .map(|reason| ((*reason).to_owned(), next()))
                    .filter(|(_, rate)| *rate > 0.0)
                    .collect(),
                cpu_per_second: next() / 1e9,
                errors: figures.errors,
                problem: None,
                last_error: figures.last_error.as_ref().map(|error| LastError {
                    summary: cut(&error.message),
                    address: error.address.clone(),
                    time_ms: error.at,
                }),
                last_alert: figures.last_alert.as_ref().map(|alert| LastAlert {
                    address: alert.address.clone(),
                    time_ms: alert.at,
                }),
            }
        };
        self.all.iter().enumerate().map(report).collect()
    }
}

/// Makes the report. `age` is the time since the counts began, `now_ms` the time in milliseconds
/// since 1970.
#[must_use]
pub fn report(
    replica: &Replica,
    figures: &Figures,
    counts: &BlockCounts,
    age: Duration,
    now_ms: i64,
) -> StageReport {
    let (problem, unreadable) = (figures.problem(), figures.unreadable());
    let of_blocks = figures.block_problems();
    let mut stopped = figures.stopped();
    if let Some(stopped) = &mut stopped {
        stopped.error = cut(&stopped.error);
    }
    let ready = figures.ready()
        && stopped.is_none()
        && unreadable.is_empty()
        && of_blocks.is_empty()
        && !figures.is_disconnected()
        && !problem
            .as_ref()
            .is_some_and(|problem| lasts(problem, now_ms));
    let mut blocks = counts.reports(age);
    add_gaps(&mut blocks, figures);
    for block in &mut blocks {
        let Some((why, time_ms)) = problem_of(&block.name, replica, figures, now_ms) else {
            continue;
        };
        block.problem = Some(cut(&why));
        // While it lasts it is what the block failed on last.
        block.last_error = Some(LastError {
            summary: cut(&why),
            address: None,
            time_ms,
        });
    }
    let (lag, lag_seconds) = lag(figures, now_ms);
    StageReport {
        pipeline: replica.pipeline.clone(),
        stage: replica.stage.clone(),
        revision: replica.revision,
        ordinal: replica.ordinal,
        ready,
        message: cut(&message(figures, problem.as_ref(), &unreadable)),
        stopped,
        lag,
        lag_seconds,
        blocks,
        replay: replay(replica, figures, counts),
    }
}

fn lasts(problem: &Problem, now_ms: i64) -> bool {
    now_ms - problem.since_ms > PROBLEM_AGE_MS
}

/// Operations of the consumer. What else fails is of the producer, which writes to the sinks.
const OF_CONSUMER: [&str; 4] = ["pause", "place", "read", "revoke"];

/// What a block cannot do at the moment, and the time of it in milliseconds since 1970. What is
/// about no topic, as a broker that is away or a password that is wrong, is told of the sources if
/// the consumer said it, and of the sinks if the producer did.
fn problem_of(
    block: &str,
    replica: &Replica,
    figures: &Figures,
    now_ms: i64,
) -> Option<(String, i64)> {
    if let Some(problem) = figures.block_problems().get(block) {
        return Some((problem.message.clone(), problem.since_ms));
    }
    let topic = replica.topics.get(block)?;
    let problem = figures.problem();
    let of_topic = problem
        .as_ref()
        .filter(|problem| problem.topic.as_ref() == Some(topic));
    let since_ms = |problem: Option<&Problem>| problem.map_or(now_ms, |problem| problem.since_ms);
    if let Some(why) = figures.unreadable().get(topic) {
        return Some((why.clone(), since_ms(of_topic)));
    }
    if let Some(problem) = of_topic {
        return Some((problem.message.clone(), problem.since_ms));
    }
    // One that has stopped says at which block.
    if figures.stopped().is_some() {
        return None;
    }
    let of_none = problem
        .as_ref()
        .filter(|problem| problem.topic.is_none() && lasts(problem, now_ms));
    let reads = replica.readers.contains(block);
    if reads && figures.is_disconnected() {
        return Some((away(problem.as_ref()), since_ms(problem.as_ref())));
    }
    // A stage that writes to no topic has only sources.
    let writes = replica.topics.len() > replica.readers.len();
    let is_own =
        |problem: &&Problem| reads == (OF_CONSUMER.contains(&problem.operation) || !writes);
    let problem = of_none.filter(is_own)?;
    Some((words(problem), problem.since_ms))
}

fn words(problem: &Problem) -> String {
    format!("{}: {}", problem.operation, problem.message)
}

/// The consumer has no connection; `problem` may say why.
fn away(problem: Option<&Problem>) -> String {
    match problem {
        Some(problem) => format!("no broker answers: {}", words(problem)),
        None => "no broker answers".to_owned(),
    }
}

/// Tells of the gaps behind which sources went on, where nothing failed since.
fn add_gaps(blocks: &mut [BlockReport], figures: &Figures) {
    let gaps = figures.gaps();
    for block in blocks {
        let last = block.last_error.as_ref().map(|last| last.time_ms);
        if let Some(gap) = gaps.get(&block.name)
            && last.is_none_or(|last| last < gap.time_ms)
        {
            block.last_error = Some(LastError {
                summary: cut(&gap.summary),
                ..gap.clone()
            });
        }
    }
}

/// How far the replay is, if the replica has one.
fn replay(replica: &Replica, figures: &Figures, counts: &BlockCounts) -> Option<ReplayReport> {
    let (bounds, counts) = (figures.bounds(), counts.replay);
    Some(ReplayReport {
        id: replica.replay.clone()?,
        is_done: bounds.is_done,
        left: bounds.left,
        read: counts.read,
        matched: counts.matched,
        replayed: counts.replayed,
        failed: counts.failed,
        given_up: counts.given_up,
    })
}

/// What does not work; empty if all works.
fn message(
    figures: &Figures,
    problem: Option<&Problem>,
    unreadable: &BTreeMap<String, String>,
) -> String {
    if let Some(stopped) = figures.stopped() {
        return stopped.error;
    }
    if !unreadable.is_empty() {
        let all: Vec<&str> = unreadable.values().map(String::as_str).collect();
        return all.join("; ");
    }
    let of_blocks = figures.block_problems();
    if !of_blocks.is_empty() {
        let of =
            |(block, problem): (&String, &BlockProblem)| format!("{block}: {}", problem.message);
        return of_blocks.iter().map(of).collect::<Vec<_>>().join("; ");
    }
    if figures.is_disconnected() {
        return away(problem);
    }
    match problem {
        Some(problem) => words(problem),
        None if figures.ready() => String::new(),
        None => "waits for its partitions".to_owned(),
    }
}

/// Records and seconds that the stage is behind, as far as they are known.
fn lag(figures: &Figures, now_ms: i64) -> (Option<u64>, Option<f64>) {
    let partitions = figures.partitions();
    let is_known = |partition: &PartitionFigures| partition.end >= 0;
    if !figures.ready() || !partitions.values().all(is_known) {
        return (None, None);
    }
    let behind = partitions.values().filter(|known| known.lag_records() > 0);
    let records: i64 = behind.clone().map(PartitionFigures::lag_records).sum();
    let aged = behind.filter(|known| known.record_time_ms > 0);
    let seconds = aged.map(|known| known.lag_seconds(now_ms)).max();
    let seconds = match records {
        0 => Some(0.0),
        _ => seconds.map(|seconds| seconds as f64),
    };
    (u64::try_from(records).ok(), seconds)
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_pipeline::report::Stopped;
    use freehold_pipeline_blocks::figures::LastError as BlockError;

    fn replica() -> Replica {
        let document = r#"{"version": 1, "pipeline": "shop/orders", "revision": 7, "stage": "in",
            "group": "g", "definition": {"blocks": [
                {"name": "in", "source": {"kafka": {"topic": "orders"}}},
                {"name": "big", "from": ["in"], "filter": {"when": "true"}},
                {"name": "big~out", "from": ["big"], "sink": {"kafka": {"topic": "big"}}}]}}"#;
        Replica::of(&StageDocument::read(document.as_bytes()).unwrap(), 2)
    }

    fn counted() -> BlockCounts {
        let figures = |records_in, records_out, filtered, errors| BlockFigures {
            records_in,
            records_out,
            filtered,
            errors,
            cpu_nanos: records_in * 2_000,
            last_error: (errors > 0).then(|| BlockError {
                address: "orders/0/4".parse().ok(),
                message: "x".repeat(2_000),
                at: 5_000,
            }),
            ..BlockFigures::default()
        };
        let mut counts = BlockCounts::default();
        let all = [
            ("in", figures(1_000, 1_000, 0, 0)),
            ("big", figures(1_000, 600, 390, 10)),
            ("big~out", figures(600, 600, 0, 0)),
        ];
        counts.publish(all.iter().map(|(name, figures)| (*name, figures)));
        counts
    }

    fn reading() -> Figures {
        let figures = Figures::default();
        figures.set_assigned(Some(&[("orders".into(), 0, 90), ("orders".into(), 1, 5)]));
        figures.set_polled();
        figures
    }

    fn at(figures: &Figures, secs: u64) -> StageReport {
        // Without a problem every time is as good.
        let since_ms = figures.problem().map(|problem| problem.since_ms);
        after(figures, secs, since_ms.unwrap_or_default())
    }

    fn after(figures: &Figures, secs: u64, now_ms: i64) -> StageReport {
        let age = Duration::from_secs(secs);
        report(&replica(), figures, &counted(), age, now_ms)
    }

    #[test]
    fn a_report_has_rates_of_the_last_seconds_and_totals_of_errors() {
        let report = at(&reading(), 5);
        assert_eq!((report.ready, report.message.as_str()), (true, ""));
        assert_eq!((report.revision, report.ordinal), (7, 2));
        let big = &report.blocks[1];
        assert_eq!((big.in_per_second, big.out_per_second), (200.0, 120.0));
        assert_eq!((big.errors_per_second, big.errors), (2.0, 10));
        // 2 microseconds for each of 200 records.
        assert_eq!(big.cpu_per_second, 0.0004);
        let dropped = BTreeMap::from([("filtered".to_owned(), 78.0)]);
        assert_eq!(big.dropped_per_second, dropped);
        let error = big.last_error.as_ref().unwrap();
        assert_eq!((error.summary.len(), error.time_ms), (500, 5_000));
        let later = &at(&reading(), 60).blocks[1];
        assert_eq!((later.errors_per_second, later.errors), (0.0, 10));
    }

    #[test]
    fn a_topic_that_cannot_be_used_is_named_at_its_block_until_it_works() {
        let figures = reading();
        figures.trouble("write", Some("big"), "topic big: no right");
        let report = at(&figures, 5);
        // It may be over in a moment.
        assert!(report.ready);
        assert_eq!(report.message, "write: topic big: no right");
        let why = Some("topic big: no right");
        assert_eq!(report.blocks[2].problem.as_deref(), why);
        assert_eq!(report.blocks[0].problem, None);
        let later = figures.problem().unwrap().since_ms + 4_000;
        assert!(!after(&figures, 9, later).ready);
        figures.progress();
        assert_eq!(at(&figures, 5).blocks[2].problem, None);
        assert_eq!(at(&figures, 5).blocks[2].last_error, None);

        let why = "topic orders: unknown";
        figures.set_unreadable(BTreeMap::from([("orders".to_owned(), why.to_owned())]));
        let report = at(&figures, 5);
        assert_eq!((report.ready, report.message.as_str()), (false, why));
        assert_eq!(report.blocks[0].problem.as_deref(), Some(why));
        assert_eq!(report.blocks[0].last_error.as_ref().unwrap().summary, why);
    }

    #[test]
    fn a_block_that_cannot_work_is_named_until_it_does() {
        let figures = reading();
        figures.set_block_problem("in", Some("no certificate".to_owned()));
        let report = at(&figures, 5);
        assert_eq!(
            (report.ready, &*report.message),
            (false, "in: no certificate")
        );
        assert_eq!(report.blocks[0].problem.as_deref(), Some("no certificate"));
        assert_eq!(report.blocks[1].problem, None);
        figures.set_block_problem("in", None);
        let report = at(&figures, 5);
        assert_eq!((report.ready, &*report.message), (true, ""));
        assert_eq!(report.blocks[0].problem, None);
    }

    #[test]
    fn a_broker_that_is_away_and_a_wrong_password_are_named_at_a_block() {
        let problems = |report: &StageReport| -> Vec<Option<String>> {
            let blocks = report.blocks.iter();
            blocks.map(|block| block.problem.clone()).collect()
        };
        let figures = reading();
        figures.set_connected(false);
        let report = at(&figures, 5);
        let away = Some("no broker answers".to_owned());
        assert_eq!(problems(&report), [away, None, None]);
        let error = report.blocks[0].last_error.as_ref().unwrap();
        assert_eq!(error.summary, "no broker answers");
        figures.trouble("read", None, "authentication failed");
        let why = "no broker answers: read: authentication failed";
        assert_eq!(at(&figures, 5).blocks[0].problem.as_deref(), Some(why));
        assert_eq!(at(&figures, 5).message, why);
        figures.set_connected(true);
        figures.progress();
        assert_eq!(problems(&at(&figures, 5)), [None, None, None]);

        let long_after = |figures: &Figures| {
            let since_ms = figures.problem().unwrap().since_ms;
            problems(&after(figures, 5, since_ms + 4_000))
        };
        figures.trouble("read", None, "authentication failed");
        assert_eq!(problems(&at(&figures, 5)), [None, None, None], "at first");
        let why = Some("read: authentication failed".to_owned());
        assert_eq!(long_after(&figures), [why, None, None]);
        figures.trouble("commit", None, "timed out");
        let why = Some("commit: timed out".to_owned());
        assert_eq!(long_after(&figures), [None, None, why]);
        let stopped = Stopped {
            block: Some("big".to_owned()),
            error: "not a number".to_owned(),
            address: None,
        };
        figures.set_stopped(stopped);
        assert_eq!(long_after(&figures), [None, None, None], "it says where");
    }

    #[test]
    fn a_stage_that_stopped_or_has_no_broker_says_so() {
        let figures = reading();
        figures.set_connected(false);
        let report = at(&figures, 5);
        assert!(!report.ready && report.message == "no broker answers");
        let stopped = Stopped {
            block: Some("big".to_owned()),
            error: "not a number".to_owned(),
            address: "orders/0/4".parse().ok(),
        };
        figures.set_stopped(stopped.clone());
        let report = at(&figures, 5);
        assert!(!report.ready && report.message == "not a number");
        assert_eq!(report.stopped, Some(stopped));
    }

    #[test]
    fn lag_is_known_when_the_end_of_each_partition_is() {
        let figures = reading();
        assert_eq!(at(&figures, 5).lag, None);
        figures.partition("orders", 0, |partition| partition.end = 100);
        assert_eq!(at(&figures, 5).lag, None);
        figures.partition("orders", 1, |partition| partition.end = 5);
        assert_eq!(
            (at(&figures, 5).lag, at(&figures, 5).lag_seconds),
            (Some(10), None)
        );
        figures.partition("orders", 0, |partition| partition.end = 90);
        let report = at(&figures, 5);
        assert_eq!((report.lag, report.lag_seconds), (Some(0), Some(0.0)));
        figures.set_assigned(None);
        assert_eq!(at(&figures, 5).lag, None);
    }
}
