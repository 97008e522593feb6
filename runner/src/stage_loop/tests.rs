//! How the loop goes on after a commit, with a producer in memory. The batches have no records:
//! their positions are those of a partition whose start must be kept.

use std::sync::Mutex;

use super::*;
use crate::blocks::Refused;
use crate::outputs::Output;
use crate::producer::{DeliveryFailure, Ended, ErrorKind, Position, ProducerError, SendError};
use crate::record::Record;

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
