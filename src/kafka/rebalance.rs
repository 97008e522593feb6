//! The reassignment planner: which replicas move so that every replica set spans racks, brokers hold as many replicas and
//! lead as many partitions as each other, and disks are filled alike, with the fewest moves. Pure.
//!
//! Replicas that must move (their broker leaves, or their rack holds another of the partition) go to brokers that hold too
//! few. What is then left above a broker's ceiling or below its floor moves straight from one to the other: as many moves
//! as [`lower_bound`] says, unless racks allow no straight move. Of the replicas that could make a move, the one is taken whose
//! size fills the disks alike; then replicas of unlike size change places ([`disks`]). Leaders change by the order of replicas
//! alone, along shortest augmenting paths.

mod disks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a broker is to the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Holds its share.
    Full,
    /// Keeps what it has and is given nothing.
    Cordoned,
    /// Gives up everything: it is to be removed, or dead.
    Leaving,
}

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub id: i32,
    pub rack: String,
    pub duty: Duty,
}

/// Where all replicas are. Brokers are meant by their place in the list of brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Where a partition's replicas begin in `replicas`; one more than there are partitions.
    pub starts: Vec<u32>,
    /// Of all partitions one after the other; the first of each leads by preference.
    pub replicas: Vec<u16>,
    /// Bytes of a replica of each partition; all alike where they are not known.
    pub bytes: Vec<u64>,
    /// Partitions that stay where they are.
    pub fixed: Vec<bool>,
}

impl Placement {
    pub fn new() -> Self {
        Self { starts: vec![0], ..Self::default() }
    }

    /// Adds a partition.
    pub fn push(&mut self, replicas: impl IntoIterator<Item = u16>, bytes: u64, fixed: bool) {
        self.replicas.extend(replicas);
        self.starts.push(u32::try_from(self.replicas.len()).unwrap_or(u32::MAX));
        self.bytes.push(bytes);
        self.fixed.push(fixed);
    }

    pub fn partitions(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn of(&self, partition: usize) -> &[u16] {
        &self.replicas[self.range(partition)]
    }

    /// Bytes on each of so many brokers.
    pub fn bytes_by_broker(&self, brokers: usize) -> Vec<u64> {
        let mut bytes = vec![0; brokers];
        for partition in 0..self.partitions() {
            self.of(partition).iter().for_each(|broker| bytes[usize::from(*broker)] += self.bytes[partition]);
        }
        bytes
    }

    fn range(&self, partition: usize) -> std::ops::Range<usize> {
        self.starts[partition] as usize..self.starts[partition + 1] as usize
    }
}

/// What a plan comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where all replicas are to be.
    pub placement: Placement,
    /// Replicas that are somewhere else than before.
    pub moves: usize,
    /// Partitions that another replica leads by preference.
    pub leader_changes: usize,
}

impl Plan {
    /// Partitions whose replicas, or the order of them, are others than before.
    pub fn changed<'a>(&'a self, before: &'a Placement) -> impl Iterator<Item = usize> + 'a {
        (0..before.partitions()).filter(|partition| before.of(*partition) != self.placement.of(*partition))
    }
}

/// How many replicas a broker should hold: what comes to it, and that as whole numbers.
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

/// Makes the plan. `moves` is at most what racks and disks force above [`lower_bound`]. Disks are filled alike within 5 %; so many
/// bytes more on one are no matter.
pub fn plan(brokers: &[Broker], placement: &Placement, disk_slack: u64) -> Plan {
    let mut planner = Planner::new(brokers, placement.clone());
    let homeless = planner.evict();
    planner.share_out(&homeless);
    planner.settle(homeless, placement);
    // Moves that racks forbade may be possible after replicas changed places.
    planner.level();
    while disks::even_out(&mut planner, placement, disk_slack) {
        planner.level();
    }
    let leader_changes = planner.lead(placement);
    let placement_after = planner.placement;
    // One that went on from where it was sent first is one move.
    let came = |partition: usize| placement_after.of(partition).iter().filter(|broker| !placement.of(partition).contains(broker)).count();
    let moves = (0..placement.partitions()).map(came).sum();
    Plan { moves, leader_changes, placement: placement_after }
}

/// The fewest moves that could be enough for counts: what is missing below the floors, or what is too much above the
/// ceilings and on brokers that leave, whichever is more.
pub fn lower_bound(brokers: &[Broker], placement: &Placement) -> usize {
    let mut planner = Planner::new(brokers, placement.clone());
    let before = planner.counts.clone();
    let homeless = planner.evict();
    planner.share_out(&homeless);
    let full = |index: &usize| brokers[*index].duty == Duty::Full;
    let missing: usize = (0..brokers.len()).filter(full).map(|index| planner.shares[index].floor.saturating_sub(before[index])).sum();
    let left: usize =
        (0..brokers.len()).filter(|index| brokers[*index].duty == Duty::Leaving).map(|index| before[index] - planner.counts[index]).sum();
    let excess: usize = (0..brokers.len()).filter(full).map(|index| before[index].saturating_sub(planner.shares[index].ceiling)).sum();
    missing.max(excess + left)
}

const NOWHERE: u16 = u16::MAX;

impl<'a> Planner<'a> {
    fn new(brokers: &'a [Broker], placement: Placement) -> Self {
        let names: BTreeMap<&str, usize> = {
            let mut names: Vec<_> = brokers.iter().map(|broker| broker.rack.as_str()).collect();
            names.sort_unstable();
            names.dedup();
            names.into_iter().enumerate().map(|(index, name)| (name, index)).collect()
        };
        let rack: Vec<usize> = brokers.iter().map(|broker| names[broker.rack.as_str()]).collect();
        let mut members = vec![Vec::new(); names.len()];
        for (index, _) in brokers.iter().enumerate().filter(|(_, broker)| broker.duty == Duty::Full) {
            members[rack[index]].push(index);
        }
        let mut partition_of = vec![0; placement.replicas.len()];
        let (mut counts, bytes) = (vec![0; brokers.len()], placement.bytes_by_broker(brokers.len()));
        for partition in 0..placement.partitions() {
            for slot in placement.range(partition) {
                partition_of[slot] = u32::try_from(partition).unwrap_or(u32::MAX);
                counts[usize::from(placement.replicas[slot])] += 1;
            }
        }
        let shares = vec![Share::default(); brokers.len()];
        Self { brokers, rack, members, placement, partition_of, counts, bytes, shares }
    }

    fn partition(&self, slot: usize) -> usize {
        self.partition_of[slot] as usize
    }

    /// Bytes of the replica in a slot.
    fn size(&self, slot: usize) -> u64 {
        self.placement.bytes[self.partition(slot)]
    }

    /// How many of so many replicas one rack may hold: as few as the racks' brokers have room for.
    fn most_in_rack(&self, replicas: usize) -> usize {
        let room = |most: usize| self.members.iter().map(|members| members.len().min(most)).sum::<usize>();
        (1..replicas).find(|most| room(*most) >= replicas).unwrap_or(replicas)
    }

    /// By the number of replicas.
    fn most_by_factor(&self) -> Vec<usize> {
        let highest = (0..self.placement.partitions()).map(|partition| self.placement.range(partition).len()).max().unwrap_or(0);
        (0..=highest).map(|replicas| self.most_in_rack(replicas)).collect()
    }

    fn in_rack(&self, partition: usize, rack: usize) -> usize {
        self.placement.of(partition).iter().filter(|broker| **broker != NOWHERE && self.rack[usize::from(**broker)] == rack).count()
    }

    /// Takes replicas from where they may not stay; gives their slots.
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
            // The first replica is the last to go: it leads.
            let most = most_by_factor[range.len()];
            for slot in range.rev() {
                let broker = self.placement.replicas[slot];
                if broker != NOWHERE && self.in_rack(partition, self.rack[usize::from(broker)]) > most {
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

    /// What each broker should hold: the same everywhere, as far as racks allow. Each rack holds at least a partition's
    /// replicas divided by the racks, rounded down, and at most that rounded up.
    fn share_out(&mut self, homeless: &[usize]) {
        if self.members.iter().all(Vec::is_empty) {
            return;
        }
        let mut total = homeless.len();
        for members in &self.members {
            total += members.iter().map(|broker| self.counts[*broker]).sum::<usize>();
        }
        // What brokers that are cordoned keep is in nobody's share, but their racks hold it.
        let mut kept = vec![0; self.members.len()];
        for (index, _) in self.brokers.iter().enumerate().filter(|(_, broker)| broker.duty == Duty::Cordoned) {
            kept[self.rack[index]] += self.counts[index];
        }
        let mut partitions_by_factor = vec![0; self.most_by_factor().len()];
        (0..self.placement.partitions()).for_each(|partition| partitions_by_factor[self.placement.range(partition).len()] += 1);
        let bounds: Vec<(f64, f64, f64)> = (0..self.members.len())
            .filter(|rack| !self.members[*rack].is_empty())
            .map(|rack| {
                let (mut least, mut most) = (0, 0);
                for (replicas, partitions) in partitions_by_factor.iter().enumerate().filter(|(_, partitions)| **partitions > 0) {
                    let limit = self.most_in_rack(replicas);
                    let room = |rack: usize| self.members[rack].len().min(limit);
                    let elsewhere: usize = (0..self.members.len()).filter(|other| *other != rack).map(room).sum();
                    least += partitions * replicas.saturating_sub(elsewhere);
                    most += partitions * room(rack);
                }
                // Where there are fewer brokers than replicas, racks are to hold more than they can.
                let (least, most) = (least.min(most).saturating_sub(kept[rack]), most.saturating_sub(kept[rack]));
                (self.members[rack].len() as f64, least as f64, most as f64)
            })
            .collect();
        // Water is poured into racks as wide as they have brokers, between their floors and their brims.
        let filled = |level: f64| bounds.iter().map(|(width, least, most)| (level * width).clamp(*least, *most)).sum::<f64>();
        let (mut low, mut high) = (0.0, total as f64 + 1.0);
        for _ in 0..100 {
            let middle = (low + high) / 2.0;
            if filled(middle) < total as f64 { low = middle } else { high = middle }
        }
        let mut bounds = bounds.iter();
        for rack in 0..self.members.len() {
            if self.members[rack].is_empty() {
                continue;
            }
            let Some((width, least, most)) = bounds.next() else { continue };
            let each = (high * width).clamp(*least, *most) / width;
            // Exact numbers come out a little off.
            let share = Share { exact: each, floor: (each + 1e-6).floor() as usize, ceiling: (each - 1e-6).ceil().max(0.0) as usize };
            for broker in &self.members[rack] {
                self.shares[*broker] = share;
            }
        }
    }

    fn holds(&self, partition: usize, broker: usize) -> bool {
        self.placement.of(partition).iter().any(|other| usize::from(*other) == broker)
    }

    /// True when this slot's replica may go from one broker to another: racks hold it as evenly as before, or more so.
    fn fits(&self, slot: usize, from: usize, to: usize) -> bool {
        let partition = self.partition(slot);
        let rack = |broker: usize| self.in_rack(partition, self.rack[broker]);
        !self.holds(partition, to) && (self.rack[from] == self.rack[to] || rack(to) < rack(from))
    }

    /// Finds homes: where most is missing to the floor, then where most room is to the ceiling. Who finds none, because there are more
    /// replicas than brokers to hold them, stays where it was.
    fn settle(&mut self, homeless: Vec<usize>, before: &Placement) {
        // Brokers of each rack, those that want most first; kept in order as they are given.
        let key = |planner: &Self, broker: usize| {
            let count = i64::try_from(planner.counts[broker]).unwrap_or(i64::MAX);
            let floor = i64::try_from(planner.shares[broker].floor).unwrap_or(i64::MAX);
            let bytes = i64::try_from(planner.bytes[broker]).unwrap_or(i64::MAX);
            (count - floor, bytes, broker)
        };
        let of_rack = |members: &Vec<usize>| members.iter().map(|broker| key(self, *broker)).collect();
        let mut wanting: Vec<BTreeSet<(i64, i64, usize)>> = self.members.iter().map(of_rack).collect();
        let mut homeless = homeless;
        // Large ones first, so that small ones even out what is left.
        homeless.sort_by_key(|slot| (std::cmp::Reverse(self.size(*slot)), *slot));
        for slot in homeless {
            let partition = self.partition(slot);
            // In a rack that holds fewest of the partition, the broker that wants most.
            let best = (0..wanting.len())
                .filter_map(|rack| {
                    let first = wanting[rack].iter().find(|(.., broker)| !self.holds(partition, *broker)).copied()?;
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

    /// Moves what is above ceilings and below floors, straight from one broker to another.
    fn level(&mut self) {
        let full: Vec<usize> = self.members.iter().flatten().copied().collect();
        // Each pair of limits in turn: who gives down to what, and who takes up to what.
        type Limit = fn(&Share) -> usize;
        let (floor, ceiling): (Limit, Limit) = (|share| share.floor, |share| share.ceiling);
        let limits = [(ceiling, floor), (ceiling, ceiling), (floor, floor)];
        // What racks forbade at first may be possible after other moves. Each move lessens what is too much or missing.
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

    /// Straight moves from those that hold more than they keep to those that hold less than they take; how many.
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
                    let Some(index) = self.choose(&held[from], from, to, wanted) else { break };
                    let slot = held[from].remove(index) as usize;
                    self.take(slot);
                    self.give(slot, to);
                    moved += 1;
                }
            }
        }
        moved
    }

    /// What each broker's disk should hold: its share of replicas, of the average size.
    fn fair_bytes(&self) -> Vec<u64> {
        let full = || self.members.iter().flatten().copied();
        let bytes: u64 = full().map(|broker| self.bytes[broker]).sum();
        let replicas: f64 = full().map(|broker| self.shares[broker].exact).sum();
        self.shares.iter().map(|share| (bytes as f64 * share.exact / replicas.max(f64::MIN_POSITIVE)).round() as u64).collect()
    }

    /// The slots of each broker that may move, by size.
    fn slots_by_broker(&self) -> Vec<Vec<u32>> {
        let movable = |slot: &usize| !self.placement.fixed[self.partition(*slot)];
        let mut slots: Vec<u32> =
            (0..self.placement.replicas.len()).filter(movable).map(|slot| u32::try_from(slot).unwrap_or(u32::MAX)).collect();
        slots.sort_by_key(|slot| self.size(*slot as usize));
        let mut held = vec![Vec::new(); self.brokers.len()];
        slots.iter().for_each(|slot| held[usize::from(self.placement.replicas[*slot as usize])].push(*slot));
        held
    }

    /// Which of these may go and is nearest to this size.
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

    /// Puts another replica first where that makes brokers lead as many partitions as each other. Gives the partitions
    /// that another one leads than before.
    fn lead(&mut self, before: &Placement) -> usize {
        let partitions = self.placement.partitions();
        let count = self.brokers.len();
        let full: Vec<bool> = self.brokers.iter().map(|broker| broker.duty == Duty::Full).collect();
        let (mut led, mut by_pair) = (vec![0_usize; count], vec![Vec::<u32>::new(); count * count]);
        let mut total = 0;
        for partition in 0..partitions {
            let replicas = self.placement.of(partition);
            let Some(leader) = replicas.first().map(|leader| usize::from(*leader)).filter(|leader| *leader < count) else { continue };
            led[leader] += 1;
            if !full[leader] || self.placement.fixed[partition] {
                continue;
            }
            total += 1;
            for other in replicas[1..].iter().map(|other| usize::from(*other)).filter(|other| *other < count && full[*other]) {
                by_pair[leader * count + other].push(u32::try_from(partition).unwrap_or(u32::MAX));
            }
        }
        let members = full.iter().filter(|full| **full).count().max(1);
        let (floor, ceiling) = (total / members, total.div_ceil(members));
        loop {
            let over = |broker: usize, led: &[usize]| full[broker] && led[broker] > ceiling;
            let under = |broker: usize, led: &[usize]| full[broker] && led[broker] < floor;
            let starts: Vec<usize> = (0..count).filter(|broker| over(*broker, &led)).collect();
            let path = if starts.is_empty() {
                let rich: Vec<usize> = (0..count).filter(|broker| full[*broker] && led[*broker] > floor).collect();
                if (0..count).any(|broker| under(broker, &led)) {
                    self.path(&rich, |broker| under(broker, &led), &mut by_pair)
                } else {
                    None
                }
            } else {
                self.path(&starts, |broker| full[broker] && led[broker] < floor, &mut by_pair)
                    .or_else(|| self.path(&starts, |broker| full[broker] && led[broker] < ceiling, &mut by_pair))
            };
            let Some(path) = path else { break };
            for pair in path.windows(2) {
                self.hand_over(pair[0], pair[1], &mut by_pair);
            }
            led[path[0]] -= 1;
            led[path[path.len() - 1]] += 1;
        }
        (0..partitions).filter(|partition| before.of(*partition).first() != self.placement.of(*partition).first()).count()
    }

    /// The next partition that `from` leads and `to` could; those that are led by others by now are forgotten.
    fn handed(&self, from: usize, to: usize, by_pair: &mut [Vec<u32>]) -> Option<usize> {
        let candidates = &mut by_pair[from * self.brokers.len() + to];
        while let Some(partition) = candidates.last().map(|partition| *partition as usize) {
            if usize::from(self.placement.of(partition)[0]) == from {
                return Some(partition);
            }
            candidates.pop();
        }
        None
    }

    /// The shortest way from one of `starts` to a broker that `ends`.
    fn path(&self, starts: &[usize], ends: impl Fn(usize) -> bool, by_pair: &mut [Vec<u32>]) -> Option<Vec<usize>> {
        let count = self.brokers.len();
        let mut came: Vec<Option<usize>> = vec![None; count];
        let mut queue: VecDeque<usize> = starts.iter().copied().collect();
        starts.iter().for_each(|start| came[*start] = Some(*start));
        while let Some(at) = queue.pop_front() {
            for next in 0..count {
                if came[next].is_some() || self.handed(at, next, by_pair).is_none() {
                    continue;
                }
                came[next] = Some(at);
                if ends(next) {
                    let mut path = vec![next];
                    while let Some(before) = came[path[path.len() - 1]].filter(|before| *before != path[path.len() - 1]) {
                        path.push(before);
                    }
                    path.reverse();
                    return Some(path);
                }
                queue.push_back(next);
            }
        }
        None
    }

    fn hand_over(&mut self, from: usize, to: usize, by_pair: &mut [Vec<u32>]) {
        let Some(partition) = self.handed(from, to, by_pair) else { return };
        let range = self.placement.range(partition);
        let Some(other) = range.clone().find(|slot| usize::from(self.placement.replicas[*slot]) == to) else { return };
        self.placement.replicas.swap(range.start, other);
        let count = self.brokers.len();
        let followers: Vec<u16> = self.placement.replicas[range.start + 1..range.end].to_vec();
        for follower in followers.into_iter().map(usize::from).filter(|follower| *follower < count) {
            if self.brokers[follower].duty == Duty::Full {
                by_pair[to * count + follower].push(u32::try_from(partition).unwrap_or(u32::MAX));
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
        partitions.iter().for_each(|replicas| placement.push(replicas.iter().copied(), 1, false));
        placement
    }

    fn counts(plan: &Plan, brokers: usize) -> Vec<usize> {
        (0..brokers).map(|broker| plan.placement.replicas.iter().filter(|held| usize::from(**held) == broker).count()).collect()
    }

    fn leaders(plan: &Plan, brokers: usize) -> Vec<usize> {
        let leads = |broker: usize| {
            (0..plan.placement.partitions()).filter(|partition| usize::from(plan.placement.of(*partition)[0]) == broker).count()
        };
        (0..brokers).map(leads).collect()
    }

    #[test]
    fn brokers_that_are_added_are_filled_and_nothing_else_moves() {
        let full = Duty::Full;
        let brokers = brokers(&[(0, full), (1, full), (2, full), (0, full), (1, full), (2, full)]);
        let before = placement(&vec![vec![0, 1, 2]; 12]);
        let plan = plan(&brokers, &before, 0);
        assert_eq!((plan.moves, lower_bound(&brokers, &before)), (18, 18));
        assert_eq!(counts(&plan, 6), [6; 6]);
        assert_eq!(leaders(&plan, 6), [2; 6]);
    }

    #[test]
    fn a_broker_that_leaves_is_emptied_into_its_rack() {
        let brokers = brokers(&[(0, Duty::Full), (0, Duty::Leaving), (1, Duty::Full), (2, Duty::Full)]);
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
        let brokers = brokers(&(0..9).map(|index| (index % 3, Duty::Full)).collect::<Vec<_>>());
        // Nearly everything lies on the first broker of each rack, or all that is small does.
        for largest_stay in [false, true] {
            let mut before = Placement::new();
            for partition in 0..9000_u64 {
                let bytes = 1 + partition * 7919 % 97;
                let nth = if partition % 10 < 8 && !(largest_stay && bytes > 80) { 0 } else { 1 + u16::try_from(partition % 2).unwrap() };
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
        // 200 bytes and 20; each swap brings nine from one to the other.
        (0..20).for_each(|_| before.push([0], 10, false));
        (0..20).for_each(|_| before.push([1], 1, false));
        let plan = super::plan(&brokers, &before, 0);
        assert_eq!((plan.placement.bytes_by_broker(2), plan.moves, counts(&plan, 2)), (vec![110, 110], 20, vec![20, 20]));
        let with_slack = super::plan(&brokers, &before, 40);
        assert_eq!((with_slack.placement.bytes_by_broker(2), with_slack.moves), (vec![155, 65], 10));
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
        let plan = plan(&brokers, &placement(&[vec![0, 1], vec![2, 3], vec![0, 3], vec![1, 2]]), 0);
        for partition in 0..4 {
            let racks: BTreeSet<_> = plan.placement.of(partition).iter().map(|broker| broker / 2).collect();
            assert_eq!(racks.len(), 2);
        }
        assert_eq!((plan.moves, counts(&plan, 4)), (2, vec![2; 4]));
    }

    /// Clusters of all shapes: racks of unequal size, brokers that leave or are cordoned, any placement.
    fn clusters() -> impl Strategy<Value = (Vec<Broker>, Placement)> {
        let duty = prop::sample::select(vec![Duty::Full, Duty::Full, Duty::Full, Duty::Full, Duty::Leaving, Duty::Cordoned]);
        (1..=4_usize, prop::collection::vec((0..4_usize, duty), 2..14), 1..=4_usize, prop::collection::vec(any::<u64>(), 1..80)).prop_map(
            |(racks, duties, factor, seeds)| {
                let duties: Vec<_> = duties.into_iter().map(|(rack, duty)| (rack % racks, duty)).collect();
                let mut brokers = brokers(&duties);
                brokers[0].duty = Duty::Full;
                // Some have fewer brokers with full duty than replicas.
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
            },
        )
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
