//! Executes leader elections, a few partitions at a time.
//!
//! A broker that has just started is slow, because it does everything for the first time. The
//! partitions of an election have no leader until the broker has processed the whole election. So
//! the next election begins only after the elected brokers report that the previous one is
//! complete, and its size depends on how long that took.
//!
//! No leader moves while the work of a broker waits for a CPU, as it does for some seconds after a
//! start because the JVM compiles hot code: elections, and the waits of clients, would take many
//! times as long. Some brokers are always busy, so this wait has a limit of some seconds.

use freehold_kafka_client::{Admin, Election, Reassignment};
use std::time::Duration;
use tokio::time::Instant;

/// The number of partitions in the first election, which is also the minimum.
const FIRST: usize = 4;
/// The maximum number of partitions in an election.
const MAX: usize = 2000;
/// After an election that took longer the next one is smaller, otherwise larger.
const AIM: Duration = Duration::from_millis(100);
/// The time to wait until the brokers of one election lead; after that the reconcile continues.
pub const LIMIT: Duration = Duration::from_secs(5);
/// Elections that have not begun by then are left to the next reconcile, because a reconcile has
/// other work too.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// A broker is calm if its work waits for a CPU for less than this share of the time.
const CALM: f64 = 0.3;
/// The time to wait for brokers to become calm; then leaders move anyway.
const CALM_LIMIT: Duration = Duration::from_secs(6);
/// The pause between two queries. Brokers measure the value every two seconds.
const CALM_PAUSE: Duration = Duration::from_secs(1);

/// Elects as many leaders as the time allows; the next reconcile requests the others again.
/// `limit`: the time to wait for one election.
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
            for error in admin
                .reassign(&orders)
                .await
                .into_iter()
                .filter_map(Result::err)
            {
                tracing::debug!(%error, "another replica is first");
            }
        }
        let answers = admin.elect_preferred_leaders(now).await;
        let mut elected = Vec::new();
        for (one, answer) in now.iter().zip(answers) {
            match answer {
                Ok(()) => elected.push(one.clone()),
                Err(error) => {
                    tracing::debug!(%error, topic = one.topic, partition = one.partition, "not elected")
                }
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

/// Waits until all brokers that answer are calm. `pause`: the time between two queries.
async fn calm(admin: &impl Admin, pause: Duration, limit: Duration) {
    let calm = async {
        while admin
            .loads()
            .await
            .values()
            .any(|load| load.cpu_pressure_now >= CALM)
        {
            tokio::time::sleep(pause).await;
        }
    };
    if tokio::time::timeout(limit, calm).await.is_err() {
        tracing::debug!("brokers are busy, and leaders move all the same");
    }
}

fn order(election: &Election) -> Option<Reassignment> {
    let replicas = election.order.clone()?;
    Some(Reassignment {
        topic: election.topic.clone(),
        partition: election.partition,
        replicas: Some(replicas),
    })
}

fn next_size(size: usize, took: Duration) -> usize {
    if took < AIM {
        (2 * size).min(MAX)
    } else {
        (size / 2).max(FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_kafka_client::fake::FakeCluster;

    fn elections(count: i32) -> Vec<Election> {
        (0..count)
            .map(|partition| Election {
                topic: "orders".into(),
                partition,
                leader: 1,
                order: None,
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn elections_grow_while_they_are_fast() {
        let cluster = FakeCluster::default();
        elect(&cluster, &elections(40), LIMIT).await;
        assert_eq!(cluster.state().elected, [4, 8, 16, 12]);
        elect(&cluster, &[], LIMIT).await;
        assert_eq!(
            cluster.state().elected.len(),
            4,
            "nothing to elect asks nobody"
        );
        assert_eq!(next_size(64, AIM), 32);
        assert_eq!(
            (next_size(FIRST, AIM), next_size(MAX, Duration::ZERO)),
            (FIRST, MAX)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn leaders_move_when_brokers_are_calm_or_never_will_be() {
        let cluster = FakeCluster::default();
        cluster.state().busy_looks = 3;
        calm(&cluster, PAUSE, LIMIT).await;
        assert_eq!(cluster.state().busy_looks, 0);
        cluster.state().busy_looks = 100;
        calm(&cluster, PAUSE, 3 * PAUSE).await;
        assert!(cluster.state().busy_looks > 90, "no longer than that");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_lead_yet_is_waited_for_and_nobody_else_is_elected() {
        let cluster = FakeCluster::default();
        cluster.state().leads_late = true;
        let start = Instant::now();
        elect(&cluster, &elections(40), 3 * PAUSE).await;
        assert_eq!(cluster.state().elected, [4]);
        assert!(start.elapsed() > 3 * PAUSE);
    }
}
