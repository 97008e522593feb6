//! Decides what to do with a batch whose outputs Kafka did not take. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::blocks::{Refusal, RefusalCause};
use crate::producer::{DeliveryFailure, FailureCause};

/// What to do with a batch that was aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// These records, by their place in the batch, are at fault, each for one refusal a topic. The
    /// rest is written again.
    Refused(BTreeMap<u32, Vec<Refusal>>),
    /// Some record is at fault, it is not known which: try again with so many records.
    Fewer(usize),
    /// No record is at fault: wait, then try again with so many records.
    Again(usize),
}

/// Judges the failures of a batch of `records` records.
///
/// Kafka refuses a producer's batch as a whole. A record is at fault only if Kafka has named it, or
/// if it was alone in its producer's batch. Otherwise a smaller batch is tried: up to the first
/// record that may be at fault, else half of the batch.
#[must_use]
pub fn judge(failures: &[DeliveryFailure], records: usize) -> Verdict {
    let faults: Vec<_> = failures
        .iter()
        .filter(|failure| is_fault(failure))
        .collect();
    if faults.is_empty() {
        return Verdict::Again((records / 2).max(1));
    }
    let mut together: HashMap<(&str, i32), usize> = HashMap::new();
    for failure in failures {
        *together
            .entry((&failure.topic, failure.partition))
            .or_default() += 1;
    }
    let named = |fault: &DeliveryFailure| {
        failures.iter().any(|other| {
            other.cause == FailureCause::Neighbour
                && (&other.topic, other.partition) == (&fault.topic, fault.partition)
        })
    };
    let certain = faults.iter().filter(|fault| {
        records == 1 || together[&(fault.topic.as_str(), fault.partition)] == 1 || named(fault)
    });
    let mut refused: BTreeMap<u32, Vec<Refusal>> = BTreeMap::new();
    for fault in certain {
        let of_record = refused.entry(fault.place).or_default();
        if of_record.iter().all(|known| known.topic != fault.topic) {
            of_record.push(refusal(fault));
        }
    }
    if !refused.is_empty() {
        return Verdict::Refused(refused);
    }
    match faults.iter().map(|fault| fault.place as usize).min() {
        Some(first) if first > 0 && first < records => Verdict::Fewer(first),
        _ => Verdict::Fewer((records / 2).max(1)),
    }
}

fn is_fault(failure: &DeliveryFailure) -> bool {
    cause(failure.cause).is_some()
}

fn cause(cause: FailureCause) -> Option<RefusalCause> {
    match cause {
        FailureCause::TooLarge => Some(RefusalCause::TooLarge),
        FailureCause::Invalid => Some(RefusalCause::Invalid),
        FailureCause::Policy => Some(RefusalCause::Policy),
        FailureCause::Neighbour | FailureCause::Other => None,
    }
}

fn refusal(failure: &DeliveryFailure) -> Refusal {
    Refusal {
        topic: failure.topic.clone(),
        cause: cause(failure.cause).unwrap_or(RefusalCause::Invalid),
        message: failure.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(place: u32, partition: i32, cause: FailureCause) -> DeliveryFailure {
        DeliveryFailure {
            place,
            topic: "out".into(),
            partition,
            cause,
            message: "no".into(),
        }
    }

    fn places(verdict: Verdict) -> Vec<u32> {
        match verdict {
            Verdict::Refused(refused) => refused.into_keys().collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_a_fault_half_is_tried_after_a_wait() {
        let failures = [failure(3, 0, FailureCause::Other)];
        assert_eq!(judge(&failures, 10), Verdict::Again(5));
        assert_eq!(judge(&[], 1), Verdict::Again(1));
    }

    #[test]
    fn a_record_that_kafka_names_is_at_fault() {
        let failures = [
            failure(3, 0, FailureCause::Neighbour),
            failure(4, 0, FailureCause::Invalid),
            failure(5, 0, FailureCause::Neighbour),
        ];
        assert_eq!(places(judge(&failures, 10)), [4]);
    }

    #[test]
    fn a_record_alone_in_its_batch_is_at_fault() {
        let failures = [
            failure(3, 0, FailureCause::TooLarge),
            failure(4, 1, FailureCause::TooLarge),
            failure(6, 1, FailureCause::TooLarge),
        ];
        assert_eq!(places(judge(&failures, 10)), [3]);
        let alone = [
            failure(0, 1, FailureCause::TooLarge),
            failure(0, 1, FailureCause::TooLarge),
        ];
        assert_eq!(places(judge(&alone, 1)), [0]);
    }

    #[test]
    fn each_topic_that_refuses_a_record_is_told() {
        let of = |topic: &str, partition| DeliveryFailure {
            topic: topic.to_owned(),
            ..failure(4, partition, FailureCause::TooLarge)
        };
        let failures = [of("a", 0), of("b", 0), of("a", 1), of("b", -1)];
        let Verdict::Refused(refused) = judge(&failures, 10) else {
            panic!("{:?}", judge(&failures, 10));
        };
        let topics = refused[&4].iter().map(|refusal| refusal.topic.as_str());
        assert_eq!(topics.collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(refused.len(), 1);
    }

    #[test]
    fn else_fewer_records_are_tried_until_one_is_alone() {
        let batch = |first: u32, end: u32| -> Vec<_> {
            (first..end)
                .map(|place| failure(place, 0, FailureCause::TooLarge))
                .collect()
        };
        assert_eq!(judge(&batch(4, 10), 10), Verdict::Fewer(4));
        assert_eq!(judge(&batch(0, 10), 10), Verdict::Fewer(5));
        // Ends for any place of the culprit.
        for culprit in 0..100 {
            let (mut from, mut size, mut rounds) = (0, 100, 0);
            loop {
                rounds += 1;
                assert!(rounds < 50, "no end for {culprit}");
                let count = size.min(100 - from);
                if culprit < from || culprit >= from + count {
                    (from, size) = (from + count, (size * 2).min(100));
                    continue;
                }
                match judge(&batch(0, u32::try_from(count).unwrap()), count) {
                    Verdict::Fewer(fewer) => size = fewer,
                    verdict => {
                        assert_eq!((places(verdict), count), (vec![0], 1));
                        break;
                    }
                }
            }
        }
    }
}
