//! Which replica leads each partition: as few partitions as possible get another preferred leader.
//! Pure.

use super::*;

/// Who leads which partition.
struct Leadership {
    /// The number of partitions that each broker leads.
    led: Vec<usize>,
    /// For each pair of brokers, the partitions that the first one leads and the second one could
    /// lead, at index `first * brokers + second`.
    by_pair: Vec<Vec<u32>>,
    /// The number of partitions whose leader may change.
    total: usize,
}

impl Planner<'_> {
    /// Changes the order of replicas so that brokers lead the same number of partitions. Returns
    /// the number of partitions whose preferred leader changed.
    pub(super) fn lead(&mut self, before: &Placement) -> usize {
        let full: Vec<bool> = self
            .brokers
            .iter()
            .map(|broker| broker.duty == Duty::Full)
            .collect();
        let Leadership {
            mut led,
            mut by_pair,
            total,
        } = self.leadership(&full);
        let members = full.iter().filter(|full| **full).count().max(1);
        let bounds = (total / members, total.div_ceil(members));
        while let Some(path) = self.path_to_balance(&full, &led, bounds, &mut by_pair) {
            for pair in path.windows(2) {
                self.hand_over(pair[0], pair[1], &mut by_pair);
            }
            led[path[0]] -= 1;
            led[path[path.len() - 1]] += 1;
        }
        (0..self.placement.partitions())
            .filter(|partition| {
                before.of(*partition).first() != self.placement.of(*partition).first()
            })
            .count()
    }

    /// Who leads which partition, and who could lead it instead. `full`: the brokers that take
    /// part.
    fn leadership(&self, full: &[bool]) -> Leadership {
        let count = self.brokers.len();
        let (mut led, mut by_pair) = (vec![0_usize; count], vec![Vec::<u32>::new(); count * count]);
        let mut total = 0;
        for partition in 0..self.placement.partitions() {
            let replicas = self.placement.of(partition);
            let Some(leader) = replicas
                .first()
                .map(|leader| usize::from(*leader))
                .filter(|leader| *leader < count)
            else {
                continue;
            };
            led[leader] += 1;
            if !full[leader] || self.placement.fixed[partition] {
                continue;
            }
            total += 1;
            for other in replicas[1..]
                .iter()
                .map(|other| usize::from(*other))
                .filter(|other| *other < count && full[*other])
            {
                by_pair[leader * count + other].push(u32::try_from(partition).unwrap_or(u32::MAX));
            }
        }
        Leadership {
            led,
            by_pair,
            total,
        }
    }

    /// A path on which a leadership is handed over from a broker that leads too many partitions, or
    /// to one that leads too few; `None` if all are within the bounds (at least, at most), or
    /// nothing more can be done.
    fn path_to_balance(
        &self,
        full: &[bool],
        led: &[usize],
        (floor, ceiling): (usize, usize),
        by_pair: &mut [Vec<u32>],
    ) -> Option<Vec<usize>> {
        let leads_more_than = |most: usize| -> Vec<usize> {
            (0..led.len())
                .filter(|broker| full[*broker] && led[*broker] > most)
                .collect()
        };
        let leads_less_than =
            |least: usize| move |broker: usize| full[broker] && led[broker] < least;
        let over = leads_more_than(ceiling);
        if !over.is_empty() {
            return self
                .path(&over, leads_less_than(floor), by_pair)
                .or_else(|| self.path(&over, leads_less_than(ceiling), by_pair));
        }
        if !(0..led.len()).any(leads_less_than(floor)) {
            return None;
        }
        self.path(&leads_more_than(floor), leads_less_than(floor), by_pair)
    }

    /// The next partition that `from` leads and `to` could lead. Drops partitions that `from` no
    /// longer leads.
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

    /// The shortest path from one of `starts` to a broker for which `ends` is true.
    fn path(
        &self,
        starts: &[usize],
        ends: impl Fn(usize) -> bool,
        by_pair: &mut [Vec<u32>],
    ) -> Option<Vec<usize>> {
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
                    while let Some(before) =
                        came[path[path.len() - 1]].filter(|before| *before != path[path.len() - 1])
                    {
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
        let Some(partition) = self.handed(from, to, by_pair) else {
            return;
        };
        let range = self.placement.range(partition);
        let Some(other) = range
            .clone()
            .find(|slot| usize::from(self.placement.replicas[*slot]) == to)
        else {
            return;
        };
        self.placement.replicas.swap(range.start, other);
        let count = self.brokers.len();
        let followers: Vec<u16> = self.placement.replicas[range.start + 1..range.end].to_vec();
        for follower in followers
            .into_iter()
            .map(usize::from)
            .filter(|follower| *follower < count)
        {
            if self.brokers[follower].duty == Duty::Full {
                by_pair[to * count + follower].push(u32::try_from(partition).unwrap_or(u32::MAX));
            }
        }
    }
}
