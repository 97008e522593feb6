//! Many callers, few requests: what is asked for within a few milliseconds goes out together, and each caller gets the
//! result of its own part. Queues are bounded by making callers wait; nothing is dropped.

use super::*;
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

/// How long the first waits for others: less than a request takes.
const LINGER: Duration = Duration::from_millis(3);
/// The same while many come: each request costs every broker something, whatever is in it.
const LINGER_BUSY: Duration = Duration::from_millis(50);
/// So many in the batch before are many.
const BUSY: usize = 4;
/// Callers that may wait in a queue before others wait to get into it.
const QUEUE_MAX: usize = 4096;
/// Requests of one kind on their way. The controller does one after the other; a second is ready when it is done.
const IN_FLIGHT_MAX: usize = 2;
/// A request stays far below what the controller takes as one operation (10 000 records, KRaft's
/// `MAX_RECORDS_PER_USER_OP`), and small enough that it never holds others up for long.
const WEIGHT_MAX: usize = 1000;
const ITEMS_MAX: usize = 200;

type Waiting<I, O> = (I, oneshot::Sender<AdminResult<O>>);

/// A queue for one kind of request.
struct Queue<I, O>(mpsc::Sender<Waiting<I, O>>);

impl<I: Send + 'static, O: Send + 'static> Queue<I, O> {
    /// `weight`: the metadata records that a part makes, about.
    fn new(weight: fn(&I) -> usize, call: impl Fn(Vec<I>) -> BoxFuture<'static, Each<O>> + Send + Sync + 'static) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run(receiver, weight, Arc::new(call)));
        Self(sender)
    }

    async fn ask(&self, item: I) -> AdminResult<O> {
        let closed = || AdminError::Unavailable("the client was closed".into());
        let (sender, receiver) = oneshot::channel();
        self.0.send((item, sender)).await.map_err(|_| closed())?;
        receiver.await.map_err(|_| closed())?
    }
}

async fn run<I: Send + 'static, O: Send + 'static>(
    mut receiver: mpsc::Receiver<Waiting<I, O>>,
    weight: fn(&I) -> usize,
    call: Arc<impl Fn(Vec<I>) -> BoxFuture<'static, Each<O>> + Send + Sync + 'static>,
) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let mut linger = LINGER;
    while let Some(first) = receiver.recv().await {
        let until = Instant::now() + linger;
        let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return };
        let mut heavy = weight(&first.0);
        let mut batch = vec![first];
        while batch.len() < ITEMS_MAX && heavy < WEIGHT_MAX {
            let Ok(Some(next)) = timeout_at(until, receiver.recv()).await else { break };
            heavy += weight(&next.0);
            batch.push(next);
        }
        linger = if batch.len() >= BUSY { LINGER_BUSY } else { LINGER };
        let call = Arc::clone(&call);
        tokio::spawn(async move {
            let (items, senders): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            for (result, sender) in call(items).await.into_iter().zip(senders) {
                // Who does not wait any more need not be told.
                let _ = sender.send(result);
            }
            drop(permit);
        });
    }
}

/// An admin client whose callers share requests. Its queues end with it.
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

/// `queue!(admin, method, weight)`: a queue whose batches go to `method`.
macro_rules! queue {
    ($admin:expr, $method:ident, $weight:expr) => {{
        let admin = Arc::clone(&$admin);
        Queue::new($weight, move |items: Vec<_>| {
            let admin = Arc::clone(&admin);
            Box::pin(async move { admin.$method(&items).await })
        })
    }};
}

/// The same for parts that are lists themselves: a part's result is its first error.
macro_rules! queue_of_lists {
    ($admin:expr, $method:ident) => {{
        let admin = Arc::clone(&$admin);
        Queue::new(Vec::len, move |lists: Vec<Vec<_>>| {
            let admin = Arc::clone(&admin);
            Box::pin(async move {
                let lengths: Vec<usize> = lists.iter().map(Vec::len).collect();
                let mut results = admin.$method(&lists.concat()).await.into_iter();
                lengths.into_iter().map(|length| results.by_ref().take(length).fold(Ok(()), AdminResult::and)).collect()
            })
        })
    }};
}

impl BatchedAdmin {
    /// Needs a runtime: each queue is a task.
    pub fn new(admin: Arc<dyn Admin>) -> Self {
        Self {
            create_topics: queue!(admin, create_topics, |topic: &NewTopic| topic.partitions.unsigned_abs() as usize + topic.config.len()),
            create_partitions: queue!(admin, create_partitions, |(_, count): &(String, i32)| count.unsigned_abs() as usize),
            delete_topics: queue!(admin, delete_topics, |_| 1),
            alter_configs: queue!(admin, alter_configs, |(_, changes): &(ConfigResource, ConfigChanges)| changes.len()),
            count_records: queue!(admin, count_records, |leaders: &Leaders| leaders.partitions.len()),
            create_acls: queue_of_lists!(admin, create_acls),
            delete_acls: queue_of_lists!(admin, delete_acls),
            alter_scram: queue!(admin, alter_scram, |_| 1),
            alter_quotas: queue!(admin, alter_quotas, |change: &QuotaChange| change.quotas.len()),
            admin,
        }
    }

    /// For what is asked once for a whole cluster.
    pub fn direct(&self) -> &dyn Admin {
        self.admin.as_ref()
    }

    pub async fn create_topic(&self, topic: NewTopic) -> AdminResult<()> {
        self.create_topics.ask(topic).await
    }
    pub async fn create_partitions(&self, topic: String, count: i32) -> AdminResult<()> {
        self.create_partitions.ask((topic, count)).await
    }
    pub async fn delete_topic(&self, id: uuid::Uuid) -> AdminResult<()> {
        self.delete_topics.ask(id).await
    }
    pub async fn alter_config(&self, resource: ConfigResource, changes: ConfigChanges) -> AdminResult<()> {
        self.alter_configs.ask((resource, changes)).await
    }
    /// The partitions of one topic; the first error, where there is one.
    pub async fn reassign(&self, moves: Vec<Reassignment>) -> AdminResult<()> {
        self.admin.reassign(&moves).await.into_iter().collect()
    }
    pub async fn count_records(&self, leaders: Leaders) -> AdminResult<i64> {
        self.count_records.ask(leaders).await
    }
    pub async fn create_acls(&self, acls: Vec<AclBinding>) -> AdminResult<()> {
        self.create_acls.ask(acls).await
    }
    pub async fn delete_acls(&self, acls: Vec<AclBinding>) -> AdminResult<()> {
        self.delete_acls.ask(acls).await
    }
    pub async fn alter_scram(&self, change: ScramChange) -> AdminResult<()> {
        self.alter_scram.ask(change).await
    }
    pub async fn alter_quotas(&self, change: QuotaChange) -> AdminResult<()> {
        self.alter_quotas.ask(change).await
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeCluster;
    use super::*;

    fn topic(name: String) -> NewTopic {
        NewTopic { name, partitions: 1, replicas: 1, config: BTreeMap::new() }
    }

    #[tokio::test]
    async fn many_callers_share_requests_and_each_gets_its_own_result() {
        let fake = Arc::new(FakeCluster::default());
        let admin = BatchedAdmin::new(Arc::clone(&fake) as Arc<dyn Admin>);
        fake.create_topics(&[topic("t7".into())]).await;
        let asked = (0..100).map(|index| admin.create_topic(topic(format!("t{index}"))));
        let results = futures::future::join_all(asked).await;
        let refused: Vec<_> = results.iter().enumerate().filter(|(_, result)| result.is_err()).map(|(index, _)| index).collect();
        assert_eq!(refused, [7], "the one that was there");
        let calls = fake.state().calls;
        assert!(calls <= 4, "{calls} calls for 101 topics");
    }

    #[tokio::test]
    async fn a_request_is_bounded_by_what_it_makes_the_controller_write() {
        let fake = Arc::new(FakeCluster::default());
        let admin = BatchedAdmin::new(Arc::clone(&fake) as Arc<dyn Admin>);
        let large = |index: i32| NewTopic { partitions: 600, ..topic(format!("t{index}")) };
        futures::future::join_all((0..6).map(|index| admin.create_topic(large(index)))).await;
        assert_eq!(fake.state().calls, 3, "two of 600 partitions are as many as go together");
    }
}
