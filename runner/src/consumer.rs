//! The consumer. What happens to its partitions is collected here and handled by the loop after the
//! poll, because a callback could not wait for a transaction to end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;

use crate::figures::Figures;

/// The consumer of a stage.
pub type StageConsumer = BaseConsumer<ConsumerEvents>;

/// What happened to the consumer's partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebalance {
    /// They are this member's now. Nothing is read until the loop says from where.
    Assigned(Vec<(String, i32)>),
    /// They are to be given back: the group waits until the loop has done it.
    Revoked,
    /// They belong to somebody else already.
    Lost,
}

/// A partition: its topic and its number.
pub type Partition = (String, i32);

/// The partitions that are assigned and not fetched, as the statistics say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotFetched {
    /// librdkafka has given up: their next offset is not there. It has all that nobody reads, too.
    pub halted: BTreeSet<Partition>,
    /// It asks the leader whether their next offset is there.
    pub asked: BTreeSet<Partition>,
}

/// Collects what librdkafka tells about the consumer.
pub struct ConsumerEvents {
    figures: Arc<Figures>,
    rebalances: Mutex<Vec<Rebalance>>,
    closing: AtomicBool,
    last_error: Mutex<String>,
    /// Offsets were not committed since it was asked last.
    commit_failed: AtomicBool,
    /// Whether statistics are looked through for partitions that are not fetched.
    watched: AtomicBool,
    not_fetched: Mutex<NotFetched>,
}

impl ConsumerEvents {
    /// Without events.
    #[must_use]
    pub fn new(figures: Arc<Figures>) -> Self {
        Self {
            figures,
            rebalances: Mutex::default(),
            closing: AtomicBool::new(false),
            last_error: Mutex::default(),
            commit_failed: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            not_fetched: Mutex::default(),
        }
    }

    /// Forgets which partitions are not fetched, and looks for them in the next statistics.
    pub fn watch_fetching(&self) {
        self.watched.store(true, Ordering::Relaxed);
        if let Ok(mut known) = self.not_fetched.lock() {
            *known = NotFetched::default();
        }
    }

    /// The partitions that are not fetched, once statistics came.
    #[must_use]
    pub fn not_fetched(&self) -> NotFetched {
        let known = self.not_fetched.lock();
        known.map(|known| known.clone()).unwrap_or_default()
    }

    /// Whether a commit has failed since this was asked last.
    pub fn take_failed_commit(&self) -> bool {
        self.commit_failed.swap(false, Ordering::Relaxed)
    }

    /// The rebalances since the last call, in order.
    #[must_use]
    pub fn take_rebalances(&self) -> Vec<Rebalance> {
        let rebalances = self.rebalances.lock();
        rebalances
            .map(|mut all| std::mem::take(&mut *all))
            .unwrap_or_default()
    }

    /// The text of the last error: it names the partition or the broker.
    #[must_use]
    pub fn last_error(&self) -> String {
        self.last_error
            .lock()
            .map(|text| text.clone())
            .unwrap_or_default()
    }

    /// From now on the consumer gives its partitions back by itself: it is being closed.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

impl ClientContext for ConsumerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Without a callback of librdkafka's own, which the events are not, it tells nowhere else that
        // a commit has failed for which nobody waits.
        if facility == "COMMITFAIL" {
            self.commit_failed.store(true, Ordering::Relaxed);
        }
        log("consumer", level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // It comes many times a second, always after the error that says why.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        if let Ok(mut last) = self.last_error.lock() {
            reason.clone_into(&mut last);
        }
        tracing::warn!(client = "consumer", %error, reason, "Kafka's client reports an error");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => {
                statistics.note(&self.figures);
                if self.watched.load(Ordering::Relaxed)
                    && let Ok(mut known) = self.not_fetched.lock()
                {
                    *known = statistics.not_fetched();
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read the statistics of Kafka's client"),
        }
    }
}

impl ConsumerContext for ConsumerEvents {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if self.closing.load(Ordering::Relaxed) {
            if let Err(error) = consumer.unassign() {
                tracing::warn!(%error, "cannot give the partitions back while closing");
            }
            return;
        }
        let assigned = kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let rebalance = if assigned {
            let named = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
                (element.topic().to_owned(), element.partition())
            };
            Rebalance::Assigned(partitions.elements().iter().map(named).collect())
        } else if consumer.assignment_lost() {
            Rebalance::Lost
        } else {
            Rebalance::Revoked
        };
        if let Ok(mut rebalances) = self.rebalances.lock() {
            rebalances.push(rebalance);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "offsets were not committed; their records may come again");
            self.commit_failed.store(true, Ordering::Relaxed);
        }
    }
}

/// Passes a line of librdkafka's log on. It names hosts, ids and errors, never passwords or records.
pub fn log(client: &'static str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error
        | RDKafkaLogLevel::Warning => tracing::warn!(client, facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(client, facility, "{message}");
        }
        RDKafkaLogLevel::Debug => tracing::trace!(client, facility, "{message}"),
    }
}

/// The part of librdkafka's statistics that is used.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    brokers: BTreeMap<String, BrokerStatistics>,
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    /// `UP`: connected and authenticated.
    state: String,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: BTreeMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    partition: i32,
    #[serde(default = "unknown")]
    ls_offset: i64,
    /// The next offset to fetch: after markers of transactions, too.
    #[serde(default = "unknown")]
    next_offset: i64,
    /// Records that wait to be polled.
    #[serde(default)]
    fetchq_cnt: i64,
    #[serde(default)]
    fetch_state: String,
}

fn unknown() -> i64 {
    -1
}

impl Statistics {
    fn not_fetched(&self) -> NotFetched {
        let mut found = NotFetched::default();
        for (topic, partitions) in &self.topics {
            for known in partitions.partitions.values() {
                let place = || (topic.clone(), known.partition);
                match &*known.fetch_state {
                    "none" => drop(found.halted.insert(place())),
                    "validate-epoch-wait" => drop(found.asked.insert(place())),
                    _ => {}
                }
            }
        }
        found
    }

    fn note(&self, figures: &Figures) {
        // Connections are made when they are needed: one is enough.
        figures.set_connected(self.brokers.values().any(|broker| broker.state == "UP"));
        for (topic, partitions) in &self.topics {
            for partition in partitions.partitions.values() {
                if partition.ls_offset >= 0 {
                    figures.partition(topic, partition.partition, |known| {
                        known.end = partition.ls_offset;
                        if partition.next_offset >= known.end && partition.fetchq_cnt == 0 {
                            known.drained = known.end;
                        }
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_partition_comes_from_the_statistics() {
        let figures = Arc::new(Figures::default());
        figures.set_assigned(Some(&[("t".into(), 0, 3), ("t".into(), 1, 0)]));
        let events = ConsumerEvents::new(figures.clone());
        events.stats_raw(
            br#"{"name": "x", "brokers": {"a": {"state": "DOWN"}, "b": {"state": "UP"}}, "topics": {"t": {"topic": "t", "partitions": {
                "0": {"partition": 0, "ls_offset": 10, "hi_offset": 12, "next_offset": 10,
                      "fetchq_cnt": 0},
                "1": {"partition": 1, "ls_offset": -1001, "next_offset": -1001},
                "-1": {"partition": -1}}}}}"#,
        );
        let partitions = figures.partitions();
        assert_eq!(partitions[&("t".to_owned(), 0)].lag_records(), 7);
        assert_eq!(partitions[&("t".to_owned(), 0)].drained, 10);
        assert_eq!(partitions[&("t".to_owned(), 1)].end, -1);
        assert!(!figures.is_disconnected());
        events.stats_raw(br#"{"brokers": {"a": {"state": "CONNECT"}}}"#);
        assert!(figures.is_disconnected());
    }

    #[test]
    fn partitions_that_are_not_fetched_are_in_the_statistics_that_are_asked_for() {
        let events = ConsumerEvents::new(Arc::new(Figures::default()));
        let statistics = br#"{"topics": {"t": {"partitions": {
            "0": {"partition": 0, "fetch_state": "active"},
            "1": {"partition": 1, "fetch_state": "none"},
            "2": {"partition": 2, "fetch_state": "validate-epoch-wait"}}}}}"#;
        events.stats_raw(statistics);
        assert_eq!(events.not_fetched(), NotFetched::default());
        events.watch_fetching();
        events.stats_raw(statistics);
        let found = events.not_fetched();
        assert_eq!(found.halted, BTreeSet::from([("t".to_owned(), 1)]));
        assert_eq!(found.asked, BTreeSet::from([("t".to_owned(), 2)]));
        events.watch_fetching();
        assert_eq!(events.not_fetched(), NotFetched::default(), "it may be old");
    }

    #[test]
    fn a_commit_that_failed_is_in_the_log_alone() {
        let events = ConsumerEvents::new(Arc::new(Figures::default()));
        let line = "[thrd:main]: Offset commit (manual) failed for 1/1 partition(s) in join-state \
                    steady: Broker: Not coordinator: t[0]@7";
        events.log(RDKafkaLogLevel::Warning, "COMMITFAIL", line);
        assert!(events.take_failed_commit());
        assert!(!events.take_failed_commit());
    }
}
