//! Assigns node ids. Each node pool and zone owns a block of ids. A node's id is its StatefulSet
//! ordinal, which starts at the block's first id, so that a pod's name ends with its node id. A
//! block is assigned once and stored with the cluster's identity. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// The maximum number of nodes of one pool in one zone, and the distance between blocks.
pub const BLOCK: i32 = 100;

/// Pool and zone.
pub type Slot = (String, String);

/// First node id of each pool and zone.
pub type Blocks = BTreeMap<Slot, i32>;

/// Keeps every assigned block, and assigns the lowest free blocks to new slots in the order of
/// their names. The order of the lists has no meaning.
pub fn allocate(given: &Blocks, slots: impl IntoIterator<Item = Slot>) -> Blocks {
    let mut blocks = given.clone();
    let slots: BTreeSet<Slot> = slots.into_iter().collect();
    for slot in slots {
        if blocks.contains_key(&slot) {
            continue;
        }
        let used: BTreeSet<i32> = blocks.values().copied().collect();
        let mut first = 0;
        while used.contains(&first) {
            first += BLOCK;
        }
        blocks.insert(slot, first);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot() -> impl Strategy<Value = Slot> {
        ("[a-c]", "[x-z]")
    }

    proptest! {
        #[test]
        fn blocks_are_stable_disjoint_and_do_not_depend_on_order(
            first in prop::collection::vec(slot(), 0..6),
            more in prop::collection::vec(slot(), 0..6),
        ) {
            let given = allocate(&Blocks::new(), first);
            let grown = allocate(&given, more.clone());
            let reversed = allocate(&given, more.into_iter().rev());
            prop_assert_eq!(&grown, &reversed);
            for (slot, id) in &given {
                prop_assert_eq!(grown.get(slot), Some(id));
            }
            let ids: BTreeSet<_> = grown.values().collect();
            prop_assert_eq!(ids.len(), grown.len());
        }
    }
}
