//! Plans which replicas of a broker move to another of its log folders: away from folders that are
//! to be removed, and to empty or emptier ones, so that the volumes are filled evenly. Pure.

use crate::description::{FolderMove, LogFolder, LogFolders, LogReplica};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Two folders count as equally full when they differ by less than this fraction of the fuller one.
const LIKE: f64 = 0.1;

/// A replica with the folder where it is, or where it will be after the moves under way.
struct Held<'a> {
    topic: &'a Arc<str>,
    partition: i32,
    bytes: f64,
    at: &'a str,
}

/// The moves on one broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub moves: Vec<FolderMove>,
    pub bytes: u64,
    /// Replicas that are already moving.
    pub under_way: usize,
    /// A folder to be removed still holds a replica, or a folder that stays is empty.
    pub needed: bool,
}

/// Plans the moves of a broker. `stay` has the folders that are to hold its replicas; those that
/// the broker does not have are ignored.
pub fn plan(folders: &LogFolders, stay: &BTreeSet<String>) -> Plan {
    let mut plan = Plan {
        under_way: replicas(folders)
            .filter(|(_, replica)| replica.future)
            .count(),
        ..Plan::default()
    };
    let mut held = held(folders);
    let mut full: BTreeMap<&str, f64> = folders
        .0
        .keys()
        .filter(|path| stay.contains(*path))
        .map(|path| (path.as_str(), 0.0))
        .collect();
    if full.is_empty() {
        return plan;
    }
    let size: BTreeMap<&str, f64> = folders
        .0
        .iter()
        .map(|(path, folder)| (path.as_str(), size(folder)))
        .collect();
    let share = |path: &str, bytes: f64| bytes / size.get(path).copied().unwrap_or(1.0);
    for one in &held {
        full.entry(one.at).and_modify(|bytes| *bytes += one.bytes);
    }
    let empty = |path: &&str| !held.iter().any(|one| one.at == *path);
    let leaves = held.iter().any(|one| !full.contains_key(one.at));
    plan.needed = leaves || (held.len() >= full.len() && full.keys().any(empty));
    // Large replicas first: small ones then even out the rest.
    held.sort_by(|a, b| {
        b.bytes
            .total_cmp(&a.bytes)
            .then_with(|| (a.topic, a.partition).cmp(&(b.topic, b.partition)))
    });
    for one in &held {
        let emptiest = full
            .iter()
            .map(|(path, bytes)| (*path, *bytes))
            .min_by(|a, b| share(a.0, a.1).total_cmp(&share(b.0, b.1)));
        let Some((target, there)) = emptiest else {
            break;
        };
        // A replica in a folder that stays moves only if that makes the two folders more equal.
        let better = full.get(one.at).is_none_or(|here| {
            let now = share(one.at, *here);
            share(target, there + one.bytes) < now && now - share(target, there) > LIKE * now
        });
        if target == one.at || !better {
            continue;
        }
        full.entry(one.at).and_modify(|bytes| *bytes -= one.bytes);
        full.insert(target, there + one.bytes);
        plan.bytes += one.bytes as u64;
        plan.moves.push(FolderMove {
            topic: one.topic.to_string(),
            partition: one.partition,
            folder: target.to_owned(),
        });
    }
    plan
}

fn replicas(folders: &LogFolders) -> impl Iterator<Item = (&str, &LogReplica)> {
    folders.0.iter().flat_map(|(path, folder)| {
        folder
            .replicas
            .iter()
            .map(move |replica| (path.as_str(), replica))
    })
}

/// Each replica once, in the folder where it will be.
fn held(folders: &LogFolders) -> Vec<Held<'_>> {
    let mut all: BTreeMap<(&str, i32), Held<'_>> = BTreeMap::new();
    for (at, replica) in replicas(folders) {
        // An empty replica counts as one byte, so that it is moved too.
        let bytes = replica.bytes.max(1) as f64;
        let here = || Held {
            topic: &replica.topic,
            partition: replica.partition,
            bytes,
            at,
        };
        let known = all
            .entry((&replica.topic, replica.partition))
            .or_insert_with(here);
        known.bytes = known.bytes.max(bytes);
        if replica.future {
            known.at = at;
        }
    }
    all.into_values().collect()
}

/// The size of the folder's volume; the same for all folders if it is unknown.
fn size(folder: &LogFolder) -> f64 {
    folder.disk.map_or(1.0, |disk| disk.total.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Disk;
    use proptest::prelude::*;

    /// Partition, bytes, and whether it is still being copied.
    type Replica = (i32, i64, bool);

    fn folders(all: &[(&str, i64, &[Replica])]) -> LogFolders {
        let folder = |(path, total, replicas): &(&str, i64, &[Replica])| {
            let replica = |(partition, bytes, future): &Replica| LogReplica {
                topic: "t".into(),
                partition: *partition,
                bytes: *bytes,
                future: *future,
            };
            let disk = Some(Disk {
                total: *total,
                usable: 0,
            });
            (
                (*path).to_owned(),
                LogFolder {
                    disk,
                    replicas: replicas.iter().map(replica).collect(),
                },
            )
        };
        LogFolders(all.iter().map(folder).collect())
    }

    fn moved(folders: &LogFolders, stay: &[&str]) -> Vec<(i32, String)> {
        let plan = plan(
            folders,
            &stay.iter().map(|path| (*path).to_owned()).collect(),
        );
        plan.moves
            .into_iter()
            .map(|one| (one.partition, one.folder))
            .collect()
    }

    #[test]
    fn a_folder_that_leaves_is_emptied_and_one_that_is_new_is_filled() {
        let two = folders(&[
            ("/a", 100, &[(0, 10, false), (1, 10, false)]),
            ("/b", 100, &[(2, 10, false)]),
        ]);
        assert_eq!(moved(&two, &["/a"]), [(2, "/a".to_owned())]);
        assert_eq!(moved(&two, &["/a", "/b"]), [], "as alike as can be");
        let new = folders(&[
            ("/a", 100, &[(0, 10, false), (1, 10, false)]),
            ("/b", 100, &[]),
        ]);
        assert!(plan(&new, &["/a".to_owned(), "/b".to_owned()].into()).needed);
        assert_eq!(moved(&new, &["/a", "/b"]).len(), 1);
        assert_eq!(
            moved(&new, &["/a", "/c"]),
            [],
            "a folder that the broker does not have yet"
        );
        let empty = folders(&[("/a", 100, &[(0, 0, false)]), ("/b", 100, &[])]);
        assert!(
            !plan(&empty, &["/a".to_owned(), "/b".to_owned()].into()).needed,
            "one replica cannot be in two"
        );
    }

    #[test]
    fn what_is_under_way_counts_as_done() {
        let under_way = folders(&[
            ("/a", 100, &[(0, 10, false), (1, 10, false)]),
            ("/b", 100, &[(1, 3, true)]),
        ]);
        let plan = plan(&under_way, &["/a".to_owned(), "/b".to_owned()].into());
        assert_eq!(
            (plan.moves.len(), plan.under_way, plan.needed),
            (0, 1, false)
        );
    }

    #[test]
    fn larger_volumes_hold_more() {
        let replicas: Vec<_> = (0..12).map(|partition| (partition, 10, false)).collect();
        let folders = folders(&[("/a", 1000, &replicas), ("/b", 3000, &[])]);
        assert_eq!(moved(&folders, &["/a", "/b"]).len(), 9);
    }

    proptest! {
        #[test]
        fn nothing_stays_in_a_folder_that_leaves_and_none_that_stays_is_empty(
            sizes in prop::collection::vec((0..3_usize, 0..1000_i64), 1..40),
            stays in prop::sample::select(vec![vec!["/0"], vec!["/0", "/1"], vec!["/0", "/1", "/2"]]),
        ) {
            let paths = ["/0", "/1", "/2"];
            let mut at: Vec<usize> = sizes.iter().map(|(folder, _)| *folder).collect();
            let build = |at: &[usize]| {
                let of = |folder: usize| -> Vec<Replica> {
                    let held = at.iter().enumerate().filter(|(_, place)| **place == folder);
                    held.map(|(partition, _)| (i32::try_from(partition).unwrap(), sizes[partition].1, false)).collect()
                };
                let all: Vec<_> = (0..3).map(of).collect();
                folders(&[("/0", 100, &all[0]), ("/1", 100, &all[1]), ("/2", 100, &all[2])])
            };
            let stay: BTreeSet<String> = stays.iter().map(|path| (*path).to_owned()).collect();
            for _ in 0..3 {
                for one in plan(&build(&at), &stay).moves {
                    at[usize::try_from(one.partition).unwrap()] = paths.iter().position(|path| *path == one.folder).unwrap();
                }
            }
            prop_assert!(at.iter().all(|folder| stay.contains(paths[*folder])));
            prop_assert!(!plan(&build(&at), &stay).needed || at.len() < stay.len());
        }
    }
}
