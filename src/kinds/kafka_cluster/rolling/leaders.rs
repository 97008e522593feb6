//! Plans which replicas lead: leadership is handed over to other in-sync replicas before a broker
//! restarts, and given back afterwards. Pure.
//!
//! A preferred election elects only the first replica of a partition, so the first replica changes
//! places with the temporary leader, and back later. The handed-over partitions are in the lease
//! before that, so that every later reconcile knows what to give back.

use crate::api::kafka_cluster::HandedOver;
use crate::kinds::kafka_cluster::disruption::{
    Facts, Lease, Needs, Priority, Report, WaitingOn, Wish,
};
use crate::kinds::kafka_cluster::observed::KafkaFacts;
use crate::kinds::kafka_cluster::step::Step;
use freehold_kafka::metadata_image::PartitionImage;
use freehold_kafka::safety::TopicView;
use freehold_kafka_client::Election;
use std::collections::{BTreeMap, BTreeSet};

/// The maximum size in the status of the list of handed-over partitions. Partitions beyond it are
/// left to the broker's controlled shutdown.
const BYTES_MAX: usize = 256 * 1024;

/// The partitions that these nodes lead as preferred replicas and that other nodes could lead.
pub fn to_hand_over(members: &BTreeSet<i32>, topics: &[TopicView]) -> Vec<HandedOver> {
    let mut room = BYTES_MAX;
    let mut led_by = |member: i32| {
        let mut partitions = Vec::new();
        for topic in topics {
            let led = |partition: &PartitionImage| {
                let prefers =
                    partition.leader == member && partition.replicas.first() == Some(&member);
                prefers && !partition.is_moving() && heirs(partition, members).next().is_some()
            };
            let indexes = topic
                .partitions
                .iter()
                .enumerate()
                .filter(|(_, partition)| led(partition));
            let indexes: Vec<_> = indexes.map(|(index, _)| index.to_string()).collect();
            if indexes.is_empty() {
                continue;
            }
            let words = format!("{}:{}", topic.name, indexes.join(","));
            let Some(left) = room.checked_sub(words.len()) else {
                break;
            };
            room = left;
            partitions.push(words);
        }
        HandedOver {
            node_id: member,
            partitions,
        }
    };
    members
        .iter()
        .map(|member| led_by(*member))
        .filter(|one| !one.partitions.is_empty())
        .collect()
}

/// The in-sync replicas that could lead a partition instead of these nodes.
fn heirs<'a>(
    partition: &'a PartitionImage,
    members: &'a BTreeSet<i32>,
) -> impl Iterator<Item = i32> + 'a {
    partition
        .in_sync()
        .iter()
        .copied()
        .filter(|id| !members.contains(id))
}

/// A partition in the lease that was handed over, or will be.
struct Recorded<'a> {
    member: i32,
    topic: &'a str,
    index: usize,
    partition: &'a PartitionImage,
}

/// The recorded partitions that still exist and are not being reassigned.
fn recorded<'a>(lease: &'a Lease, topics: &'a [TopicView]) -> Vec<Recorded<'a>> {
    let by_name: BTreeMap<&str, &TopicView> =
        topics.iter().map(|topic| (&*topic.name, topic)).collect();
    let mut all = Vec::new();
    for one in lease.handed_over() {
        for (topic, indexes) in one
            .partitions
            .iter()
            .filter_map(|words| words.split_once(':'))
        {
            let Some(found) = by_name.get(topic) else {
                continue;
            };
            let there = indexes
                .split(',')
                .filter_map(|index| index.parse().ok())
                .filter_map(|index: usize| {
                    let partition = found
                        .partitions
                        .get(index)
                        .filter(|partition| !partition.is_moving())?;
                    Some(Recorded {
                        member: one.node_id,
                        topic,
                        index,
                        partition,
                    })
                });
            all.extend(there);
        }
    }
    all
}

impl Recorded<'_> {
    /// The election of this replica, which is moved to the first place for that.
    fn elect(&self, leader: i32) -> Election {
        // First restores the original order: an exchange is undone by the same exchange.
        let order = exchanged(&exchanged(&self.partition.replicas, self.member), leader);
        Election {
            topic: self.topic.to_owned(),
            partition: i32::try_from(self.index).unwrap_or(i32::MAX),
            leader,
            order: (*order != *self.partition.replicas).then_some(order),
        }
    }
}

/// The replicas with this one exchanged for the first one.
fn exchanged(replicas: &[i32], first: i32) -> Vec<i32> {
    let mut replicas = replicas.to_vec();
    if let Some(place) = replicas.iter().position(|id| *id == first) {
        replicas.swap(0, place);
    }
    replicas
}

/// The elections of other replicas for partitions that the lease's nodes still lead. For each
/// partition, the in-sync replica on the broker that leads the fewest partitions is chosen.
pub fn hand_over(lease: &Lease, topics: &[TopicView]) -> Vec<Election> {
    let members = &lease.nodes;
    let mut led: BTreeMap<i32, usize> = BTreeMap::new();
    for partition in topics.iter().flat_map(|topic| &topic.partitions) {
        *led.entry(partition.leader).or_default() += 1;
    }
    let mut elections = Vec::new();
    for one in recorded(lease, topics)
        .into_iter()
        .filter(|one| one.partition.leader == one.member)
    {
        // A replica that is already first was chosen in an earlier reconcile, before the operator
        // ended.
        let begun = one.partition.replicas.first().copied();
        let least = || {
            heirs(one.partition, members).min_by_key(|id| led.get(id).copied().unwrap_or_default())
        };
        let Some(heir) = heirs(one.partition, members)
            .find(|id| Some(*id) == begun)
            .or_else(least)
        else {
            continue;
        };
        *led.entry(heir).or_default() += 1;
        elections.push(one.elect(heir));
    }
    elections
}

/// The elections that give leadership back to the lease's nodes, where they are in sync.
pub fn give_back(lease: &Lease, topics: &[TopicView]) -> Vec<Election> {
    let away = |one: &Recorded<'_>| {
        one.partition.replicas.first() != Some(&one.member)
            && one.partition.in_sync().contains(&one.member)
    };
    recorded(lease, topics)
        .into_iter()
        .filter(away)
        .map(|one| one.elect(one.member))
        .collect()
}

/// The elections of the preferred replicas on these nodes that are in sync and do not lead.
pub fn preferred(topics: &[TopicView], preferred: impl Fn(i32) -> bool) -> Vec<Election> {
    let mut elections = Vec::new();
    for topic in topics {
        for (index, partition) in topic.partitions.iter().enumerate() {
            let Some(first) = partition.replicas.first() else {
                continue;
            };
            if preferred(*first)
                && partition.leader != *first
                && partition.in_sync().contains(first)
                && !partition.is_moving()
            {
                let partition = i32::try_from(index).unwrap_or(i32::MAX);
                elections.push(Election {
                    topic: topic.name.to_string(),
                    partition,
                    leader: *first,
                    order: None,
                });
            }
        }
    }
    elections
}

/// Adds elections to a report and returns true if there are none. Small partitions come first: a
/// broker that has just started warms up with them, and is no longer slow when it gets the
/// partitions with the most writes.
pub fn elect(mut elections: Vec<Election>, topics: &[TopicView], report: &mut Report) -> bool {
    if elections.is_empty() {
        return true;
    }
    let bytes: BTreeMap<&str, u64> = topics
        .iter()
        .map(|topic| (&*topic.name, topic.partition_bytes))
        .collect();
    elections.sort_by_key(|one| bytes.get(one.topic.as_str()).copied());
    report.waiting.push(WaitingOn::Leaders {
        partitions: elections.len(),
    });
    report.upkeep.push(Step::ElectLeaders(elections));
    false
}

/// Reports the wish to return leadership to a broker that was away by itself or by an eviction. A
/// running disruption handles its own leaders.
pub fn report(facts: &Facts<'_>) -> Report {
    let KafkaFacts::Answered { topics, .. } = &facts.observed.kafka else {
        return Report::default();
    };
    let mut elections = Report::default();
    if facts.lease.is_some() || elect(preferred(topics, |_| true), topics, &mut elections) {
        return Report::default();
    }
    let needs = Needs {
        applied: true,
        calm: true,
        ..Needs::default()
    };
    Report {
        wishes: vec![Wish::now(Priority::Lead, elections, needs)],
        ..Report::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::kafka_cluster::disruption::Work;
    use freehold_kafka::metadata_record::PartitionFields;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use proptest::prelude::*;

    fn partition(replicas: &[i32], in_sync: &[i32], leader: i32) -> PartitionImage {
        PartitionImage::of(PartitionFields {
            replicas: Some(replicas.to_vec()),
            in_sync: Some(in_sync.to_vec()),
            leader: Some(leader),
            ..PartitionFields::default()
        })
    }

    fn topics(partitions: Vec<PartitionImage>) -> Vec<TopicView> {
        vec![TopicView {
            name: "a.b-c_d".into(),
            min_in_sync: 2,
            partitions,
            ..TopicView::default()
        }]
    }

    fn lease(topics: &[TopicView], members: &[i32]) -> Lease {
        let nodes: BTreeSet<i32> = members.iter().copied().collect();
        let handed_over = to_hand_over(&nodes, topics);
        Lease {
            nodes,
            why: "a test".into(),
            since: Time(Timestamp::UNIX_EPOCH),
            work: Work::Restart { handed_over },
        }
    }

    #[test]
    fn what_others_can_lead_is_handed_over_and_recorded() {
        let all = topics(vec![
            partition(&[1, 2, 3], &[1, 2, 3], 1),
            partition(&[2, 1, 3], &[1, 2, 3], 2),
            partition(&[1, 2, 3], &[1], 1),
            partition(&[1, 2, 3], &[1, 3], 1),
            partition(&[2, 1, 3], &[1, 3], 1),
        ]);
        let lease = lease(&all, &[1]);
        assert_eq!(
            lease.handed_over(),
            [HandedOver {
                node_id: 1,
                partitions: vec!["a.b-c_d:0,3".into()]
            }]
        );
        let to: Vec<_> = hand_over(&lease, &all)
            .into_iter()
            .map(|one| (one.partition, one.leader, one.order))
            .collect();
        assert_eq!(
            to,
            [(0, 3, Some(vec![3, 2, 1])), (3, 3, Some(vec![3, 2, 1]))]
        );
    }

    #[test]
    fn an_operator_that_died_in_between_is_followed_by_one_that_goes_on() {
        let before = topics(vec![partition(&[1, 2, 3], &[1, 2, 3], 1)]);
        let lease = lease(&before, &[1]);
        let orders = |partition| {
            hand_over(&lease, &topics(vec![partition]))
                .into_iter()
                .map(|one| (one.leader, one.order))
                .collect::<Vec<_>>()
        };
        // The order was changed, but no election took place.
        assert_eq!(orders(partition(&[3, 2, 1], &[1, 2, 3], 1)), [(3, None)]);
        // The chosen replica is no longer in sync.
        assert_eq!(
            orders(partition(&[3, 2, 1], &[1, 2], 1)),
            [(2, Some(vec![2, 1, 3]))]
        );
        assert_eq!(orders(partition(&[3, 2, 1], &[1, 2, 3], 3)), []);
        let back = give_back(&lease, &topics(vec![partition(&[3, 2, 1], &[2, 3], 3)]));
        assert_eq!(back, [], "one that is not in sync leads nothing");
        let gone = TopicView {
            name: "another".into(),
            ..TopicView::default()
        };
        assert!(
            hand_over(&lease, std::slice::from_ref(&gone)).is_empty()
                && give_back(&lease, &[gone]).is_empty()
        );
    }

    #[test]
    fn small_partitions_come_first() {
        let mut all = topics(vec![partition(&[1, 2], &[1, 2], 2)]);
        all[0].partition_bytes = 9;
        all.push(TopicView {
            name: "z".into(),
            partition_bytes: 3,
            ..all[0].clone()
        });
        let mut report = Report::default();
        assert!(!elect(preferred(&all, |_| true), &all, &mut report));
        let [Step::ElectLeaders(elections)] = report.upkeep.as_slice() else {
            panic!("{:?}", report.waiting)
        };
        assert_eq!(
            elections
                .iter()
                .map(|one| one.topic.as_str())
                .collect::<Vec<_>>(),
            ["z", "a.b-c_d"]
        );
        assert!(
            elect(preferred(&all, |id| id == 2), &all, &mut report),
            "nobody prefers that one"
        );
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_broker() {
        let one = |index: usize| TopicView {
            name: format!("{index:0>250}").into(),
            ..topics(vec![partition(&[1, 2], &[1, 2], 1)])[0].clone()
        };
        let all: Vec<_> = (0..2000).map(one).collect();
        let words: usize = lease(&all, &[1]).handed_over()[0]
            .partitions
            .iter()
            .map(String::len)
            .sum();
        assert!(words <= BYTES_MAX && words > BYTES_MAX - 260, "{words}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever was handed over, and in whatever state it was left, gets its original order
        /// back.
        #[test]
        fn what_is_given_back_is_as_it_was(
            orders in prop::collection::vec((Just(vec![1, 2, 3, 4]).prop_shuffle(), 2..=4_usize, any::<bool>()), 1..20),
        ) {
            let before: Vec<_> = orders.iter().map(|(order, count, _)| partition(&order[..*count], &order[..*count], order[0])).collect();
            let lease = lease(&topics(before.clone()), &[1]);
            let mut meanwhile = before.clone();
            for one in hand_over(&lease, &topics(before.clone())) {
                let index = usize::try_from(one.partition).unwrap();
                let (order, done) = (one.order.unwrap(), orders[index].2);
                prop_assert_eq!(order[0], one.leader);
                prop_assert_ne!(one.leader, 1);
                meanwhile[index] = partition(&order, before[index].in_sync(), if done { one.leader } else { 1 });
            }
            for one in give_back(&lease, &topics(meanwhile.clone())) {
                let index = usize::try_from(one.partition).unwrap();
                meanwhile[index] = partition(&one.order.unwrap(), before[index].in_sync(), one.leader);
            }
            prop_assert_eq!(meanwhile, before);
        }
    }
}
