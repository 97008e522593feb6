//! Swaps replicas of different sizes until no disk is filled much above its share, with as few
//! additional moves as possible.
//!
//! First come swaps without additional moves: of replicas that move anyway and can get another
//! destination, or of a moving replica with one that can stay instead. Replicas that would have
//! stayed move only if a disk is still too full after that. Whether a swap helps depends on where
//! replicas are, not on how they came there, so that a second plan moves nothing.

use super::{Placement, Planner};

/// A disk may hold 1/20 (5 %) more than its share.
const TOLERANCE: u64 = 20;

/// Makes the disks equally full; returns true when it swapped anything. Up to `slack` bytes above
/// the tolerance are accepted.
pub fn even_out(planner: &mut Planner, before: &Placement, slack: u64) -> bool {
    let shares = planner.fair_bytes();
    let limits: Vec<u64> = shares
        .iter()
        .map(|share| share + share / TOLERANCE + slack)
        .collect();
    let mut disks = Disks {
        planner,
        before,
        shares,
        limits,
        held: Vec::new(),
    };
    if disks.too_full().is_empty() {
        return false;
    }
    disks.held = disks.planner.slots_by_broker();
    let free = disks.relieve_all(0);
    let paid = disks.relieve_all(2);
    free || paid
}

struct Disks<'a, 'b> {
    planner: &'a mut Planner<'b>,
    before: &'a Placement,
    /// Bytes that each broker should hold, and the most that it may hold.
    shares: Vec<u64>,
    limits: Vec<u64>,
    /// Slots of each broker, sorted by size.
    held: Vec<Vec<u32>>,
}

/// Slots by size, in three groups by how the number of moves changes when they go to a certain
/// broker: one less, the same, one more.
type ByCost = [Vec<u32>; 3];

/// Two slots to swap: one of the broker that is too full, and one of the other.
#[derive(Clone, Copy)]
struct Swap {
    slots: (u32, u32),
    /// How many bytes larger the first one is.
    won: i64,
}

impl Disks<'_, '_> {
    fn above_share(&self, broker: usize) -> i64 {
        self.planner.bytes[broker].cast_signed() - self.shares[broker].cast_signed()
    }

    /// The brokers above their limit, the fullest first.
    fn too_full(&self) -> Vec<usize> {
        let is_over = |broker: &usize| self.planner.bytes[*broker] > self.limits[*broker];
        let mut over: Vec<usize> = self
            .planner
            .members
            .iter()
            .flatten()
            .copied()
            .filter(is_over)
            .collect();
        over.sort_by_key(|broker| std::cmp::Reverse(self.above_share(*broker)));
        over
    }

    /// Down to which size a broker that is too full is relieved: to its share by swaps that cost no
    /// moves, only to its limit by swaps that do.
    fn goal(&self, broker: usize, moves_max: usize) -> u64 {
        if moves_max == 0 {
            self.shares[broker]
        } else {
            self.limits[broker]
        }
    }

    /// Moves bytes from each broker that is too full to the least full ones, in swaps of at most
    /// `moves_max` additional moves.
    fn relieve_all(&mut self, moves_max: usize) -> bool {
        let mut changed = false;
        loop {
            let mut any = false;
            for from in self.too_full() {
                let mut partners: Vec<usize> = self
                    .planner
                    .members
                    .iter()
                    .flatten()
                    .copied()
                    .filter(|to| *to != from)
                    .collect();
                partners.sort_by_key(|broker| self.above_share(*broker));
                for to in partners {
                    if self.planner.bytes[from] <= self.goal(from, moves_max) {
                        break;
                    }
                    any |= self.relieve(from, to, moves_max);
                }
            }
            if !any {
                return changed;
            }
            changed = true;
        }
    }

    /// Swaps replicas of two brokers until the first one reaches its goal or no swap helps any
    /// more.
    fn relieve(&mut self, from: usize, to: usize, moves_max: usize) -> bool {
        let goal = self.goal(from, moves_max);
        // A smaller gain is not worth a move.
        let least = (self.planner.bytes[from] / self.planner.counts[from].max(1) as u64 / 4)
            .max(1)
            .cast_signed();
        let between = self.above_share(from) - self.above_share(to);
        let (Some(largest), Some(smallest)) = (self.held[from].last(), self.held[to].first())
        else {
            return false;
        };
        if between < 2 * least || self.size(*largest) - self.size(*smallest) < least {
            return false;
        }
        let (mut given, mut taken) = self.swappable(from, to, moves_max);
        let mut any = false;
        while self.planner.bytes[from] > goal {
            let between = self.above_share(from) - self.above_share(to);
            let room = if self.above_share(to) < 0 {
                -self.above_share(to)
            } else {
                between / 2
            };
            let wanted = (self.planner.bytes[from] - goal)
                .cast_signed()
                .min(room)
                .max(least);
            let bounds = least..=between - least;
            let Some((gives, takes)) = self.best_swap(&given, &taken, wanted, bounds, moves_max)
            else {
                break;
            };
            self.hand_over(gives, from, to);
            self.hand_over(takes, to, from);
            given.iter_mut().for_each(|slots| self.remove(slots, gives));
            taken.iter_mut().for_each(|slots| self.remove(slots, takes));
            any = true;
        }
        any
    }

    /// The slots of two brokers that can be part of a swap, by what they cost. The racks are checked
    /// only for those.
    fn swappable(&self, from: usize, to: usize, moves_max: usize) -> (ByCost, ByCost) {
        let (mut given, mut taken) = (self.by_cost(from, to), self.by_cost(to, from));
        for cost in 0..3 {
            let partner = |others: &ByCost| {
                (0..3).any(|other| cost + other <= 2 + moves_max && !others[other].is_empty())
            };
            let (gives, takes) = (partner(&taken), partner(&given));
            given[cost].retain(|slot| gives && self.planner.fits(*slot as usize, from, to));
            taken[cost].retain(|slot| takes && self.planner.fits(*slot as usize, to, from));
        }
        (given, taken)
    }

    /// The two slots to swap: those that gain the most bytes for each additional move. Swaps without
    /// additional moves come first.
    fn best_swap(
        &self,
        given: &ByCost,
        taken: &ByCost,
        wanted: i64,
        bounds: std::ops::RangeInclusive<i64>,
        moves_max: usize,
    ) -> Option<(u32, u32)> {
        let mut best: Option<(f64, Swap)> = None;
        for (gives, given) in given.iter().enumerate() {
            for (takes, taken) in taken
                .iter()
                .enumerate()
                .filter(|(takes, _)| gives + takes <= 2 + moves_max)
            {
                let Some(swap) = self.pair(given, taken, wanted, bounds.clone()) else {
                    continue;
                };
                let worth = swap.won as f64 / (gives + takes).saturating_sub(2) as f64;
                if best.is_none_or(|(best, _)| worth > best) {
                    best = Some((worth, swap));
                }
            }
        }
        best.map(|(_, swap)| swap.slots)
    }

    fn size(&self, slot: u32) -> i64 {
        self.planner.size(slot as usize).cast_signed()
    }

    fn hand_over(&mut self, slot: u32, from: usize, to: usize) {
        self.planner.take(slot as usize);
        self.planner.give(slot as usize, to);
        let mut left = std::mem::take(&mut self.held[from]);
        self.remove(&mut left, slot);
        self.held[from] = left;
        let at = self.place(&self.held[to], slot);
        self.held[to].insert(at, slot);
    }

    fn place(&self, slots: &[u32], slot: u32) -> usize {
        slots.partition_point(|other| (self.size(*other), *other) < (self.size(slot), slot))
    }

    fn remove(&self, slots: &mut Vec<u32>, slot: u32) {
        let at = self.place(slots, slot);
        if slots.get(at) == Some(&slot) {
            slots.remove(at);
        }
    }

    /// Groups a broker's slots by how the number of moves changes if they go to another broker.
    fn by_cost(&self, from: usize, to: usize) -> ByCost {
        let mut all = ByCost::default();
        for slot in &self.held[from] {
            let old = usize::from(self.before.replicas[*slot as usize]);
            all[1 + usize::from(old != to) - usize::from(old != from)].push(*slot);
        }
        all
    }

    /// The two slots whose difference in size is nearest to the wanted one, within bounds.
    fn pair(
        &self,
        given: &[u32],
        taken: &[u32],
        wanted: i64,
        bounds: std::ops::RangeInclusive<i64>,
    ) -> Option<Swap> {
        let mut best: Option<Swap> = None;
        for gives in given.iter().rev().copied() {
            let size = self.size(gives);
            let at = taken.partition_point(|takes| size - self.size(*takes) > wanted);
            for takes in taken[..at].last().into_iter().chain(taken.get(at)).copied() {
                let won = size - self.size(takes);
                let is_nearer = |best: Swap| (won - wanted).abs() < (best.won - wanted).abs();
                if bounds.contains(&won) && best.is_none_or(is_nearer) {
                    best = Some(Swap {
                        slots: (gives, takes),
                        won,
                    });
                }
            }
            // Smaller ones are farther from the wanted size.
            if at == 0 || best.is_some_and(|best| best.won == wanted) {
                break;
            }
        }
        best
    }
}
