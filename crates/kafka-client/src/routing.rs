//! Decides which broker a request goes to: first the one that answered last; if it does not answer,
//! another one in addition; all within one time limit.

use super::client::{Client, REQUEST_LIMIT};
use super::connection::{Connection, Endpoint, first_of};
use super::{AdminError, AdminResult};
use kafka_protocol::protocol::Request;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// A connection in the same network takes milliseconds. After this time the next broker is tried in
/// addition.
const CONNECT_PAUSE: Duration = Duration::from_millis(250);
/// If a broker does not answer a read within this time, the next broker is asked in addition.
const READ_PAUSE: Duration = Duration::from_secs(1);
/// If a connection attempt takes longer than this and fails, the machine is taken not to answer.
const SILENCE: Duration = Duration::from_secs(2);
/// For this time after that, the client does not wait for a broker on that machine.
const SILENT_FOR: Duration = Duration::from_secs(10);

impl Client {
    pub(super) async fn connection(&self, endpoint: &Endpoint) -> AdminResult<Arc<Connection>> {
        let open = self
            .connections
            .lock()
            .await
            .get(&endpoint.node_id)
            .filter(|connection| connection.is_open())
            .cloned();
        if let Some(connection) = open {
            return Ok(connection);
        }
        let start = Instant::now();
        let opened = Connection::open(endpoint, &self.tls, self.login.as_ref()).await;
        self.note(endpoint.node_id, opened.is_ok(), start.elapsed());
        let connection = Arc::new(opened?);
        self.connections
            .lock()
            .await
            .insert(endpoint.node_id, Arc::clone(&connection));
        Ok(connection)
    }

    fn note(&self, node_id: i32, connected: bool, took: Duration) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if connected {
            silent.remove(&node_id);
        } else if took > SILENCE {
            silent.insert(node_id, Instant::now());
        }
    }

    fn is_silent(&self, node_id: i32) -> bool {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent
            .get(&node_id)
            .is_some_and(|seen| seen.elapsed() < SILENT_FOR)
    }

    /// The brokers in the order in which they are asked: connected ones first, then those on
    /// machines that answer, and the one that answered last before the others.
    async fn order(&self) -> Vec<&Endpoint> {
        let connections = self.connections.lock().await;
        let is_open = |id: i32| {
            connections
                .get(&id)
                .is_some_and(|connection| connection.is_open())
        };
        let answered = self.answered.load(Ordering::Relaxed);
        let mut order: Vec<&Endpoint> = self.endpoints.iter().collect();
        order.sort_by_cached_key(|endpoint| {
            let id = endpoint.node_id;
            (!is_open(id), self.is_silent(id), id != answered)
        });
        order
    }

    async fn until<T>(
        &self,
        deadline: Instant,
        call: impl Future<Output = AdminResult<T>>,
    ) -> AdminResult<T> {
        timeout_at(deadline, call)
            .await
            .unwrap_or(Err(AdminError::Deadline(self.call_limit.as_secs())))
    }

    /// Sends to one broker after another until one answers. Brokers forward requests for the
    /// controller (KIP-590), so a retry is enough after a change of the active controller.
    ///
    /// # Errors
    /// No broker answers, or the answer cannot be read. Error codes in the answer are not checked.
    pub async fn send<R: Request>(
        &self,
        request: &R,
        version_max: i16,
    ) -> AdminResult<R::Response> {
        self.send_until(Instant::now() + self.call_limit, request, version_max)
            .await
    }

    pub(super) async fn send_until<R: Request>(
        &self,
        deadline: Instant,
        request: &R,
        version_max: i16,
    ) -> AdminResult<R::Response> {
        let sent = async {
            let mut left = self.order().await;
            loop {
                let (endpoint, connection) =
                    first_of(&left, CONNECT_PAUSE, |endpoint| self.connection(endpoint)).await?;
                match connection.send(request, version_max, REQUEST_LIMIT).await {
                    Err(AdminError::Unavailable(_)) if left.len() > 1 => {
                        left.retain(|one| one.node_id != endpoint.node_id)
                    }
                    answer => {
                        if answer.is_ok() {
                            self.answered.store(endpoint.node_id, Ordering::Relaxed);
                        }
                        return answer;
                    }
                }
            }
        };
        self.until(deadline, sent).await
    }

    /// The same for requests that change nothing: if a broker does not answer within
    /// [`READ_PAUSE`], another one is asked in addition.
    pub(super) async fn read<R: Request>(
        &self,
        request: &R,
        version_max: i16,
    ) -> AdminResult<R::Response> {
        let order = self.order().await;
        let ask = |endpoint| async move {
            let answer = self
                .connection(endpoint)
                .await?
                .send(request, version_max, REQUEST_LIMIT)
                .await;
            match answer {
                Err(error @ (AdminError::Unavailable(_) | AdminError::Deadline(_))) => Err(error),
                answer => Ok(answer),
            }
        };
        let connected = match order.first() {
            Some(first) => self
                .connections
                .lock()
                .await
                .get(&first.node_id)
                .is_some_and(|connection| connection.is_open()),
            None => false,
        };
        let pause = if connected { READ_PAUSE } else { CONNECT_PAUSE };
        let (endpoint, answer) = self
            .until(
                Instant::now() + self.call_limit,
                first_of(&order, pause, ask),
            )
            .await?;
        self.answered.store(endpoint.node_id, Ordering::Relaxed);
        answer
    }

    /// Sends to the broker with this id. ListOffsets, for example, must go to the leader.
    pub(super) async fn send_to<R: Request>(
        &self,
        id: i32,
        request: &R,
        version_max: i16,
    ) -> AdminResult<R::Response> {
        let endpoint = self
            .endpoints
            .iter()
            .chain(&self.controllers)
            .find(|endpoint| endpoint.node_id == id);
        let endpoint = endpoint
            .ok_or_else(|| AdminError::Unavailable(format!("broker {id} has no address")))?;
        if self.is_silent(id) {
            return Err(AdminError::Unavailable(format!(
                "broker {id} did not answer some seconds ago"
            )));
        }
        let sent = async {
            self.connection(endpoint)
                .await?
                .send(request, version_max, REQUEST_LIMIT)
                .await
        };
        self.until(Instant::now() + self.call_limit, sent).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::loopback::{Broker, Loopback};
    use super::super::*;
    use super::*;
    use bytes::Bytes;
    use kafka_protocol::messages as m;
    use tokio::time::timeout;

    fn client(net: &Loopback, brokers: &[&Broker]) -> Client {
        Client::new(
            brokers
                .iter()
                .map(|broker| broker.endpoint.clone())
                .collect(),
            net.tls(),
            None,
        )
    }

    async fn asked(client: &Client) -> (AdminResult<ClusterDescription>, Duration) {
        let start = Instant::now();
        (client.describe_cluster().await, start.elapsed())
    }

    /// Tries until a try finds nothing to say: a busy machine is slow now and then, and what waits
    /// for a broker that is silent is slow each time.
    async fn once_quick(attempt: impl AsyncFn() -> Result<(), String>) {
        let mut said = Vec::new();
        while let Err(why) = attempt().await {
            said.push(why);
            assert!(said.len() < 10, "slow each time: {said:#?}");
        }
    }

    /// `Err`: it is not so, which a busy machine may have done.
    fn check(is_so: bool, what: &str, took: Duration) -> Result<(), String> {
        is_so
            .then_some(())
            .ok_or_else(|| format!("{what}: {took:?}"))
    }

    #[tokio::test]
    async fn a_first_address_that_never_answers_costs_a_moment_and_only_once() {
        let net = Loopback::new();
        once_quick(async || {
            let (mute, other, good) = (net.mute(1).await, net.mute(2).await, net.broker(3).await);
            let client = client(&net, &[&mute, &other, &good]);
            let (answer, took) = asked(&client).await;
            assert_eq!(answer.unwrap().cluster_id, "loopback");
            check(took < Duration::from_secs(3), "the first look", took)?;
            let (answer, took) = asked(&client).await;
            assert!(answer.is_ok(), "{answer:?}");
            check(
                took < READ_PAUSE,
                "the one that answered last is asked first",
                took,
            )?;
            let sent = client.send(&m::DescribeClusterRequest::default(), 2).await;
            assert!(sent.is_ok(), "{sent:?}");
            check(
                good.connections.load(Ordering::Relaxed) == 1,
                "what changes something takes the same way",
                took,
            )
        })
        .await;
    }

    #[tokio::test]
    async fn a_broker_that_falls_silent_holds_up_one_look_for_a_moment() {
        let net = Loopback::new();
        once_quick(async || {
            let (first, second) = (net.broker(1).await, net.broker(2).await);
            let client = client(&net, &[&first, &second]);
            asked(&client).await.0.unwrap();
            first.fall_silent();
            let (answer, took) = asked(&client).await;
            assert!(answer.is_ok(), "{answer:?}");
            check(took < READ_PAUSE * 3, "the look that is held up", took)?;
            let (answer, took) = asked(&client).await;
            assert!(answer.is_ok(), "{answer:?}");
            check(took < READ_PAUSE, "the look after it", took)?;
            let connections = [&first, &second].map(|broker| &broker.connections);
            let connections = connections.map(|count| count.load(Ordering::Relaxed));
            check(connections == [1, 1], "one connection to each", took)
        })
        .await;
    }

    #[tokio::test]
    async fn a_connection_on_which_a_caller_gave_up_is_not_used_again() {
        let net = Loopback::new();
        once_quick(async || {
            let broker = net.broker(1).await;
            let client = client(&net, &[&broker]);
            asked(&client).await.0.unwrap();
            broker.fall_silent();
            let request = m::DescribeClusterRequest::default();
            let sent = timeout(Duration::from_millis(700), client.send(&request, 2)).await;
            assert!(sent.is_err(), "{sent:?}");
            broker.silent.store(false, Ordering::Relaxed);
            let (answer, took) = asked(&client).await;
            assert!(answer.is_ok(), "{answer:?}");
            check(took < READ_PAUSE, "the look on a new connection", took)?;
            let connections = broker.connections.load(Ordering::Relaxed);
            check(connections == 2, "the connection is a new one", took)
        })
        .await;
    }

    #[tokio::test]
    async fn a_call_has_one_budget_however_many_addresses_are_silent() {
        let net = Loopback::new();
        once_quick(async || {
            let (a, b, c) = (net.mute(1).await, net.mute(2).await, net.mute(3).await);
            let client = Client {
                call_limit: Duration::from_millis(600),
                ..client(&net, &[&a, &b, &c])
            };
            let (answer, took) = asked(&client).await;
            assert!(answer.is_err(), "{answer:?}");
            let is_late = matches!(answer, Err(AdminError::Deadline(_)));
            check(is_late && took < Duration::from_secs(3), "a look", took)?;
            let start = Instant::now();
            let mut made = client.create_partitions(&[("t".into(), 2)]).await;
            assert!(made.remove(0).is_err());
            let took = start.elapsed();
            check(took < Duration::from_secs(3), "with all its retries", took)
        })
        .await;
    }

    #[tokio::test]
    async fn half_a_frame_closes_its_connection() {
        let net = Loopback::new();
        once_quick(async || {
            let broker = net.broker(1).await;
            let connection = Connection::open(&broker.endpoint, &net.tls(), None)
                .await
                .unwrap();
            broker.fall_silent();
            let small = m::DescribeClusterRequest::default();
            // The broker reads this request, and then nothing more.
            let (start, sent) = (Instant::now(), connection.send(&small, 2, REQUEST_LIMIT));
            let sent = timeout(Duration::from_millis(50), sent).await;
            assert!(sent.is_err(), "{sent:?}");
            check(connection.is_open(), "it may be slow", start.elapsed())?;
            let large = m::DescribeClusterRequest::default()
                .with_unknown_tagged_fields([(7, Bytes::from(vec![0; 16 << 20]))].into());
            // More bytes than the socket buffers hold.
            let sent = connection.send(&large, 2, REQUEST_LIMIT);
            assert!(timeout(Duration::from_millis(300), sent).await.is_err());
            assert!(!connection.is_open());
            let next = connection.send(&small, 2, REQUEST_LIMIT).await;
            assert!(
                matches!(next, Err(AdminError::Unavailable(_))),
                "nothing is written after it"
            );
            Ok(())
        })
        .await;
    }
}
