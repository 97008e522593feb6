//! The share of all replicas that each broker is to hold. Pure.

use super::*;

impl Planner<'_> {
    /// Sets each broker's share: the same for all brokers, as far as racks allow. Each rack holds
    /// at least the partition's replicas divided by the number of racks, rounded down, and at most
    /// the same rounded up.
    pub(super) fn share_out(&mut self, homeless: &[usize]) {
        if self.members.iter().all(Vec::is_empty) {
            return;
        }
        let mut total = homeless.len();
        for members in &self.members {
            total += members
                .iter()
                .map(|broker| self.counts[*broker])
                .sum::<usize>();
        }
        let bounds = self.rack_bounds();
        let level = water_level(&bounds, total);
        let mut bounds = bounds.iter();
        for rack in 0..self.members.len() {
            if self.members[rack].is_empty() {
                continue;
            }
            let Some((width, least, most)) = bounds.next() else {
                continue;
            };
            let each = (level * width).clamp(*least, *most) / width;
            // The tolerance is for floating-point errors.
            let share = Share {
                exact: each,
                floor: (each + 1e-6).floor() as usize,
                ceiling: (each - 1e-6).ceil().max(0.0) as usize,
            };
            for broker in &self.members[rack] {
                self.shares[*broker] = share;
            }
        }
    }

    /// Of each rack with brokers that may get replicas: the number of these brokers, and how many
    /// replicas they hold at least and at most.
    fn rack_bounds(&self) -> Vec<(f64, f64, f64)> {
        // The replicas of cordoned brokers are in no broker's share, but they count for their rack.
        let mut cordoned = vec![0; self.members.len()];
        for (index, _) in self
            .brokers
            .iter()
            .enumerate()
            .filter(|(_, broker)| broker.duty == Duty::Cordoned)
        {
            cordoned[self.rack[index]] += self.counts[index];
        }
        let mut partitions_by_factor = vec![0; self.most_by_factor().len()];
        (0..self.placement.partitions())
            .for_each(|partition| partitions_by_factor[self.placement.range(partition).len()] += 1);
        (0..self.members.len())
            .filter(|rack| !self.members[*rack].is_empty())
            .map(|rack| {
                let (mut least, mut most) = (0, 0);
                for (replicas, partitions) in partitions_by_factor
                    .iter()
                    .enumerate()
                    .filter(|(_, partitions)| **partitions > 0)
                {
                    let limit = self.most_in_rack(replicas);
                    let room = |rack: usize| self.members[rack].len().min(limit);
                    let elsewhere: usize = (0..self.members.len())
                        .filter(|other| *other != rack)
                        .map(room)
                        .sum();
                    least += partitions * replicas.saturating_sub(elsewhere);
                    most += partitions * room(rack);
                }
                // If there are fewer brokers than replicas, the bounds of a rack exceed what it can
                // hold.
                let (least, most) = (
                    least.min(most).saturating_sub(cordoned[rack]),
                    most.saturating_sub(cordoned[rack]),
                );
                (self.members[rack].len() as f64, least as f64, most as f64)
            })
            .collect()
    }
}

/// Water-filling: each rack is as wide as its number of brokers, and is filled to a common level
/// within its bounds, until all racks together hold `total`. Returns that level.
fn water_level(racks: &[(f64, f64, f64)], total: usize) -> f64 {
    let filled = |level: f64| {
        racks
            .iter()
            .map(|(width, least, most)| (level * width).clamp(*least, *most))
            .sum::<f64>()
    };
    let (mut low, mut high) = (0.0, total as f64 + 1.0);
    for _ in 0..100 {
        let middle = (low + high) / 2.0;
        if filled(middle) < total as f64 {
            low = middle
        } else {
            high = middle
        }
    }
    high
}
