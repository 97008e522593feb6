//! Who leads: leaders are handed over to others in sync before their broker restarts, and given back after it. Pure.
//!
//! Kafka elects the first replica alone, so that the first changes places with who is to lead meanwhile, and back. What
//! is handed over is in the lease before: whoever looks next knows what to give back.

use super::api::{DisruptionStatus, HandedOver};
use super::plan::{Plan, Step, WaitingOn};
use crate::kafka::metadata_image::PartitionImage;
use crate::kafka::restart::TopicView;
use crate::kafka_admin::Election;
use std::collections::{BTreeMap, BTreeSet};

/// Room in the status for what is handed over. What is more than that is left to the broker's own shutdown.
const BYTES_MAX: usize = 256 * 1024;

/// What these nodes lead by preference, and others could.
pub fn to_hand_over(members: &BTreeSet<i32>, topics: &[TopicView]) -> Vec<HandedOver> {
    let mut room = BYTES_MAX;
    let mut led_by = |member: i32| {
        let mut partitions = Vec::new();
        for topic in topics {
            let led = |partition: &PartitionImage| {
                let prefers = partition.leader == member && partition.replicas.first() == Some(&member);
                prefers && !partition.is_moving() && heirs(partition, members).next().is_some()
            };
            let indexes = topic.partitions.iter().enumerate().filter(|(_, partition)| led(partition));
            let indexes: Vec<_> = indexes.map(|(index, _)| index.to_string()).collect();
            if indexes.is_empty() {
                continue;
            }
            let words = format!("{}:{}", topic.name, indexes.join(","));
            let Some(left) = room.checked_sub(words.len()) else { break };
            room = left;
            partitions.push(words);
        }
        HandedOver { node_id: member, partitions }
    };
    members.iter().map(|member| led_by(*member)).filter(|one| !one.partitions.is_empty()).collect()
}

/// Who could lead a partition while these nodes do not.
fn heirs<'a>(partition: &'a PartitionImage, members: &'a BTreeSet<i32>) -> impl Iterator<Item = i32> + 'a {
    partition.in_sync().iter().copied().filter(|id| !members.contains(id))
}

/// A partition that was handed over, or is to be.
struct Recorded<'a> {
    member: i32,
    topic: &'a str,
    index: usize,
    partition: &'a PartitionImage,
}

/// Those that are still there, and that nobody moves.
fn recorded<'a>(lease: &'a DisruptionStatus, topics: &'a [TopicView]) -> Vec<Recorded<'a>> {
    let by_name: BTreeMap<&str, &TopicView> = topics.iter().map(|topic| (&*topic.name, topic)).collect();
    let mut all = Vec::new();
    for one in &lease.handed_over {
        for (topic, indexes) in one.partitions.iter().filter_map(|words| words.split_once(':')) {
            let Some(found) = by_name.get(topic) else { continue };
            let there = indexes.split(',').filter_map(|index| index.parse().ok()).filter_map(|index: usize| {
                let partition = found.partitions.get(index).filter(|partition| !partition.is_moving())?;
                Some(Recorded { member: one.node_id, topic, index, partition })
            });
            all.extend(there);
        }
    }
    all
}

impl Recorded<'_> {
    /// Lets a replica lead, which comes first for that.
    fn elect(&self, leader: i32) -> Election {
        // From where it was at first: one exchange is undone by the same.
        let order = exchanged(&exchanged(&self.partition.replicas, self.member), leader);
        Election {
            topic: self.topic.to_owned(),
            partition: i32::try_from(self.index).unwrap_or(i32::MAX),
            leader,
            order: (*order != *self.partition.replicas).then_some(order),
        }
    }
}

/// Replicas with this one first, in exchange for the one that was.
fn exchanged(replicas: &[i32], first: i32) -> Vec<i32> {
    let mut replicas = replicas.to_vec();
    if let Some(place) = replicas.iter().position(|id| *id == first) {
        replicas.swap(0, place);
    }
    replicas
}

/// Elections of others for what the lease's nodes still lead: of those who lead least.
pub fn hand_over(lease: &DisruptionStatus, topics: &[TopicView]) -> Vec<Election> {
    let members: BTreeSet<i32> = lease.node_ids.iter().copied().collect();
    let mut led: BTreeMap<i32, usize> = BTreeMap::new();
    for partition in topics.iter().flat_map(|topic| &topic.partitions) {
        *led.entry(partition.leader).or_default() += 1;
    }
    let mut elections = Vec::new();
    for one in recorded(lease, topics).into_iter().filter(|one| one.partition.leader == one.member) {
        // One that is first already was to lead when the operator before this one ended.
        let begun = one.partition.replicas.first().copied();
        let least = || heirs(one.partition, &members).min_by_key(|id| led.get(id).copied().unwrap_or_default());
        let Some(heir) = heirs(one.partition, &members).find(|id| Some(*id) == begun).or_else(least) else { continue };
        *led.entry(heir).or_default() += 1;
        elections.push(one.elect(heir));
    }
    elections
}

/// Elections of the lease's nodes, as far as they are in sync, for what others lead in their place.
pub fn give_back(lease: &DisruptionStatus, topics: &[TopicView]) -> Vec<Election> {
    let away = |one: &Recorded<'_>| one.partition.replicas.first() != Some(&one.member) && one.partition.in_sync().contains(&one.member);
    recorded(lease, topics).into_iter().filter(away).map(|one| one.elect(one.member)).collect()
}

/// Elections of these nodes for what they should lead by preference, and can: they are in sync.
pub fn preferred(topics: &[TopicView], preferred: impl Fn(i32) -> bool) -> Vec<Election> {
    let mut elections = Vec::new();
    for topic in topics {
        for (index, partition) in topic.partitions.iter().enumerate() {
            let Some(first) = partition.replicas.first() else { continue };
            if preferred(*first) && partition.leader != *first && partition.in_sync().contains(first) && !partition.is_moving() {
                let partition = i32::try_from(index).unwrap_or(i32::MAX);
                elections.push(Election { topic: topic.name.to_string(), partition, leader: *first, order: None });
            }
        }
    }
    elections
}

/// Puts elections into the plan, those of small partitions first: a broker that has just started learns by them, and by
/// when it leads what is written most it is no longer slow. True when there are none.
pub fn elect(mut elections: Vec<Election>, topics: &[TopicView], plan: &mut Plan) -> bool {
    if elections.is_empty() {
        return true;
    }
    let bytes: BTreeMap<&str, u64> = topics.iter().map(|topic| (&*topic.name, topic.partition_bytes)).collect();
    elections.sort_by_key(|one| bytes.get(one.topic.as_str()).copied());
    plan.waiting_on.push(WaitingOn::Leaders { partitions: elections.len() });
    plan.steps.push(Step::ElectLeaders(elections));
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::metadata_record::PartitionFields;
    use crate::kinds::kafka_cluster::api::DisruptionKind;
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
        vec![TopicView { name: "a.b-c_d".into(), min_in_sync: 2, partitions, ..TopicView::default() }]
    }

    fn lease(topics: &[TopicView], members: &[i32]) -> DisruptionStatus {
        DisruptionStatus {
            kind: DisruptionKind::Restart,
            node_ids: members.to_vec(),
            why: "a test".into(),
            since: Time(Timestamp::UNIX_EPOCH),
            total: None,
            handed_over: to_hand_over(&members.iter().copied().collect(), topics),
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
        assert_eq!(lease.handed_over, [HandedOver { node_id: 1, partitions: vec!["a.b-c_d:0,3".into()] }]);
        let to: Vec<_> = hand_over(&lease, &all).into_iter().map(|one| (one.partition, one.leader, one.order)).collect();
        assert_eq!(to, [(0, 3, Some(vec![3, 2, 1])), (3, 3, Some(vec![3, 2, 1]))]);
    }

    #[test]
    fn an_operator_that_died_in_between_is_followed_by_one_that_goes_on() {
        let before = topics(vec![partition(&[1, 2, 3], &[1, 2, 3], 1)]);
        let lease = lease(&before, &[1]);
        let orders =
            |partition| hand_over(&lease, &topics(vec![partition])).into_iter().map(|one| (one.leader, one.order)).collect::<Vec<_>>();
        // The order is another, and nobody was elected.
        assert_eq!(orders(partition(&[3, 2, 1], &[1, 2, 3], 1)), [(3, None)]);
        // Who was to lead is no longer in sync.
        assert_eq!(orders(partition(&[3, 2, 1], &[1, 2], 1)), [(2, Some(vec![2, 1, 3]))]);
        assert_eq!(orders(partition(&[3, 2, 1], &[1, 2, 3], 3)), []);
        let back = give_back(&lease, &topics(vec![partition(&[3, 2, 1], &[2, 3], 3)]));
        assert_eq!(back, [], "one that is not in sync leads nothing");
        let gone = TopicView { name: "another".into(), ..TopicView::default() };
        assert!(hand_over(&lease, std::slice::from_ref(&gone)).is_empty() && give_back(&lease, &[gone]).is_empty());
    }

    #[test]
    fn small_partitions_come_first() {
        let mut all = topics(vec![partition(&[1, 2], &[1, 2], 2)]);
        all[0].partition_bytes = 9;
        all.push(TopicView { name: "z".into(), partition_bytes: 3, ..all[0].clone() });
        let mut plan = Plan::default();
        assert!(!elect(preferred(&all, |_| true), &all, &mut plan));
        let [Step::ElectLeaders(elections)] = plan.steps.as_slice() else { panic!("{:?}", plan.waiting_on) };
        assert_eq!(elections.iter().map(|one| one.topic.as_str()).collect::<Vec<_>>(), ["z", "a.b-c_d"]);
        assert!(elect(preferred(&all, |id| id == 2), &all, &mut plan), "nobody prefers that one");
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_broker() {
        let one =
            |index: usize| TopicView { name: format!("{index:0>250}").into(), ..topics(vec![partition(&[1, 2], &[1, 2], 1)])[0].clone() };
        let all: Vec<_> = (0..2000).map(one).collect();
        let words: usize = lease(&all, &[1]).handed_over[0].partitions.iter().map(String::len).sum();
        assert!(words <= BYTES_MAX && words > BYTES_MAX - 260, "{words}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is handed over, in whatever state it is left, has its order back at the end.
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
