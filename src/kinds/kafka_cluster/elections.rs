//! Lets other replicas lead, few partitions at a time.
//!
//! A broker that has just started does everything for the first time, and slowly: what it is elected for has no leader
//! until it has worked through all of that election. So the next election waits until the one before is over by the
//! word of those who were elected, and is as large as that took them.
//!
//! No leader moves while a broker's work waits for a CPU, as it does for some seconds after a start (a JVM compiles what
//! it runs often): then elections take many times as long, and so do clients' waits. Some brokers are never calm, so
//! this is waited for no longer than some seconds.

use crate::kafka_admin::{Admin, Election, Reassignment};
use std::time::{Duration, Instant};

/// Partitions of the first election, and of the smallest.
const FIRST: usize = 4;
/// Partitions of any.
const MAX: usize = 2000;
/// An election that takes longer is followed by a smaller one, one that takes less by a larger one.
const AIM: Duration = Duration::from_millis(100);
/// Who does not lead by then is waited for no longer in this look.
pub const LIMIT: Duration = Duration::from_secs(5);
/// What is not elected by then is left to the next look: there is more to see to than leaders.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// Share of the time: a broker whose work waits less than this for a CPU is calm.
const CALM: f64 = 0.3;
/// Who is not calm by then leads and follows all the same.
const CALM_LIMIT: Duration = Duration::from_secs(6);
/// Brokers measure it every two seconds.
const CALM_PAUSE: Duration = Duration::from_secs(1);

/// Elects as far as it comes; what is not elected this time is asked for again at the next look. `limit`: of one election.
pub async fn elect(admin: &impl Admin, elections: &[Election], limit: Duration) {
    if !elections.is_empty() {
        calm(admin, CALM_PAUSE, CALM_LIMIT).await;
    }
    let (start, mut left, mut size) = (Instant::now(), elections, FIRST);
    while !left.is_empty() && start.elapsed() < LOOK_LIMIT {
        let (now, later) = left.split_at(size.min(left.len()));
        let begun = Instant::now();
        let orders: Vec<_> = now.iter().filter_map(order).collect();
        if !orders.is_empty() {
            for error in admin.reassign(&orders).await.into_iter().filter_map(Result::err) {
                tracing::debug!(%error, "another replica is first");
            }
        }
        let answers = admin.elect_preferred_leaders(now).await;
        let mut elected = Vec::new();
        for (one, answer) in now.iter().zip(answers) {
            match answer {
                Ok(()) => elected.push(one.clone()),
                Err(error) => tracing::debug!(%error, topic = one.topic, partition = one.partition, "not elected"),
            }
        }
        while let Err(error) = admin.lead(&elected).await {
            if begun.elapsed() > limit {
                tracing::debug!(%error, "elected, and does not lead yet");
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        size = next_size(size, begun.elapsed());
        left = later;
    }
}

/// Waits until all brokers that answer are calm; `pause`: between two looks.
async fn calm(admin: &impl Admin, pause: Duration, limit: Duration) {
    let calm = async {
        while admin.loads().await.values().any(|load| load.cpu_pressure_now >= CALM) {
            tokio::time::sleep(pause).await;
        }
    };
    if tokio::time::timeout(limit, calm).await.is_err() {
        tracing::debug!("brokers are busy, and leaders move all the same");
    }
}

fn order(election: &Election) -> Option<Reassignment> {
    let replicas = election.order.clone()?;
    Some(Reassignment { topic: election.topic.clone(), partition: election.partition, replicas: Some(replicas) })
}

fn next_size(size: usize, took: Duration) -> usize {
    if took < AIM { (2 * size).min(MAX) } else { (size / 2).max(FIRST) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka_admin::fake::FakeCluster;

    fn elections(count: i32) -> Vec<Election> {
        (0..count).map(|partition| Election { topic: "orders".into(), partition, leader: 1, order: None }).collect()
    }

    #[tokio::test]
    async fn elections_grow_while_they_are_fast() {
        let cluster = FakeCluster::default();
        elect(&cluster, &elections(40), LIMIT).await;
        assert_eq!(cluster.state().elected, [4, 8, 16, 12]);
        elect(&cluster, &[], LIMIT).await;
        assert_eq!(cluster.state().elected.len(), 4, "nothing to elect asks nobody");
        assert_eq!(next_size(64, AIM), 32);
        assert_eq!((next_size(FIRST, AIM), next_size(MAX, Duration::ZERO)), (FIRST, MAX));
    }

    #[tokio::test]
    async fn leaders_move_when_brokers_are_calm_or_never_will_be() {
        let cluster = FakeCluster::default();
        cluster.state().busy_looks = 3;
        calm(&cluster, PAUSE, LIMIT).await;
        assert_eq!(cluster.state().busy_looks, 0);
        cluster.state().busy_looks = 100;
        calm(&cluster, PAUSE, 3 * PAUSE).await;
        assert!(cluster.state().busy_looks > 90, "no longer than that");
    }

    #[tokio::test]
    async fn who_does_not_lead_yet_is_waited_for_and_nobody_else_is_elected() {
        let cluster = FakeCluster::default();
        cluster.state().leads_late = true;
        let start = Instant::now();
        elect(&cluster, &elections(40), 3 * PAUSE).await;
        assert_eq!(cluster.state().elected, [4]);
        assert!(start.elapsed() > 3 * PAUSE);
    }
}
