//! Decides what must change in Kafka so that a topic is as its spec says. Pure.

use super::config::Configs;
use super::metadata_image::TopicImage;
use super::replication::{self, Brokers, Move};
use std::collections::BTreeMap;
use std::fmt;

/// While partitions move, these topic configs apply the cluster's throttle to them (KIP-73). Kafka
/// throttles only replicas that are not in sync.
pub const THROTTLED: [&str; 2] = [
    "leader.replication.throttled.replicas",
    "follower.replication.throttled.replicas",
];
/// The throttle itself, in bytes per second for each broker.
pub const THROTTLE_RATES: [&str; 2] = [
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
];
/// The first rate when the spec gives none and nothing has been measured yet.
pub const RATE_START: u64 = 16 * 1024 * 1024;
/// Partitions that one request creates. The controller accepts no operation of more than 10 000
/// records (`MAX_RECORDS_PER_USER_OP`), and a request may contain other topics too.
const PARTITIONS_STEP: i32 = 2000;
/// Partitions of a topic that move at the same time.
const MOVES_MAX: usize = 50;

/// A topic as its spec says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedTopic {
    pub name: String,
    pub partitions: i32,
    /// -1: the cluster's default for a new topic, no change for an existing one.
    pub replicas: i16,
    pub config: BTreeMap<String, String>,
}

/// One change of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicChange {
    Create(WantedTopic),
    AddPartitions {
        count: i32,
    },
    /// `Some`: set the config; `None`: reset it to the default.
    AlterConfig(BTreeMap<String, Option<String>>),
    /// Partitions and the replicas that they should have; `None` cancels a move.
    Reassign(Vec<(i32, Option<Vec<i32>>)>),
}

impl fmt::Display for TopicChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(wanted) => write!(f, "create it with {} partitions", wanted.partitions),
            Self::AddPartitions { count } => write!(f, "add partitions up to {count}"),
            Self::AlterConfig(changes) => {
                let words = changes.iter().map(|(key, value)| match value {
                    Some(value) => format!("set {key} to {value}"),
                    None => format!("put {key} back to its default"),
                });
                f.write_str(&words.collect::<Vec<_>>().join(", "))
            }
            Self::Reassign(moves) => write!(f, "reassign {} partitions", moves.len()),
        }
    }
}

/// The changes of a topic, and what of its spec cannot be done: that stops none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChanges {
    pub steps: Vec<TopicChange>,
    pub refused: Option<TopicRefusal>,
}

/// Why a topic cannot be changed to what its spec says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRefusal {
    pub field: &'static str,
    pub why: String,
}

/// The progress of a change of the replication factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub replicas: i32,
    pub partitions_done: i32,
    pub partitions: i32,
}

/// The changes from what was found to what is wanted. A topic that has more partitions than wanted
/// keeps them, because Kafka cannot remove partitions.
pub fn changes(
    wanted: &WantedTopic,
    found: Option<&TopicImage>,
    brokers: &Brokers,
) -> TopicChanges {
    let Some(topic) = found else {
        let first = WantedTopic {
            partitions: wanted.partitions.min(PARTITIONS_STEP),
            ..wanted.clone()
        };
        return TopicChanges {
            steps: vec![TopicChange::Create(first)],
            refused: None,
        };
    };
    let partitions = count(topic.partitions.len());
    let refused = refuse_fewer(wanted, partitions);
    let mut steps = Vec::new();
    if partitions < wanted.partitions {
        steps.push(TopicChange::AddPartitions {
            count: wanted.partitions.min(partitions + PARTITIONS_STEP),
        });
    }
    let moves = moves(wanted, topic, brokers);
    let moving = !moves.is_empty()
        || topic
            .partitions
            .iter()
            .any(|partition| partition.is_moving());
    let mut config = wanted.config.clone();
    if moving {
        for key in THROTTLED {
            config
                .entry(key.to_owned())
                .or_insert_with(|| "*".to_owned());
        }
    }
    let altered = config_changes(&config, &topic.config);
    if !altered.is_empty() {
        steps.push(TopicChange::AlterConfig(altered));
    }
    if !moves.is_empty() {
        steps.push(TopicChange::Reassign(moves));
    }
    TopicChanges { steps, refused }
}

/// Why a topic with this number of partitions cannot be as its spec says; `None` if it can.
pub fn refuse_fewer(wanted: &WantedTopic, partitions: i32) -> Option<TopicRefusal> {
    (partitions > wanted.partitions).then(|| TopicRefusal {
        field: "spec.partitions",
        why: format!(
            "the topic has {partitions} partitions, and a topic cannot lose any; set {partitions} or more"
        ),
    })
}

/// Whether the metadata show all of the changes in `done`: none of them is still in `left`. If a
/// topic gets its partitions in steps, the next step is a different change.
pub fn are_seen(done: &[TopicChange], left: &[TopicChange]) -> bool {
    let same = |done: &TopicChange, left: &TopicChange| match (done, left) {
        (TopicChange::AddPartitions { count }, TopicChange::AddPartitions { count: left }) => {
            count == left
        }
        (done, left) => std::mem::discriminant(done) == std::mem::discriminant(left),
    };
    !left
        .iter()
        .any(|left| done.iter().any(|done| same(done, left)))
}

fn count(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn config_changes(
    wanted: &BTreeMap<String, String>,
    found: &Configs,
) -> BTreeMap<String, Option<String>> {
    let set = wanted
        .iter()
        .filter(|(key, value)| found.get(key) != Some(value.as_str()))
        .map(|(key, value)| (key.clone(), Some(value.clone())));
    let removed = found
        .iter()
        .filter(|(key, _)| !wanted.contains_key(*key))
        .map(|(key, _)| (key.to_owned(), None));
    set.chain(removed).collect()
}

/// The next moves towards the replication factor.
fn moves(
    wanted: &WantedTopic,
    topic: &TopicImage,
    brokers: &Brokers,
) -> Vec<(i32, Option<Vec<i32>>)> {
    let Some(factor) = factor(wanted) else {
        return Vec::new();
    };
    let under_way = topic
        .partitions
        .iter()
        .filter(|partition| partition.is_moving() && partition.target().len() == factor)
        .count();
    let mut brokers = brokers.clone();
    let all = topic
        .partitions
        .iter()
        .enumerate()
        .filter_map(|(index, partition)| {
            let replicas = match replication::to_factor(partition, factor, &mut brokers)? {
                Move::To(replicas) => Some(replicas),
                Move::Back => None,
            };
            Some((count(index), replicas))
        });
    all.take(MOVES_MAX.saturating_sub(under_way)).collect()
}

fn factor(wanted: &WantedTopic) -> Option<usize> {
    usize::try_from(wanted.replicas)
        .ok()
        .filter(|factor| *factor > 0)
}

/// True when the topic has another replication factor than wanted, or is moving: then the brokers
/// must be known.
pub fn moves_needed(wanted: &WantedTopic, topic: &TopicImage) -> bool {
    factor(wanted).is_some_and(|factor| {
        topic
            .partitions
            .iter()
            .any(|partition| partition.target().len() != factor)
    })
}

/// The progress of the replication factor; `None` when no change is under way.
pub fn progress(wanted: &WantedTopic, topic: &TopicImage) -> Option<Progress> {
    let factor = factor(wanted)?;
    let done = topic
        .partitions
        .iter()
        .filter(|partition| !partition.is_moving() && partition.replicas.len() == factor)
        .count();
    (done < topic.partitions.len()).then(|| Progress {
        replicas: count(factor),
        partitions_done: count(done),
        partitions: count(topic.partitions.len()),
    })
}

/// The differences between an existing topic and the wanted one, as text.
pub fn differences(wanted: &WantedTopic, found: &TopicImage) -> Vec<String> {
    let mut words = Vec::new();
    let partitions = count(found.partitions.len());
    if partitions != wanted.partitions {
        words.push(format!(
            "partitions is {partitions}, not {}",
            wanted.partitions
        ));
    }
    words.extend(replicas_differ(wanted, found));
    for (key, value) in config_changes(&wanted.config, &found.config) {
        if THROTTLED.contains(&key.as_str()) {
            continue;
        }
        let found = found.config.get(&key).unwrap_or("not set");
        words.push(format!(
            "config {key} is {found}, not {}",
            value.as_deref().unwrap_or("the default")
        ));
    }
    words
}

/// The difference in the replication factor alone, as text.
pub fn replicas_differ(wanted: &WantedTopic, found: &TopicImage) -> Option<String> {
    let replicas = found
        .partitions
        .first()
        .map_or(0, |partition| partition.target().len());
    factor(wanted)
        .is_some_and(|factor| factor != replicas)
        .then(|| format!("replicas is {replicas}, not {}", wanted.replicas))
}

/// The differences that the changes put right. Partitions that somebody added stay.
pub fn corrected(wanted: &WantedTopic, found: &TopicImage) -> Vec<String> {
    let kept = WantedTopic {
        partitions: wanted.partitions.max(count(found.partitions.len())),
        ..wanted.clone()
    };
    differences(&kept, found)
}

#[cfg(test)]
mod tests {
    use super::super::metadata_image::PartitionImage;
    use super::*;

    fn wanted() -> WantedTopic {
        let config = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
        WantedTopic {
            name: "t".into(),
            partitions: 3,
            replicas: 2,
            config,
        }
    }

    fn found(partitions: usize) -> TopicImage {
        let partitions = vec![PartitionImage::new(&[1, 2]); partitions];
        TopicImage {
            id: uuid::Uuid::from_u128(1),
            partitions,
            config: wanted().config.into(),
        }
    }

    fn brokers() -> Brokers {
        Brokers {
            racks: (1..=3).map(|id| (id, format!("r{id}"))).collect(),
            replicas: BTreeMap::new(),
        }
    }

    fn plan(wanted: &WantedTopic, found: &TopicImage) -> Vec<TopicChange> {
        changes(wanted, Some(found), &brokers()).steps
    }

    #[test]
    fn a_missing_topic_is_created_and_an_equal_one_left_alone() {
        assert_eq!(
            changes(&wanted(), None, &brokers()).steps,
            [TopicChange::Create(wanted())]
        );
        assert_eq!(plan(&wanted(), &found(3)), vec![]);
    }

    #[test]
    fn many_partitions_are_made_in_steps_that_kafka_takes() {
        let many = WantedTopic {
            partitions: 10_000,
            replicas: -1,
            config: BTreeMap::new(),
            ..wanted()
        };
        let (mut topic, mut steps): (Option<TopicImage>, Vec<usize>) = (None, Vec::new());
        loop {
            let planned = changes(&many, topic.as_ref(), &brokers()).steps;
            assert!(!are_seen(&planned, &planned) || planned.is_empty());
            let before = topic.as_ref().map_or(0, |topic| topic.partitions.len());
            let after = match &planned[..] {
                [] => break,
                [TopicChange::Create(first)] => first.partitions,
                [TopicChange::AddPartitions { count }] => *count,
                other => panic!("{other:?}"),
            };
            let after = usize::try_from(after).unwrap();
            steps.push(after - before);
            topic = Some(TopicImage {
                config: Configs::default(),
                ..found(after)
            });
            assert!(
                are_seen(&planned, &changes(&many, topic.as_ref(), &brokers()).steps),
                "the next step is not waited for"
            );
        }
        assert_eq!(steps, [2000; 5]);
        assert_eq!(
            plan(
                &WantedTopic {
                    partitions: 2500,
                    ..wanted()
                },
                &found(400)
            ),
            [TopicChange::AddPartitions { count: 2400 }]
        );
    }

    #[test]
    fn a_config_that_left_the_spec_goes_back_to_its_default() {
        let config = BTreeMap::from([
            ("retention.ms".to_owned(), "5".to_owned()),
            ("max.message.bytes".to_owned(), "9".to_owned()),
        ])
        .into();
        let altered = BTreeMap::from([
            ("retention.ms".to_owned(), Some("1000".to_owned())),
            ("max.message.bytes".to_owned(), None),
        ]);
        let found = TopicImage { config, ..found(2) };
        assert_eq!(
            plan(&wanted(), &found),
            vec![
                TopicChange::AddPartitions { count: 3 },
                TopicChange::AlterConfig(altered)
            ]
        );
        let words = differences(&wanted(), &found);
        assert_eq!(words[0], "partitions is 2, not 3");
        assert_eq!(words[1], "config max.message.bytes is 9, not the default");
        assert_eq!(words[2], "config retention.ms is 5, not 1000");
    }

    #[test]
    fn partitions_that_somebody_added_stop_no_other_repair() {
        let refused = |found: &TopicImage| {
            let refused = changes(&wanted(), Some(found), &brokers()).refused;
            refused.map(|refusal| refusal.field)
        };
        assert_eq!(refused(&found(3)), None);
        let mut more = found(4);
        assert_eq!(refused(&more), Some("spec.partitions"));
        assert_eq!(plan(&wanted(), &more), vec![], "nothing else is wrong");
        more.config.set("retention.ms", None);
        more.partitions[3] = PartitionImage::new(&[1]);
        assert_eq!(refused(&more), Some("spec.partitions"));
        let [
            TopicChange::AlterConfig(config),
            TopicChange::Reassign(moves),
        ] = &plan(&wanted(), &more)[..]
        else {
            panic!()
        };
        assert_eq!(config["retention.ms"].as_deref(), Some("1000"));
        assert_eq!(moves.len(), 1, "the partition that somebody added");
    }

    #[test]
    fn another_replication_factor_is_reached_under_the_throttle_and_the_throttle_goes_with_the_last_move()
     {
        let three = WantedTopic {
            replicas: 3,
            ..wanted()
        };
        let [
            TopicChange::AlterConfig(throttle),
            TopicChange::Reassign(moves),
        ] = &plan(&three, &found(3))[..]
        else {
            panic!()
        };
        assert!(
            THROTTLED
                .iter()
                .all(|key| throttle[*key].as_deref() == Some("*"))
        );
        assert_eq!(
            moves,
            &(0..3)
                .map(|index| (index, Some(vec![1, 2, 3])))
                .collect::<Vec<_>>()
        );
        assert_eq!(
            progress(&three, &found(3)),
            Some(Progress {
                replicas: 3,
                partitions_done: 0,
                partitions: 3
            })
        );

        let mut moving = found(3);
        THROTTLED
            .iter()
            .for_each(|key| moving.config.set(key, Some("*".into())));
        for partition in &mut moving.partitions {
            (partition.replicas, partition.adding) = ([1, 2, 3].into(), [3].into());
        }
        assert_eq!(plan(&three, &moving), vec![], "under way");
        let [TopicChange::Reassign(back)] = &plan(&wanted(), &moving)[..] else {
            panic!()
        };
        assert!(
            back.iter().all(|(_, replicas)| replicas.is_none()),
            "the spec was changed back: what began is taken back"
        );

        moving.partitions = vec![PartitionImage::new(&[1, 2, 3]); 3];
        let removed = THROTTLED.map(|key| (key.to_owned(), None)).into();
        assert_eq!(
            plan(&three, &moving),
            vec![TopicChange::AlterConfig(removed)]
        );
        assert_eq!(
            differences(&three, &moving),
            Vec::<String>::new(),
            "the throttle is no drift"
        );
    }

    #[test]
    fn only_so_many_partitions_move_at_once() {
        let many = WantedTopic {
            partitions: 200,
            replicas: 3,
            ..wanted()
        };
        let Some(TopicChange::Reassign(moves)) = plan(&many, &found(200)).pop() else {
            panic!()
        };
        assert_eq!(moves.len(), MOVES_MAX);
    }
}
