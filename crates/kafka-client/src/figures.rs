//! Rounded figures of topics (bytes, records, partitions that are not fully in sync), and bytes
//! within a tenth for decisions that move replicas. The client asks for them once a minute, in few
//! large requests, whatever the number of topics.

use super::batch::BatchedAdmin;
use super::mirror::Mirror;
use super::{Admin, AdminResult, Disk, Leaders, LogFolder, LogFolders};
use freehold_kafka::metadata_image::{Concerned, INTERNAL_TOPICS, MetadataImage};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

const PERIOD: Duration = Duration::from_secs(60);
/// The first pause is shorter, because the rebalancer moves nothing before it knows sizes.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Topics in one ListOffsets request.
const TOPICS_MAX: usize = 500;

/// The figures of a topic that are not in the metadata. Bytes and records are rounded down to 1, 2
/// or 5 times a power of ten, so that the status is seldom written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    pub bytes: i64,
    pub records: i64,
    pub under_replicated: i32,
}

/// The volumes of a broker, by the path of the log folder on each.
pub type Disks = BTreeMap<String, Disk>;

/// The figures of a cluster's topics, and the volumes of its brokers.
#[derive(Default)]
pub struct Figures {
    topics: RwLock<HashMap<Arc<str>, Figure>>,
    /// Bytes of all replicas by topic, with Kafka's internal topics.
    bytes: RwLock<HashMap<String, i64>>,
    disks: RwLock<BTreeMap<i32, Disks>>,
}

impl Figures {
    /// The figures of a topic; `None` while they are unknown.
    pub fn get(&self, topic: &str) -> Option<Figure> {
        self.topics
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(topic)
            .copied()
    }

    /// Bytes of all replicas of a topic. The value changes only when the size differs by more than
    /// a tenth from the last one, so that the plan stays the same while sizes are about the same.
    /// 0: unknown.
    pub fn bytes(&self, topic: &str) -> u64 {
        let all = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        all.get(topic)
            .and_then(|bytes| u64::try_from(*bytes).ok())
            .unwrap_or(0)
    }

    /// Asks the brokers for the bytes of all topics now and returns the answer.
    ///
    /// # Errors
    /// A broker that serves does not answer; the figures that are already known stay.
    pub async fn ask_bytes(&self, admin: &dyn Admin) -> AdminResult<HashMap<String, i64>> {
        let told = bytes(admin, self).await?;
        let mut all = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        *all = told
            .iter()
            .map(|(topic, now)| (topic.clone(), steady(all.get(topic).copied(), *now)))
            .collect();
        Ok(told)
    }

    /// Volumes by broker and log folder, from the last answers.
    pub fn disks(&self) -> BTreeMap<i32, Disks> {
        self.disks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stores the volumes that a broker reports, and adds up the bytes of each topic.
    fn learn(&self, broker: i32, folders: &LogFolders, bytes: &mut HashMap<String, i64>) {
        let of = |(path, folder): (&String, &LogFolder)| Some((path.clone(), folder.disk?));
        let disks = folders.0.iter().filter_map(of).collect();
        self.disks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(broker, disks);
        folders
            .bytes()
            .into_iter()
            .for_each(|(topic, size)| *bytes.entry(topic.to_owned()).or_insert(0) += size);
    }
}

/// The known value while the new one is within a tenth of it, else the new one.
fn steady(known: Option<i64>, now: i64) -> i64 {
    known
        .filter(|known| known.abs_diff(now) <= known.unsigned_abs() / 10)
        .unwrap_or(now)
}

/// Rounds down to 1, 2 or 5 times a power of ten.
pub fn coarse(value: i64) -> i64 {
    let mut power = 1_i64;
    while value / 10 >= power {
        power *= 10;
    }
    [5, 2, 1]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step <= value)
        .unwrap_or(0)
}

/// Updates the figures for ever. The mirror notifies its subscribers of the topics whose figures
/// changed.
pub async fn keep(
    admin: watch::Receiver<Arc<BatchedAdmin>>,
    mirror: Arc<Mirror>,
    figures: Arc<Figures>,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(std::mem::replace(&mut pause, PERIOD)).await;
        let admin = admin.borrow().clone();
        match look(&admin, &mirror, &figures).await {
            Err(error) => tracing::debug!(%error, "no figures of topics this time"),
            Ok(new) => {
                let mut all = figures
                    .topics
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                let changed: Vec<_> = new
                    .iter()
                    .filter(|(name, figure)| all.get(*name) != Some(figure))
                    .map(|(name, _)| Arc::clone(name))
                    .collect();
                *all = new;
                drop(all);
                changed
                    .into_iter()
                    .for_each(|name| mirror.touch(Concerned::Topic(name)));
            }
        }
    }
}

async fn look(
    admin: &BatchedAdmin,
    mirror: &Mirror,
    known: &Figures,
) -> AdminResult<HashMap<Arc<str>, Figure>> {
    let bytes = known.ask_bytes(admin.direct()).await?;
    let topics = topics(&mirror.read());
    let mut figures = HashMap::with_capacity(topics.len());
    for chunk in topics.chunks(TOPICS_MAX) {
        let leaders: Vec<Leaders> = chunk.iter().map(|(leaders, ..)| leaders.clone()).collect();
        let counts = admin.direct().count_records(&leaders).await;
        for ((leaders, name, under_replicated), count) in chunk.iter().zip(counts) {
            // A topic without a leader at the moment keeps no figure.
            let Ok(records) = count else { continue };
            let bytes = coarse(bytes.get(&leaders.topic).copied().unwrap_or(0));
            figures.insert(
                Arc::clone(name),
                Figure {
                    bytes,
                    records: coarse(records),
                    under_replicated: *under_replicated,
                },
            );
        }
    }
    Ok(figures)
}

/// Bytes of each topic, from every broker that is registered and not fenced. A broker that is away,
/// maybe for long, must not prevent the figures of all topics. The brokers are asked one after the
/// other, because an answer for ten thousand topics is several megabytes.
async fn bytes(admin: &dyn Admin, known: &Figures) -> AdminResult<HashMap<String, i64>> {
    let brokers = admin.describe_cluster().await?.brokers;
    let serving: BTreeSet<i32> = brokers
        .iter()
        .filter(|broker| !broker.fenced)
        .map(|broker| broker.id)
        .collect();
    known
        .disks
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|id, _| serving.contains(id));
    let (mut bytes, mut silent) = (HashMap::new(), None);
    for id in serving {
        match admin.log_folders_of(id).await {
            Ok(folders) => known.learn(id, &folders, &mut bytes),
            Err(error) => silent = Some(error),
        }
    }
    silent.map_or(Ok(bytes), Err)
}

fn topics(image: &MetadataImage) -> Vec<(Leaders, Arc<str>, i32)> {
    let ours = image
        .topics()
        .filter(|(name, _)| !INTERNAL_TOPICS.contains(&&***name));
    ours.map(|(name, topic)| {
        let under = topic
            .partitions
            .iter()
            .filter(|partition| partition.in_sync().len() < partition.replicas.len())
            .count();
        (
            Leaders::of(name, topic),
            Arc::clone(name),
            i32::try_from(under).unwrap_or(i32::MAX),
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BrokerDescription;
    use crate::fake::FakeCluster;

    #[tokio::test]
    async fn a_broker_that_is_away_keeps_nobodys_figures() {
        let cluster = FakeCluster::default();
        let broker = |id, fenced| BrokerDescription {
            id,
            fenced,
            rack: None,
        };
        cluster.state().cluster.brokers = vec![broker(1, false), broker(2, true)];
        assert!(cluster.log_folders_of(2).await.is_err());
        let known = Figures::default();
        known.disks.write().unwrap().insert(2, Disks::default());
        known.bytes.write().unwrap().insert("gone".into(), 7);
        known.ask_bytes(&cluster).await.unwrap();
        assert_eq!(known.bytes("gone"), 0);
        assert_eq!(known.disks().into_keys().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn sizes_are_told_anew_when_they_are_off_by_more_than_a_tenth() {
        assert_eq!(
            [
                steady(None, 7),
                steady(Some(100), 110),
                steady(Some(100), 90),
                steady(Some(0), 0)
            ],
            [7, 100, 100, 0]
        );
        assert_eq!(
            [
                steady(Some(100), 111),
                steady(Some(100), 89),
                steady(Some(100), 0),
                steady(Some(0), 1)
            ],
            [111, 89, 0, 1]
        );
    }

    #[test]
    fn figures_are_rounded_down_to_one_two_or_five() {
        let pairs = [
            (0, 0),
            (1, 1),
            (4, 2),
            (9, 5),
            (10, 10),
            (1999, 1000),
            (2000, 2000),
            (54_321, 50_000),
            (i64::MAX, 5_000_000_000_000_000_000),
        ];
        for (value, rounded) in pairs {
            assert_eq!(coarse(value), rounded, "{value}");
        }
    }
}
