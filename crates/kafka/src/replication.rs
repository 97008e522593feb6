//! Plans a change of a partition's replication factor: which brokers join or leave. Pure.
//!
//! New replicas go to the racks that hold fewest of the partition's replicas, and there to the
//! brokers that hold fewest replicas overall. Replicas are removed if they are out of sync, else
//! from the rack that holds most of them. The first in-sync replica, which is the preferred leader,
//! stays.

use super::metadata_image::PartitionImage;
use std::collections::BTreeMap;

/// The brokers that may get replicas: their racks, and how many replicas each holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brokers {
    pub racks: BTreeMap<i32, String>,
    pub replicas: BTreeMap<i32, usize>,
}

/// What to request for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    To(Vec<i32>),
    /// Cancel the move under way: the partition had the wanted replicas before it.
    Back,
}

/// The move that gives a partition this many replicas; `None` if it has them, or is already moving
/// there. Counts the chosen replicas in `brokers`, so that the replicas of successive partitions
/// are spread.
pub fn to_factor(partition: &PartitionImage, factor: usize, brokers: &mut Brokers) -> Option<Move> {
    let mut replicas = partition.target();
    if replicas.len() == factor {
        return None;
    }
    if partition.is_moving() && partition.origin().len() == factor {
        return Some(Move::Back);
    }
    while replicas.len() < factor {
        let in_rack = |rack: &String| {
            replicas
                .iter()
                .filter(|id| brokers.racks.get(id) == Some(rack))
                .count()
        };
        let held = |id: &i32| brokers.replicas.get(id).copied().unwrap_or(0);
        let candidates = brokers
            .racks
            .iter()
            .filter(|(id, _)| !replicas.contains(id));
        let Some(next) = candidates
            .min_by_key(|(id, rack)| (in_rack(rack), held(id), **id))
            .map(|(id, _)| *id)
        else {
            break;
        };
        *brokers.replicas.entry(next).or_insert(0) += 1;
        replicas.push(next);
    }
    // The preferred leader stays, unless it is out of sync and another replica is in sync: the last
    // good copy must not be removed in favour of a stale one.
    let stays = replicas
        .iter()
        .find(|id| partition.in_sync().contains(id))
        .or(replicas.first())
        .copied();
    while replicas.len() > factor.max(1) {
        let in_rack = |id: &i32| {
            replicas
                .iter()
                .filter(|other| brokers.racks.get(other) == brokers.racks.get(id))
                .count()
        };
        let held = |id: &i32| brokers.replicas.get(id).copied().unwrap_or(0);
        let leaving = replicas.iter().filter(|id| Some(**id) != stays);
        let leaving = leaving
            .max_by_key(|id| {
                (
                    !partition.in_sync().contains(id),
                    in_rack(id),
                    held(id),
                    **id,
                )
            })
            .copied();
        let Some(leaving) = leaving else { break };
        brokers
            .replicas
            .entry(leaving)
            .and_modify(|count| *count = count.saturating_sub(1));
        replicas.retain(|id| *id != leaving);
    }
    (replicas != partition.target()).then_some(Move::To(replicas))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata_record::PartitionFields;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn brokers(racks: i32, each: i32) -> Brokers {
        let ids = (0..racks)
            .flat_map(|rack| (0..each).map(move |index| (rack * 100 + index, format!("r{rack}"))));
        Brokers {
            racks: ids.collect(),
            replicas: BTreeMap::new(),
        }
    }

    #[test]
    fn a_new_replica_goes_to_a_rack_that_has_none() {
        let moved = to_factor(&PartitionImage::new(&[0, 100]), 3, &mut brokers(3, 2));
        assert_eq!(moved, Some(Move::To(vec![0, 100, 200])));
    }

    #[test]
    fn the_right_number_moves_nothing() {
        assert_eq!(
            to_factor(&PartitionImage::new(&[0, 100]), 2, &mut brokers(3, 2)),
            None
        );
    }

    #[test]
    fn a_dead_first_replica_goes_before_one_in_sync() {
        let of = |in_sync: &[i32]| {
            PartitionImage::of(PartitionFields {
                replicas: Some(vec![0, 100, 200]),
                in_sync: Some(in_sync.to_vec()),
                leader: in_sync.first().copied(),
                ..PartitionFields::default()
            })
        };
        let lowered = |in_sync: &[i32], factor| to_factor(&of(in_sync), factor, &mut brokers(3, 1));
        assert_eq!(lowered(&[100, 200], 2), Some(Move::To(vec![100, 200])));
        assert_eq!(lowered(&[200], 1), Some(Move::To(vec![200])));
        assert_eq!(lowered(&[0, 200], 1), Some(Move::To(vec![0])));
        assert_eq!(
            lowered(&[], 1),
            Some(Move::To(vec![0])),
            "nobody knows better"
        );
    }

    #[test]
    fn many_partitions_are_spread() {
        let mut brokers = brokers(3, 2);
        for _ in 0..60 {
            to_factor(&PartitionImage::new(&[0]), 3, &mut brokers);
        }
        assert_eq!(
            [100, 101, 200, 201].map(|id| brokers.replicas[&id]),
            [30; 4]
        );
    }

    proptest! {
        #[test]
        fn a_move_has_the_factor_no_broker_twice_the_first_replica_and_as_many_racks_as_can_be(
            racks in 1..5_i32, each in 1..4_i32, first in 0..4_i32, old in 1..5_usize, new in 1..5_usize,
        ) {
            let mut brokers = brokers(racks, each);
            let ids: Vec<i32> = brokers.racks.keys().copied().collect();
            let start = usize::try_from(first).unwrap() % ids.len();
            let old: Vec<i32> = ids.iter().cycle().skip(start).take(old.min(ids.len())).copied().collect();
            let new = new.min(ids.len());
            let partition = PartitionImage::new(&old);
            let racks_of = |replicas: &[i32]| replicas.iter().map(|id| id / 100).collect::<BTreeSet<_>>().len();
            match to_factor(&partition, new, &mut brokers) {
                None => prop_assert_eq!(old.len(), new),
                Some(Move::Back) => prop_assert!(false, "nothing was under way"),
                Some(Move::To(replicas)) => {
                    prop_assert_eq!(replicas.len(), new);
                    prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), new);
                    prop_assert_eq!(replicas[0], old[0]);
                    if new > old.len() {
                        let most = usize::try_from(racks).unwrap().min(racks_of(&old) + new - old.len());
                        prop_assert_eq!(racks_of(&replicas), most);
                        prop_assert_eq!(&replicas[..old.len()], &old[..]);
                    } else {
                        prop_assert_eq!(racks_of(&replicas), racks_of(&old).min(new), "only doubles of a rack leave while there are any");
                    }
                }
            }
        }
    }
}
