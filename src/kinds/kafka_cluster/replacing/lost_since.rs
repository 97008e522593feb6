//! Records since when this operator has observed nodes as lost without interruption. The status
//! says since when they are lost, but not that they were observed all the time: after the API
//! server or the operator was away, the scheduler's message may be as old as that.

use crate::api::kafka_cluster::{KafkaCluster, LostNodeStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After an interruption this long, the time starts again.
const BREAK: Duration = Duration::from_secs(60);

struct Seen {
    last: Instant,
    since: BTreeMap<i32, Instant>,
}

/// The lost nodes of each KafkaCluster, by its uid.
#[derive(Default)]
pub struct LostSince(Mutex<HashMap<String, Seen>>);

impl LostSince {
    /// Records the lost nodes of a reconcile.
    pub fn note(&self, object: &KafkaCluster, lost: &[LostNodeStatus]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (uid, now) = (
            object.metadata.uid.clone().unwrap_or_default(),
            Instant::now(),
        );
        let old = all
            .remove(&uid)
            .filter(|seen| now.duration_since(seen.last) < BREAK)
            .map(|seen| seen.since)
            .unwrap_or_default();
        let since: BTreeMap<i32, Instant> = lost
            .iter()
            .map(|one| (one.node_id, old.get(&one.node_id).copied().unwrap_or(now)))
            .collect();
        if !since.is_empty() {
            all.insert(uid, Seen { last: now, since });
        }
    }

    /// The lost nodes, each with the time since which it has been observed as lost without
    /// interruption.
    pub fn of(&self, object: &KafkaCluster, now: Timestamp) -> BTreeMap<i32, Timestamp> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all
            .get(object.metadata.uid.as_deref().unwrap_or_default())
            .filter(|seen| seen.last.elapsed() < BREAK);
        let ago = |since: &Instant| {
            now - SignedDuration::try_from(since.elapsed()).unwrap_or(SignedDuration::ZERO)
        };
        seen.into_iter()
            .flat_map(|seen| &seen.since)
            .map(|(id, since)| (*id, ago(since)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_break_and_a_node_that_is_back_begin_anew() {
        let object: KafkaCluster = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"version": "4.3.1", "nodePools": []}}),
        )
        .unwrap();
        let (seen, now) = (LostSince::default(), Timestamp::now());
        let lost = |ids: &[i32]| {
            ids.iter()
                .map(|id| LostNodeStatus {
                    node_id: *id,
                    since: Time(now),
                })
                .collect::<Vec<_>>()
        };
        let ids = || seen.of(&object, now).into_keys().collect::<Vec<_>>();
        let earlier = |age: Duration| {
            let mut all = seen.0.lock().unwrap();
            let entry = all.get_mut("u").unwrap();
            entry.last -= age;
            entry.since.values_mut().for_each(|since| *since -= age);
        };
        seen.note(&object, &lost(&[1]));
        earlier(Duration::from_secs(30));
        seen.note(&object, &lost(&[1, 2]));
        assert_eq!(ids(), [1, 2]);
        let all = seen.of(&object, now);
        assert!(
            now.duration_since(all[&1]).as_secs() == 30
                && now.duration_since(all[&2]).as_secs() == 0,
            "{all:?}"
        );
        earlier(BREAK);
        assert!(ids().is_empty(), "nobody looked");
        seen.note(&object, &lost(&[1]));
        assert_eq!(now.duration_since(seen.of(&object, now)[&1]).as_secs(), 0);
        seen.note(&object, &[]);
        assert!(ids().is_empty() && seen.0.lock().unwrap().is_empty());
    }
}
