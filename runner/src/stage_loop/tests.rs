//! How the loop goes on after a commit, with a producer in memory. The batches have no records:
//! their positions are those of a partition whose start must be kept.

use std::sync::Mutex;

use super::*;
use crate::blocks::{Refusal, RefusalCause, Refused};
use crate::outputs::Output;
use crate::producer::{DeliveryFailure, Ended, ErrorKind, Position, ProducerError, SendError};
use crate::record::Record;
use crate::stage_loop::write::{WriteError, Writer, Written};

/// Answers each commit with the next of these, and notes the calls.
#[derive(Default)]
struct Script {
    commits: Mutex<Vec<Result<Ended, ErrorKind>>>,
    calls: Mutex<Vec<&'static str>>,
}

impl Script {
    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
    }

    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }
}

struct Fake(Arc<Script>);

impl Producer for Fake {
    type Group = ConsumerGroupMetadata;

    fn start(&self, _: Duration) -> Result<(), ProducerError> {
        self.0.note("start");
        Ok(())
    }

    fn begin(&self) -> Result<(), ProducerError> {
        self.0.note("begin");
        Ok(())
    }

    fn send(&self, _: &Output<'_>) -> Result<(), SendError> {
        Ok(())
    }

    fn serve(&self, _: Duration) {}

    fn flush(&self, _: Duration) -> Result<(), ProducerError> {
        Ok(())
    }

    fn has_failed(&self) -> bool {
        false
    }

    fn take_failures(&self) -> Vec<DeliveryFailure> {
        Vec::new()
    }

    fn commit(
        &self,
        _: &[Position],
        _: &ConsumerGroupMetadata,
        _: Duration,
    ) -> Result<Ended, ProducerError> {
        self.0.note("commit");
        let answer = self.0.commits.lock().unwrap().remove(0);
        answer.map_err(|kind| ProducerError {
            kind,
            operation: "commit",
            topic: None,
            code: "Test".to_owned(),
            message: "as the test says".to_owned(),
        })
    }

    fn abort(&self, _: Duration) -> Result<Ended, ProducerError> {
        self.0.note("abort");
        Ok(Ended::Clean)
    }
}

/// Works so long on each record, and notes how many it is given at a time.
struct Slow {
    each: Duration,
    given: Vec<usize>,
}

impl Blocks for Slow {
    fn process(&mut self, batch: &[Record<'_>], _: &mut Outputs) {
        self.given.push(batch.len());
        for _ in batch {
            std::thread::sleep(self.each);
        }
    }

    fn refused(&mut self, _: &Record<'_>, _: &[Refused], _: &mut Outputs) {}
}

/// How many of 1000 records are written within a time, and how many were given at a time.
fn written_in(patience: Duration, each: Duration) -> (usize, Vec<usize>) {
    let mut blocks = Slow {
        each,
        given: Vec::new(),
    };
    let written = written_by(&mut blocks, patience, &Refusals::default());
    (written.unwrap().records, blocks.given)
}

fn written_by(
    blocks: &mut Slow,
    patience: Duration,
    refusals: &Refusals,
) -> Result<Written, WriteError> {
    let mut writer = Writer {
        producer: &Fake(Arc::default()),
        blocks,
        outputs: &mut Outputs::default(),
        refusals,
        figures: &Figures::default(),
        chunk: &mut 1,
        patience,
    };
    let record = |place| {
        let offset = i64::try_from(place).unwrap();
        Record::at("in", 0, offset, u32::try_from(place).unwrap())
    };
    writer.write(1_000, record)
}

#[test]
fn a_stage_stops_when_one_topic_refuses_all_that_is_tried_of_a_record() {
    let of = |topic: &str, times| Refused {
        refusal: Refusal {
            topic: topic.to_owned(),
            cause: RefusalCause::TooLarge,
            message: "no".to_owned(),
        },
        times,
    };
    let after = |refused: Vec<Refused>| {
        let address = Record::at("in", 0, 700, 0).address();
        let mut blocks = Slow {
            each: Duration::ZERO,
            given: Vec::new(),
        };
        let refusals = Refusals::from([(address, refused)]);
        match written_by(&mut blocks, Duration::from_secs(60), &refusals) {
            Ok(written) => format!("{} records", written.records),
            Err(WriteError::RefusedAgain(address, refusal)) => {
                format!("{} at {address}", refusal.topic)
            }
            Err(error) => panic!("{error:?}"),
        }
    };
    let sinks = ["a", "b", "c", "d"].map(|topic| of(topic, 1));
    let mut refused = sinks.to_vec();
    refused.push(of("dead", 2));
    assert_eq!(after(refused.clone()), "1000 records");
    refused.push(of("small", 3));
    assert_eq!(after(refused), "small at in/0/700");
}

#[test]
fn a_batch_of_slow_records_ends_before_its_transaction_times_out() {
    let (patience, each) = (Duration::from_millis(500), Duration::from_millis(60));
    let (records, given) = written_in(patience, each);
    assert!((1..=9).contains(&records), "{records}");
    assert!(given.iter().all(|count| *count == 1), "{given:?}");
    // One is written, however long it takes.
    assert_eq!(written_in(Duration::ZERO, each), (1, vec![1]));
    let (records, given) = written_in(Duration::from_secs(60), Duration::ZERO);
    assert_eq!(records, 1_000);
    assert!(given.iter().all(|count| *count <= 256), "{given:?}");
}

struct Nothing;

impl Blocks for Nothing {
    fn process(&mut self, _: &[Record<'_>], _: &mut Outputs) {}

    fn refused(&mut self, _: &Record<'_>, _: &[Refused], _: &mut Outputs) {}
}

/// Commits until the script has no more answers and the producer is ready again. Returns the calls
/// and whether what was read stays.
fn after(commits: &[Result<Ended, ErrorKind>]) -> (Vec<&'static str>, bool) {
    let script = Arc::new(Script::default());
    *script.commits.lock().unwrap() = commits.to_vec();
    let config: StageConfig = serde_json::from_str(
        r#"{"kafka": {"bootstrap": "127.0.0.1:1"}, "group": "g", "instance": "g.0",
            "topics": ["t"]}"#,
    )
    .unwrap();
    let (figures, stop) = (Arc::<Figures>::default(), AtomicBool::new(false));
    let consumer = StageConsumer::from_config_and_context(
        &client_config::consumer(&config).unwrap(),
        ConsumerEvents::new(Arc::clone(&figures)),
    )
    .unwrap();
    let made = Arc::clone(&script);
    let make = || Ok(Fake(Arc::clone(&made)));
    let mut stage = StageLoop::new(&config, &consumer, Nothing, make, &figures, &stop);
    let mut stays = true;
    let began = Instant::now();
    loop {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "{:?}",
            script.calls()
        );
        stage.renew_producer().unwrap();
        stage.handle_worker(Duration::from_millis(5));
        if !matches!(stage.phase, Phase::Ready) {
            continue;
        }
        // In the place of Kafka's answer: the partition is read from where it was committed.
        stays &= stage.ownership != Ownership::Unplaced;
        stage.ownership = Ownership::Active;
        if script.commits.lock().unwrap().is_empty() {
            return (script.calls(), stays);
        }
        stage.owned = vec![Owned {
            topic: Arc::from("t"),
            partition: 0,
            committed: 5,
            next: 5,
            is_new: true,
            note: Note::default(),
            end: None,
            is_at_end: false,
        }];
        if stage.is_due() {
            stage.deliver();
        }
    }
}

#[test]
fn a_clean_commit_goes_on_with_the_same_producer() {
    let (calls, stays) = after(&[Ok(Ended::Clean), Ok(Ended::Clean)]);
    assert_eq!(calls, ["start", "begin", "commit", "begin", "commit"]);
    assert!(stays);
}

#[test]
fn after_a_commit_that_failed_the_batch_is_aborted_and_read_again() {
    let (calls, stays) = after(&[Err(ErrorKind::Abort), Ok(Ended::Clean)]);
    let expected = ["start", "begin", "commit", "abort", "begin", "commit"];
    assert_eq!(calls, expected);
    assert!(!stays);
}

#[test]
fn after_an_unknown_end_a_new_producer_starts_and_all_is_read_again() {
    let (calls, stays) = after(&[Err(ErrorKind::Renew), Ok(Ended::Clean)]);
    let expected = ["start", "begin", "commit", "start", "begin", "commit"];
    assert_eq!(calls, expected);
    assert!(!stays);
}

#[test]
fn after_a_doubtful_end_a_new_producer_starts_and_what_was_read_stays() {
    let (calls, stays) = after(&[Ok(Ended::Doubtful), Ok(Ended::Clean)]);
    let expected = ["start", "begin", "commit", "start", "begin", "commit"];
    assert_eq!(calls, expected);
    assert!(stays);
}
