//! The reassignment planner. It decides which replicas move so that every replica set spans racks,
//! brokers hold the same number of replicas and lead the same number of partitions, and disks are
//! filled evenly, with the fewest moves. Pure.
//!
//! Replicas that must move (their broker is to be removed, or their rack holds another replica of
//! the partition) go to brokers that hold too few. Then replicas above a broker's ceiling move
//! directly to brokers below their floor. This takes as many moves as [`lower_bound`] says, unless
//! racks forbid a direct move. Among the replicas that could make a move, the planner takes the one
//! whose size makes the disks most equal; afterwards it swaps replicas of different sizes
//! ([`disks`]). Leaders change only by the order of replicas, along shortest augmenting paths.

mod disks;
mod leaders;
mod shares;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the plan may do with a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// The broker holds its share of replicas.
    Full,
    /// The broker keeps its replicas and gets no new ones.
    Cordoned,
    /// The broker gives up all replicas, because it is to be removed or is dead.
    Leaving,
}

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: i32,
    pub rack: String,
    pub duty: Duty,
}

/// The placement of all replicas. Brokers are indexes into the list of brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Index in `replicas` where each partition starts, and the end: one entry more than
    /// partitions.
    pub starts: Vec<u32>,
    /// The replicas of all partitions in a row. The first one of each partition is its preferred
    /// leader.
    pub replicas: Vec<u16>,
    /// Bytes of one replica of each partition; all the same if sizes are unknown.
    pub bytes: Vec<u64>,
    /// Partitions that must not move.
    pub fixed: Vec<bool>,
}

impl Placement {
    /// A placement without partitions.
    pub fn new() -> Self {
        Self {
            starts: vec![0],
            ..Self::default()
        }
    }

    /// Adds a partition.
    pub fn push(&mut self, replicas: impl IntoIterator<Item = u16>, bytes: u64, fixed: bool) {
        self.replicas.extend(replicas);
        self.starts
            .push(u32::try_from(self.replicas.len()).unwrap_or(u32::MAX));
        self.bytes.push(bytes);
        self.fixed.push(fixed);
    }

    /// Number of partitions.
    pub fn partitions(&self) -> usize {
        self.starts.len() - 1
    }

    /// The brokers of a partition's replicas, the preferred leader first.
    pub fn of(&self, partition: usize) -> &[u16] {
        &self.replicas[self.range(partition)]
    }

    /// Bytes on each broker, for this number of brokers.
    pub fn bytes_by_broker(&self, brokers: usize) -> Vec<u64> {
        let mut bytes = vec![0; brokers];
        for partition in 0..self.partitions() {
            self.of(partition)
                .iter()
                .for_each(|broker| bytes[usize::from(*broker)] += self.bytes[partition]);
        }
        bytes
    }

    fn range(&self, partition: usize) -> std::ops::Range<usize> {
        self.starts[partition] as usize..self.starts[partition + 1] as usize
    }
}

/// The result of planning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The new placement.
    pub placement: Placement,
    /// Replicas that go to another broker.
    pub moves: usize,
    /// Partitions whose preferred leader changes.
    pub leader_changes: usize,
}

impl Plan {
    /// Partitions whose replicas, or their order, change.
    pub fn changed<'a>(&'a self, before: &'a Placement) -> impl Iterator<Item = usize> + 'a {
        (0..before.partitions())
            .filter(|partition| before.of(*partition) != self.placement.of(*partition))
    }
}

/// How many replicas a broker should hold: the exact number, and the whole numbers below and above
/// it.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    exact: f64,
    floor: usize,
    ceiling: usize,
}

struct Planner<'a> {
    brokers: &'a [Broker],
    /// Rack of each broker.
    rack: Vec<usize>,
    /// Brokers with full duty, by rack.
    members: Vec<Vec<usize>>,
    placement: Placement,
    partition_of: Vec<u32>,
    counts: Vec<usize>,
    bytes: Vec<u64>,
    shares: Vec<Share>,
}

/// Plans the moves. The number of moves exceeds [`lower_bound`] only by what racks and disks
/// require. Disks are filled evenly within 5 %; `disk_slack` more bytes on one of them are
/// accepted.
pub fn plan(brokers: &[Broker], placement: &Placement, disk_slack: u64) -> Plan {
    let mut planner = Planner::new(brokers, placement.clone());
    let homeless = planner.evict();
    planner.share_out(&homeless);
    planner.settle(homeless, placement);
    // After replicas have changed places, moves may be possible that racks did not allow before.
    planner.level();
    while disks::even_out(&mut planner, placement, disk_slack) {
        planner.level();
    }
    let leader_changes = planner.lead(placement);
    let placement_after = planner.placement;
    // A replica that was moved twice while planning counts as one move.
    let came = |partition: usize| {
        placement_after
            .of(partition)
            .iter()
            .filter(|broker| !placement.of(partition).contains(broker))
            .count()
    };
    let moves = (0..placement.partitions()).map(came).sum();
    Plan {
        moves,
        leader_changes,
        placement: placement_after,
    }
}

/// The lower bound of moves for equal counts: the number of replicas missing below the floors, or
/// the number above the ceilings and on brokers that are to be removed, whichever is larger.
pub fn lower_bound(brokers: &[Broker], placement: &Placement) -> usize {
    let mut planner = Planner::new(brokers, placement.clone());
    let before = planner.counts.clone();
    let homeless = planner.evict();
    planner.share_out(&homeless);
    let full = |index: &usize| brokers[*index].duty == Duty::Full;
    let missing: usize = (0..brokers.len())
        .filter(full)
        .map(|index| planner.shares[index].floor.saturating_sub(before[index]))
        .sum();
    let left: usize = (0..brokers.len())
        .filter(|index| brokers[*index].duty == Duty::Leaving)
        .map(|index| before[index] - planner.counts[index])
        .sum();
    let excess: usize = (0..brokers.len())
        .filter(full)
        .map(|index| before[index].saturating_sub(planner.shares[index].ceiling))
        .sum();
    missing.max(excess + left)
}

const NOWHERE: u16 = u16::MAX;

impl<'a> Planner<'a> {
    fn new(brokers: &'a [Broker], placement: Placement) -> Self {
        let names: BTreeMap<&str, usize> = {
            let mut names: Vec<_> = brokers.iter().map(|broker| broker.rack.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            names
                .into_iter()
                .enumerate()
                .map(|(index, name)| (name, index))
                .collect()
        };
        let rack: Vec<usize> = brokers
            .iter()
            .map(|broker| names[broker.rack.as_str()])
            .collect();
        let mut members = vec![Vec::new(); names.len()];
        for (index, _) in brokers
            .iter()
            .enumerate()
            .filter(|(_, broker)| broker.duty == Duty::Full)
        {
            members[rack[index]].push(index);
        }
        let mut partition_of = vec![0; placement.replicas.len()];
        let (mut counts, bytes) = (
            vec![0; brokers.len()],
            placement.bytes_by_broker(brokers.len()),
        );
        for partition in 0..placement.partitions() {
            for slot in placement.range(partition) {
                partition_of[slot] = u32::try_from(partition).unwrap_or(u32::MAX);
                counts[usize::from(placement.replicas[slot])] += 1;
            }
        }
        let shares = vec![Share::default(); brokers.len()];
        Self {
            brokers,
            rack,
            members,
            placement,
            partition_of,
            counts,
            bytes,
            shares,
        }
    }

    fn partition(&self, slot: usize) -> usize {
        self.partition_of[slot] as usize
    }

    /// Bytes of the replica in a slot.
    fn size(&self, slot: usize) -> u64 {
        self.placement.bytes[self.partition(slot)]
    }

    /// How many of this number of replicas one rack may hold at most: as few as the number of
    /// brokers in the racks allows.
    fn most_in_rack(&self, replicas: usize) -> usize {
        let room = |most: usize| {
            self.members
                .iter()
                .map(|members| members.len().min(most))
                .sum::<usize>()
        };
        (1..replicas)
            .find(|most| room(*most) >= replicas)
            .unwrap_or(replicas)
    }

    /// The same for each number of replicas, as index.
    fn most_by_factor(&self) -> Vec<usize> {
        let highest = (0..self.placement.partitions())
            .map(|partition| self.placement.range(partition).len())
            .max()
            .unwrap_or(0);
        (0..=highest)
            .map(|replicas| self.most_in_rack(replicas))
            .collect()
    }

    fn in_rack(&self, partition: usize, rack: usize) -> usize {
        self.placement
            .of(partition)
            .iter()
            .filter(|broker| **broker != NOWHERE && self.rack[usize::from(**broker)] == rack)
            .count()
    }

    /// Removes replicas from brokers where they may not stay. Returns their slots.
    fn evict(&mut self) -> Vec<usize> {
        let mut homeless = Vec::new();
        if self.members.iter().all(Vec::is_empty) {
            return homeless;
        }
        let most_by_factor = self.most_by_factor();
        for partition in 0..self.placement.partitions() {
            if self.placement.fixed[partition] {
                continue;
            }
            let range = self.placement.range(partition);
            for slot in range.clone() {
                if self.brokers[usize::from(self.placement.replicas[slot])].duty == Duty::Leaving {
                    self.take(slot);
                    homeless.push(slot);
                }
            }
            // The first replica is evicted last, because it is the leader.
            let most = most_by_factor[range.len()];
            for slot in range.rev() {
                let broker = self.placement.replicas[slot];
                if broker != NOWHERE
                    && self.in_rack(partition, self.rack[usize::from(broker)]) > most
                {
                    self.take(slot);
                    homeless.push(slot);
                }
            }
        }
        homeless
    }

    fn take(&mut self, slot: usize) {
        let broker = usize::from(self.placement.replicas[slot]);
        self.counts[broker] -= 1;
        self.bytes[broker] -= self.size(slot);
        self.placement.replicas[slot] = NOWHERE;
    }

    fn give(&mut self, slot: usize, broker: usize) {
        self.counts[broker] += 1;
        self.bytes[broker] += self.size(slot);
        self.placement.replicas[slot] = u16::try_from(broker).unwrap_or(NOWHERE);
    }

    fn holds(&self, partition: usize, broker: usize) -> bool {
        self.placement
            .of(partition)
            .iter()
            .any(|other| usize::from(*other) == broker)
    }

    /// True when the replica of this slot may move from one broker to the other: racks hold the
    /// partition as evenly as before, or more so.
    fn fits(&self, slot: usize, from: usize, to: usize) -> bool {
        let partition = self.partition(slot);
        let rack = |broker: usize| self.in_rack(partition, self.rack[broker]);
        !self.holds(partition, to) && (self.rack[from] == self.rack[to] || rack(to) < rack(from))
    }

    /// Places the evicted replicas: first on brokers that are farthest below their floor, then on
    /// those farthest below their ceiling. A replica that fits nowhere, because there are more
    /// replicas than brokers, stays where it was.
    fn settle(&mut self, homeless: Vec<usize>, before: &Placement) {
        // The brokers of each rack, those that need replicas most first. The order is updated with
        // each placement.
        let key = |planner: &Self, broker: usize| {
            let count = i64::try_from(planner.counts[broker]).unwrap_or(i64::MAX);
            let floor = i64::try_from(planner.shares[broker].floor).unwrap_or(i64::MAX);
            let bytes = i64::try_from(planner.bytes[broker]).unwrap_or(i64::MAX);
            (count - floor, bytes, broker)
        };
        let of_rack =
            |members: &Vec<usize>| members.iter().map(|broker| key(self, *broker)).collect();
        let mut wanting: Vec<BTreeSet<(i64, i64, usize)>> =
            self.members.iter().map(of_rack).collect();
        let mut homeless = homeless;
        // Large replicas first, so that small ones even out the rest.
        homeless.sort_by_key(|slot| (std::cmp::Reverse(self.size(*slot)), *slot));
        for slot in homeless {
            let partition = self.partition(slot);
            // In a rack that holds fewest replicas of the partition, take the broker that needs
            // replicas most.
            let best = (0..wanting.len())
                .filter_map(|rack| {
                    let first = wanting[rack]
                        .iter()
                        .find(|(.., broker)| !self.holds(partition, *broker))
                        .copied()?;
                    Some((self.in_rack(partition, rack), first))
                })
                .min();
            let Some((_, (.., broker))) = best else {
                self.give(slot, usize::from(before.replicas[slot]));
                continue;
            };
            let rack = self.rack[broker];
            wanting[rack].remove(&key(self, broker));
            self.give(slot, broker);
            wanting[rack].insert(key(self, broker));
        }
    }

    /// Moves replicas above the ceilings and below the floors directly from one broker to another.
    fn level(&mut self) {
        let full: Vec<usize> = self.members.iter().flatten().copied().collect();
        // Pairs of limits, one after the other: down to which limit a broker gives, and up to which
        // limit a broker takes.
        type Limit = fn(&Share) -> usize;
        let (floor, ceiling): (Limit, Limit) = (|share| share.floor, |share| share.ceiling);
        let limits = [(ceiling, floor), (ceiling, ceiling), (floor, floor)];
        // A move that racks forbid may become possible after other moves. The loop ends, because
        // each move reduces the total above or below the limits.
        loop {
            let mut held = self.slots_by_broker();
            let mut moved = 0;
            for (keeps, takes) in limits {
                for same_rack in [true, false] {
                    moved += self.exchange(&full, &mut held, keeps, takes, same_rack);
                }
            }
            if moved == 0 {
                return;
            }
        }
    }

    /// Makes direct moves from brokers that hold more than they keep to brokers that hold less than
    /// they take. Returns the number of moves.
    fn exchange(
        &mut self,
        full: &[usize],
        held: &mut [Vec<u32>],
        keeps: fn(&Share) -> usize,
        takes: fn(&Share) -> usize,
        same_rack: bool,
    ) -> usize {
        let mut moved = 0;
        let fair_bytes = self.fair_bytes();
        let mut to_all = full.to_vec();
        for from in full.iter().copied() {
            if self.counts[from] <= keeps(&self.shares[from]) {
                continue;
            }
            to_all.sort_by_key(|to| self.counts[*to]);
            for to in to_all.iter().copied() {
                if from == to || (self.rack[from] == self.rack[to]) != same_rack {
                    continue;
                }
                let too_many = self.counts[from].saturating_sub(keeps(&self.shares[from]));
                let too_few = takes(&self.shares[to]).saturating_sub(self.counts[to]);
                for left in (1..=too_many.min(too_few)).rev() {
                    let wanted = fair_bytes[to].saturating_sub(self.bytes[to]) / left as u64;
                    let Some(index) = self.choose(&held[from], from, to, wanted) else {
                        break;
                    };
                    let slot = held[from].remove(index) as usize;
                    self.take(slot);
                    self.give(slot, to);
                    moved += 1;
                }
            }
        }
        moved
    }

    /// The bytes that each broker should hold: its share of replicas, each of average size.
    fn fair_bytes(&self) -> Vec<u64> {
        let full = || self.members.iter().flatten().copied();
        let bytes: u64 = full().map(|broker| self.bytes[broker]).sum();
        let replicas: f64 = full().map(|broker| self.shares[broker].exact).sum();
        self.shares
            .iter()
            .map(|share| {
                (bytes as f64 * share.exact / replicas.max(f64::MIN_POSITIVE)).round() as u64
            })
            .collect()
    }

    /// The movable slots of each broker, sorted by size.
    fn slots_by_broker(&self) -> Vec<Vec<u32>> {
        let movable = |slot: &usize| !self.placement.fixed[self.partition(*slot)];
        let mut slots: Vec<u32> = (0..self.placement.replicas.len())
            .filter(movable)
            .map(|slot| u32::try_from(slot).unwrap_or(u32::MAX))
            .collect();
        slots.sort_by_key(|slot| self.size(*slot as usize));
        let mut held = vec![Vec::new(); self.brokers.len()];
        slots.iter().for_each(|slot| {
            held[usize::from(self.placement.replicas[*slot as usize])].push(*slot)
        });
        held
    }

    /// Of these slots, the one that may move and is nearest to the wanted size.
    fn choose(&self, slots: &[u32], from: usize, to: usize, wanted: u64) -> Option<usize> {
        let size = |index: usize| self.size(slots[index] as usize);
        let middle = slots.partition_point(|slot| self.size(*slot as usize) < wanted);
        let (mut low, mut high) = (middle, middle);
        loop {
            let lower = low.checked_sub(1);
            let upper = (high < slots.len()).then_some(high);
            let index = match (lower, upper) {
                (None, None) => return None,
                (Some(lower), None) => lower,
                (None, Some(upper)) => upper,
                (Some(lower), Some(upper)) if wanted - size(lower) <= size(upper) - wanted => lower,
                (Some(_), Some(upper)) => upper,
            };
            if index < low {
                low = index
            } else {
                high = index + 1
            }
            if self.fits(slots[index] as usize, from, to) {
                return Some(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn brokers(duties: &[(usize, Duty)]) -> Vec<Broker> {
        let of = |(index, (rack, duty)): (usize, &(usize, Duty))| Broker {
            id: i32::try_from(index).unwrap(),
            rack: format!("r{rack}"),
            duty: *duty,
        };
        duties.iter().enumerate().map(of).collect()
    }

    fn placement(partitions: &[Vec<u16>]) -> Placement {
        let mut placement = Placement::new();
        partitions
            .iter()
            .for_each(|replicas| placement.push(replicas.iter().copied(), 1, false));
        placement
    }

    fn counts(plan: &Plan, brokers: usize) -> Vec<usize> {
        (0..brokers)
            .map(|broker| {
                plan.placement
                    .replicas
                    .iter()
                    .filter(|held| usize::from(**held) == broker)
                    .count()
            })
            .collect()
    }

    fn leaders(plan: &Plan, brokers: usize) -> Vec<usize> {
        let leads = |broker: usize| {
            (0..plan.placement.partitions())
                .filter(|partition| usize::from(plan.placement.of(*partition)[0]) == broker)
                .count()
        };
        (0..brokers).map(leads).collect()
    }

    #[test]
    fn brokers_that_are_added_are_filled_and_nothing_else_moves() {
        let full = Duty::Full;
        let brokers = brokers(&[
            (0, full),
            (1, full),
            (2, full),
            (0, full),
            (1, full),
            (2, full),
        ]);
        let before = placement(&vec![vec![0, 1, 2]; 12]);
        let plan = plan(&brokers, &before, 0);
        assert_eq!((plan.moves, lower_bound(&brokers, &before)), (18, 18));
        assert_eq!(counts(&plan, 6), [6; 6]);
        assert_eq!(leaders(&plan, 6), [2; 6]);
    }

    #[test]
    fn a_broker_that_leaves_is_emptied_into_its_rack() {
        let brokers = brokers(&[
            (0, Duty::Full),
            (0, Duty::Leaving),
            (1, Duty::Full),
            (2, Duty::Full),
        ]);
        let before = placement(&[vec![1, 2, 3], vec![2, 3, 1], vec![0, 2, 3]]);
        let plan = plan(&brokers, &before, 0);
        assert_eq!((plan.moves, lower_bound(&brokers, &before)), (2, 2));
        assert_eq!(counts(&plan, 4), [3, 0, 3, 3]);
    }

    #[test]
    fn what_is_even_stays_as_it_is() {
        let full = Duty::Full;
        let brokers = brokers(&[(0, full), (1, full), (2, full)]);
        let before = placement(&[vec![0, 1, 2], vec![1, 2, 0], vec![2, 0, 1]]);
        let plan = plan(&brokers, &before, 0);
        assert_eq!((plan.moves, plan.leader_changes), (0, 0));
        assert_eq!(plan.placement, before);
    }

    #[test]
    fn disks_are_filled_alike_whatever_brokers_held_before() {
        let brokers = brokers(
            &(0..9)
                .map(|index| (index % 3, Duty::Full))
                .collect::<Vec<_>>(),
        );
        // Nearly all bytes are on the first broker of each rack; or nearly all small replicas are.
        for largest_stay in [false, true] {
            let mut before = Placement::new();
            for partition in 0..9000_u64 {
                let bytes = 1 + partition * 7919 % 97;
                let nth = if partition % 10 < 8 && !(largest_stay && bytes > 80) {
                    0
                } else {
                    1 + u16::try_from(partition % 2).unwrap()
                };
                before.push((0..3).map(|rack| 3 * nth + rack), bytes, false);
            }
            let plan = plan(&brokers, &before, 0);
            assert_eq!(plan.moves, lower_bound(&brokers, &before));
            let bytes = plan.placement.bytes_by_broker(9);
            let (most, mean) = (*bytes.iter().max().unwrap(), bytes.iter().sum::<u64>() / 9);
            assert!(most * 100 <= mean * 105, "{bytes:?}");
        }
    }

    #[test]
    fn disks_alone_make_replicas_change_places_two_moves_for_each_and_no_more_than_it_takes() {
        let brokers = brokers(&[(0, Duty::Full), (0, Duty::Full)]);
        let mut before = Placement::new();
        // 200 bytes and 20; each swap moves nine bytes from one broker to the other.
        (0..20).for_each(|_| before.push([0], 10, false));
        (0..20).for_each(|_| before.push([1], 1, false));
        let plan = super::plan(&brokers, &before, 0);
        assert_eq!(
            (
                plan.placement.bytes_by_broker(2),
                plan.moves,
                counts(&plan, 2)
            ),
            (vec![110, 110], 20, vec![20, 20])
        );
        let with_slack = super::plan(&brokers, &before, 40);
        assert_eq!(
            (with_slack.placement.bytes_by_broker(2), with_slack.moves),
            (vec![155, 65], 10)
        );
        assert_eq!(super::plan(&brokers, &before, 100).moves, 0);
    }

    #[test]
    fn what_is_fixed_changes_no_places() {
        let brokers = brokers(&[(0, Duty::Full), (0, Duty::Full)]);
        let mut before = Placement::new();
        (0..20).for_each(|_| before.push([0], 10, true));
        (0..20).for_each(|_| before.push([1], 1, false));
        assert_eq!(super::plan(&brokers, &before, 0).placement, before);
    }

    #[test]
    fn two_replicas_in_a_rack_are_parted() {
        let full = Duty::Full;
        let brokers = brokers(&[(0, full), (0, full), (1, full), (1, full)]);
        let plan = plan(
            &brokers,
            &placement(&[vec![0, 1], vec![2, 3], vec![0, 3], vec![1, 2]]),
            0,
        );
        for partition in 0..4 {
            let racks: BTreeSet<_> = plan
                .placement
                .of(partition)
                .iter()
                .map(|broker| broker / 2)
                .collect();
            assert_eq!(racks.len(), 2);
        }
        assert_eq!((plan.moves, counts(&plan, 4)), (2, vec![2; 4]));
    }

    /// Clusters of all shapes: racks of different sizes, brokers that are to be removed or
    /// cordoned, any placement.
    fn clusters() -> impl Strategy<Value = (Vec<Broker>, Placement)> {
        let duty = prop::sample::select(vec![
            Duty::Full,
            Duty::Full,
            Duty::Full,
            Duty::Full,
            Duty::Leaving,
            Duty::Cordoned,
        ]);
        (
            1..=4_usize,
            prop::collection::vec((0..4_usize, duty), 2..14),
            1..=4_usize,
            prop::collection::vec(any::<u64>(), 1..80),
        )
            .prop_map(|(racks, duties, factor, seeds)| {
                let duties: Vec<_> = duties
                    .into_iter()
                    .map(|(rack, duty)| (rack % racks, duty))
                    .collect();
                let mut brokers = brokers(&duties);
                brokers[0].duty = Duty::Full;
                // Some clusters have fewer brokers with full duty than replicas.
                let factor = factor.min(brokers.len());
                let mut placement = Placement::new();
                for mut seed in seeds {
                    let bytes = seed % 1000;
                    let mut ids: Vec<u16> = (0..u16::try_from(brokers.len()).unwrap()).collect();
                    let replicas: Vec<u16> = (0..factor)
                        .map(|_| {
                            let index = usize::try_from(seed % ids.len() as u64).unwrap();
                            seed = seed.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                            ids.swap_remove(index)
                        })
                        .collect();
                    placement.push(replicas, bytes, false);
                }
                (brokers, placement)
            })
    }

    proptest! {
        #[test]
        fn every_plan_is_whole_and_rack_safe_and_a_second_one_moves_nothing((brokers, before) in clusters(), slack in 0..300_u64) {
            let plan = plan(&brokers, &before, slack);
            let racks: BTreeSet<&str> = brokers.iter().filter(|broker| broker.duty == Duty::Full).map(|broker| broker.rack.as_str()).collect();
            let full = brokers.iter().filter(|broker| broker.duty == Duty::Full).count();
            for partition in 0..before.partitions() {
                let (old, new) = (before.of(partition), plan.placement.of(partition));
                prop_assert_eq!(old.len(), new.len());
                prop_assert_eq!(new.iter().collect::<BTreeSet<_>>().len(), new.len(), "no broker twice");
                for broker in new {
                    let duty = brokers[usize::from(*broker)].duty;
                    let stays = duty == Duty::Cordoned || full < new.len();
                    prop_assert!(duty == Duty::Full || (stays && old.contains(broker)), "{:?} was given a replica", duty);
                }
                let spread = |replicas: &[u16]| replicas.iter().map(|broker| brokers[usize::from(*broker)].rack.as_str()).filter(|rack| racks.contains(rack)).collect::<BTreeSet<_>>().len();
                let stays: Vec<u16> = old.iter().copied().filter(|broker| brokers[usize::from(*broker)].duty != Duty::Leaving).collect();
                prop_assert!(spread(new) >= spread(&stays).min(racks.len()), "racks are not lost: {:?} {:?}", old, new);
            }
            let moved: usize = (0..before.partitions()).map(|partition| plan.placement.of(partition).iter().filter(|broker| !before.of(partition).contains(broker)).count()).sum();
            prop_assert_eq!(moved, plan.moves);
            let again = super::plan(&brokers, &plan.placement, slack);
            prop_assert_eq!(again.moves, 0, "a plan that is done leaves nothing to move");
        }
    }
}
