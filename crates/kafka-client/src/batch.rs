//! Batches admin requests. Changes that callers ask for within a few milliseconds go out in one
//! request, and each caller gets the result of its own part. Two parts that change the same
//! resource never share a request: Kafka would refuse both, and their order would be lost. The
//! second one is sent after the first one is answered. When a queue is full, callers wait; nothing
//! is dropped.

use super::*;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// How long the first part waits for others. Shorter than a request takes.
const LINGER: Duration = Duration::from_millis(3);
/// The same while many parts arrive: each request has a fixed cost for every broker.
const LINGER_BUSY: Duration = Duration::from_millis(50);
/// The longer wait applies when the last batch had at least this many parts.
const BUSY: usize = 4;
/// Parts that may wait in one queue. Further callers wait until there is room in it.
const QUEUE_MAX: usize = 4096;
/// Requests of one kind that are in flight. The controller handles one at a time; the second one is
/// ready when it has finished.
const IN_FLIGHT_MAX: usize = 2;
/// Weight of one request, unless a single part is heavier. It stays far below what the controller
/// accepts as one operation (10 000 records, KRaft's `MAX_RECORDS_PER_USER_OP`; it refuses a larger
/// one with all parts of it), and is so small that a request does not delay others for long.
const WEIGHT_MAX: usize = 1000;
const ITEMS_MAX: usize = 200;

type Waiting<I, O> = (I, oneshot::Sender<AdminResult<O>>);

/// A queue for one kind of request.
struct Queue<I, O>(mpsc::Sender<Waiting<I, O>>);

/// What the queue derives from a part without asking Kafka.
struct Part<I> {
    /// Approximate number of metadata records that the controller writes for it.
    weight: fn(&I) -> usize,
    /// The resource that it changes. `None`: it may share a request with any other part.
    names: fn(&I) -> Option<String>,
}

impl<I: Send + 'static, O: Send + 'static> Queue<I, O> {
    fn new(
        part: Part<I>,
        call: impl Fn(Vec<I>) -> BoxFuture<'static, Each<O>> + Send + Sync + 'static,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(receiver, part, Arc::new(call)));
        Self(sender)
    }

    async fn ask(&self, item: I) -> AdminResult<O> {
        let closed = || AdminError::Unavailable("the client was closed".into());
        let (sender, receiver) = oneshot::channel();
        self.0.send((item, sender)).await.map_err(|_| closed())?;
        receiver.await.map_err(|_| closed())?
    }
}

/// The names of resources that are in flight.
fn lock(asked: &Mutex<BTreeSet<String>>) -> MutexGuard<'_, BTreeSet<String>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run<I: Send + 'static, O: Send + 'static>(
    mut receiver: mpsc::Receiver<Waiting<I, O>>,
    Part { weight, names }: Part<I>,
    call: Arc<impl Fn(Vec<I>) -> BoxFuture<'static, Each<O>> + Send + Sync + 'static>,
) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let is_asked = |name: &Option<String>| {
        name.as_ref()
            .is_some_and(|name| lock(&asked).contains(name))
    };
    let mut linger = LINGER;
    // A part that starts the next batch: its resource is already in this one or in flight, or this
    // one has no room for it.
    let mut held = None;
    while let Some(first) = if held.is_some() {
        held.take()
    } else {
        receiver.recv().await
    } {
        let until = Instant::now() + linger;
        let name = names(&first.0);
        let all_done = if is_asked(&name) { IN_FLIGHT_MAX } else { 1 };
        let Ok(permit) = Arc::clone(&in_flight)
            .acquire_many_owned(u32::try_from(all_done).unwrap_or(1))
            .await
        else {
            return;
        };
        let mut heavy = weight(&first.0);
        let mut named: BTreeSet<String> = name.into_iter().collect();
        let mut batch = vec![first];
        while batch.len() < ITEMS_MAX && heavy < WEIGHT_MAX {
            let Ok(Some(next)) = timeout_at(until, receiver.recv()).await else {
                break;
            };
            let name = names(&next.0);
            if heavy + weight(&next.0) > WEIGHT_MAX
                || is_asked(&name)
                || name.as_ref().is_some_and(|name| named.contains(name))
            {
                held = Some(next);
                break;
            }
            heavy += weight(&next.0);
            named.extend(name);
            batch.push(next);
        }
        linger = if batch.len() >= BUSY {
            LINGER_BUSY
        } else {
            LINGER
        };
        lock(&asked).extend(named.iter().cloned());
        let (call, asked) = (Arc::clone(&call), Arc::clone(&asked));
        tokio::spawn(async move {
            let (items, senders): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let results = call(items).await;
            lock(&asked).retain(|name| !named.contains(name));
            for (result, sender) in results.into_iter().zip(senders) {
                // An error means that the caller no longer waits for its result.
                let _ = sender.send(result);
            }
            drop(permit);
        });
    }
}

/// Asks for a list in parts that have room in one request. Each part waits for the answer to the
/// one before it, so that other callers have their turn in between. A part that Kafka refuses does
/// not stop those after it; the result is the first error.
async fn ask_in_parts<T: Send + 'static>(
    queue: &Queue<Vec<T>, ()>,
    mut list: Vec<T>,
) -> AdminResult<()> {
    let mut result = Ok(());
    while !list.is_empty() {
        let rest = list.split_off(list.len().min(WEIGHT_MAX));
        let asked = queue.ask(std::mem::replace(&mut list, rest)).await;
        // The others would find Kafka as this part did.
        let ends = asked.as_ref().is_err_and(AdminError::is_transient);
        result = result.and(asked);
        if ends {
            break;
        }
    }
    result
}

/// An admin client whose callers share requests. Its queues end when it is dropped.
pub struct BatchedAdmin {
    admin: Arc<dyn Admin>,
    create_topics: Queue<NewTopic, ()>,
    create_partitions: Queue<(String, i32), ()>,
    delete_topics: Queue<uuid::Uuid, ()>,
    alter_configs: Queue<(ConfigResource, ConfigChanges), ()>,
    count_records: Queue<Leaders, i64>,
    create_acls: Queue<Vec<AclBinding>, ()>,
    delete_acls: Queue<Vec<AclBinding>, ()>,
    alter_scram: Queue<ScramChange, ()>,
    alter_quotas: Queue<QuotaChange, ()>,
}

/// `queue!(admin, method, weight, names)`: a queue whose batches go to `method`.
macro_rules! queue {
    ($admin:expr, $method:ident, $weight:expr, $names:expr) => {{
        let admin = Arc::clone(&$admin);
        Queue::new(
            Part {
                weight: $weight,
                names: |item| Some($names(item)),
            },
            move |items: Vec<_>| {
                let admin = Arc::clone(&admin);
                Box::pin(async move { admin.$method(&items).await })
            },
        )
    }};
}

/// The same for parts that are lists: the result of a part is its first error.
macro_rules! queue_of_lists {
    ($admin:expr, $method:ident) => {{
        let admin = Arc::clone(&$admin);
        Queue::new(
            Part {
                weight: Vec::len,
                names: |_| None,
            },
            move |lists: Vec<Vec<_>>| {
                let admin = Arc::clone(&admin);
                Box::pin(async move {
                    let lengths: Vec<usize> = lists.iter().map(Vec::len).collect();
                    let mut results = admin.$method(&lists.concat()).await.into_iter();
                    lengths
                        .into_iter()
                        .map(|length| results.by_ref().take(length).fold(Ok(()), AdminResult::and))
                        .collect()
                })
            },
        )
    }};
}

impl BatchedAdmin {
    /// Needs a Tokio runtime: each queue is a task.
    pub fn new(admin: Arc<dyn Admin>) -> Self {
        let new_topic_weight =
            |topic: &NewTopic| topic.partitions.unsigned_abs() as usize + topic.config.len();
        Self {
            create_topics: queue!(
                admin,
                create_topics,
                new_topic_weight,
                |topic: &NewTopic| topic.name.clone()
            ),
            create_partitions: queue!(
                admin,
                create_partitions,
                |(_, count): &(String, i32)| count.unsigned_abs() as usize,
                |(topic, _): &(String, i32)| topic.clone()
            ),
            delete_topics: queue!(admin, delete_topics, |_| 1, uuid::Uuid::to_string),
            alter_configs: queue!(
                admin,
                alter_configs,
                |(_, changes): &(ConfigResource, ConfigChanges)| changes.len(),
                |(resource, _): &(ConfigResource, ConfigChanges)| resource.to_string()
            ),
            count_records: queue!(
                admin,
                count_records,
                |leaders: &Leaders| leaders.partitions.len(),
                |leaders: &Leaders| leaders.topic.clone()
            ),
            create_acls: queue_of_lists!(admin, create_acls),
            delete_acls: queue_of_lists!(admin, delete_acls),
            alter_scram: queue!(admin, alter_scram, |_| 1, |change: &ScramChange| change
                .user()
                .to_owned()),
            alter_quotas: queue!(
                admin,
                alter_quotas,
                |change: &QuotaChange| change.quotas.len(),
                |change: &QuotaChange| change.user.clone()
            ),
            admin,
        }
    }

    /// The client without batching, for requests about a whole cluster.
    pub fn direct(&self) -> &dyn Admin {
        self.admin.as_ref()
    }

    /// Creates a topic.
    pub async fn create_topic(&self, topic: NewTopic) -> AdminResult<()> {
        self.create_topics.ask(topic).await
    }
    /// Raises the number of partitions of a topic to `count`.
    pub async fn create_partitions(&self, topic: String, count: i32) -> AdminResult<()> {
        self.create_partitions.ask((topic, count)).await
    }
    /// Deletes a topic by id; one that no longer exists is no error.
    pub async fn delete_topic(&self, id: uuid::Uuid) -> AdminResult<()> {
        self.delete_topics.ask(id).await
    }
    /// Changes configs of one resource.
    pub async fn alter_config(
        &self,
        resource: ConfigResource,
        changes: ConfigChanges,
    ) -> AdminResult<()> {
        self.alter_configs.ask((resource, changes)).await
    }
    /// Moves partitions of one topic. Returns the first error.
    pub async fn reassign(&self, moves: Vec<Reassignment>) -> AdminResult<()> {
        self.admin.reassign(&moves).await.into_iter().collect()
    }
    /// Counts the records of one topic: see [`Admin::count_records`].
    pub async fn count_records(&self, leaders: Leaders) -> AdminResult<i64> {
        self.count_records.ask(leaders).await
    }
    /// Creates ACLs; the result is the first error.
    pub async fn create_acls(&self, acls: Vec<AclBinding>) -> AdminResult<()> {
        ask_in_parts(&self.create_acls, acls).await
    }
    /// Deletes ACLs; the result is the first error.
    pub async fn delete_acls(&self, acls: Vec<AclBinding>) -> AdminResult<()> {
        ask_in_parts(&self.delete_acls, acls).await
    }
    /// Changes the SCRAM credential of one user.
    pub async fn alter_scram(&self, change: ScramChange) -> AdminResult<()> {
        self.alter_scram.ask(change).await
    }
    /// Changes the quotas of one user.
    pub async fn alter_quotas(&self, change: QuotaChange) -> AdminResult<()> {
        self.alter_quotas.ask(change).await
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeCluster;
    use super::*;

    fn topic(name: String) -> NewTopic {
        NewTopic {
            name,
            partitions: 1,
            replicas: 1,
            config: BTreeMap::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_share_requests_and_each_gets_its_own_result() {
        let fake = Arc::new(FakeCluster::default());
        let admin = BatchedAdmin::new(Arc::clone(&fake) as Arc<dyn Admin>);
        fake.create_topics(&[topic("t7".into())]).await;
        let asked = (0..100).map(|index| admin.create_topic(topic(format!("t{index}"))));
        let results = futures::future::join_all(asked).await;
        let refused: Vec<_> = results
            .iter()
            .enumerate()
            .filter(|(_, result)| result.is_err())
            .map(|(index, _)| index)
            .collect();
        assert_eq!(refused, [7], "the one that was there");
        let calls = fake.state().calls;
        assert!(calls <= 4, "{calls} calls for 101 topics");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_bounded_by_what_it_makes_the_controller_write() {
        let fake = Arc::new(FakeCluster::default());
        let admin = BatchedAdmin::new(Arc::clone(&fake) as Arc<dyn Admin>);
        let large = |index: i32| NewTopic {
            partitions: 400,
            ..topic(format!("t{index}"))
        };
        futures::future::join_all((0..6).map(|index| admin.create_topic(large(index)))).await;
        assert_eq!(
            fake.state().calls,
            3,
            "two of 400 partitions are as many as go together"
        );
    }

    fn acls(user: &str, count: usize) -> Vec<AclBinding> {
        let acl = |index| AclBinding {
            resource_type: 2,
            resource_name: format!("topic-{index}"),
            pattern_type: 3,
            principal: format!("User:{user}"),
            host: "*".into(),
            operation: 3,
            permission: 3,
        };
        (0..count).map(acl).collect()
    }

    fn acls_of(fake: &FakeCluster, user: &str) -> usize {
        let state = fake.state();
        let principal = state.image.principal(user);
        principal.map_or(0, |principal| principal.acls().count())
    }

    /// The controller refuses an operation of more than 10 000 records, with all that is in it.
    #[tokio::test(start_paused = true)]
    async fn twelve_thousand_acls_are_made_and_deleted_and_hold_up_nobody() {
        let fake = Arc::new(FakeCluster::default());
        let admin = BatchedAdmin::new(Arc::clone(&fake) as Arc<dyn Admin>);
        let done = Mutex::new(Vec::new());
        let (heavy, light) = (acls("heavy", 12_000), acls("light", 1));
        let create = async |user: &'static str, acls: &[AclBinding]| {
            admin.create_acls(acls.to_vec()).await.unwrap();
            done.lock().unwrap().push(user);
        };
        futures::join!(create("heavy", &heavy), create("light", &light));
        assert_eq!(acls_of(&fake, "heavy"), 12_000);
        let delete = async |user: &'static str, acls: &[AclBinding]| {
            admin.delete_acls(acls.to_vec()).await.unwrap();
            done.lock().unwrap().push(user);
        };
        futures::join!(delete("heavy", &heavy), delete("light", &light));
        assert_eq!((acls_of(&fake, "heavy"), acls_of(&fake, "light")), (0, 0));
        assert_eq!(*done.lock().unwrap(), ["light", "heavy", "light", "heavy"]);
        let most = fake.state().acl_requests.iter().max().copied();
        assert_eq!(most, Some(WEIGHT_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn one_acl_that_kafka_refuses_stops_none_of_a_long_list() {
        let fake = Arc::new(FakeCluster::default());
        let admin = BatchedAdmin::new(Arc::clone(&fake) as Arc<dyn Admin>);
        let mut many = acls("heavy", 2500);
        many[7].principal = "nobody".into();
        let error = admin.create_acls(many).await.unwrap_err();
        assert!(error.is("InvalidRequest"), "{error}");
        assert_eq!(acls_of(&fake, "heavy"), 2499);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_of_the_same_thing_go_one_after_the_other_and_each_gets_its_result() {
        let fake = Arc::new(FakeCluster::default());
        let admin = BatchedAdmin::new(Arc::clone(&fake) as Arc<dyn Admin>);
        fake.create_topics(&[topic("t".into()), topic("u".into())])
            .await;
        let change = |name: &str, value: &str| {
            let changes = BTreeMap::from([("retention.ms".to_owned(), Some(value.to_owned()))]);
            admin.alter_config(ConfigResource::Topic(name.into()), changes)
        };
        let results = futures::join!(
            change("t", "1"),
            change("u", "1"),
            change("t", "2"),
            change("t", "3"),
            change("u", "2")
        );
        for result in [results.0, results.1, results.2, results.3, results.4] {
            result.unwrap();
        }
        let state = fake.state();
        let found = |name: &str| {
            state
                .image
                .topic(name)
                .unwrap()
                .config
                .get("retention.ms")
                .map(str::to_owned)
        };
        assert_eq!(
            [found("t"), found("u")],
            [Some("3".to_owned()), Some("2".to_owned())],
            "in the order in which they were asked"
        );
    }
}
