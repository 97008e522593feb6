//! The client: one connection to each broker, requests to any broker that answers, and retries only
//! after retriable errors.

mod admin;
mod groups;
mod principals;
mod records;

use super::connection::{Connection, Endpoint};
use super::requests::check;
use super::sasl::ScramLogin;
use super::tls::TlsSettings;
use super::*;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::Request;
use std::collections::HashMap;
use std::sync::atomic::AtomicI32;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Time for one request. Brokers answer in milliseconds; the creation of a topic may take seconds.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Time for one call, with its connections and all its retries.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const RETRY_PAUSE: Duration = Duration::from_millis(150);
const REQUEST_LIMIT_MS: i32 = 10_000;
/// Time to ask for the load of a broker. A broker that knows its load answers at once.
const LOAD_LIMIT: Duration = Duration::from_secs(2);

/// A client of one cluster. Connections are opened on demand.
pub struct Client {
    pub(super) endpoints: Vec<Endpoint>,
    /// Nodes that are only controllers. The client asks them for what only the node itself knows.
    pub(super) controllers: Vec<Endpoint>,
    pub(super) tls: TlsSettings,
    pub(super) login: Option<ScramLogin>,
    pub(super) connections: Mutex<HashMap<i32, Arc<Connection>>>,
    /// The broker that answered last.
    pub(super) answered: AtomicI32,
    /// Nodes whose machines did not answer, and when the client noticed it.
    pub(super) silent: std::sync::Mutex<HashMap<i32, Instant>>,
    pub(super) call_limit: Duration,
}

impl Client {
    /// A client of these brokers. Does not connect yet. `login`: SCRAM; `None` for listeners that
    /// need none.
    pub fn new(endpoints: Vec<Endpoint>, tls: TlsSettings, login: Option<ScramLogin>) -> Self {
        Self {
            endpoints,
            controllers: Vec::new(),
            tls,
            login,
            connections: Mutex::default(),
            answered: AtomicI32::new(-1),
            silent: std::sync::Mutex::default(),
            call_limit: CALL_LIMIT,
        }
    }

    /// Adds the nodes that are only controllers.
    #[must_use]
    pub fn with_controllers(mut self, controllers: Vec<Endpoint>) -> Self {
        self.controllers = controllers;
        self
    }

    /// The brokers, and the controllers that are not brokers.
    pub fn endpoints(&self) -> (&[Endpoint], &[Endpoint]) {
        (&self.endpoints, &self.controllers)
    }

    /// Every topic as the metadata cache of a broker knows it. For callers that need Kafka's own
    /// answer instead of the metadata log that the operator follows.
    ///
    /// # Errors
    /// No broker answers, or the broker refuses the request.
    pub async fn describe_topics(&self) -> AdminResult<Vec<TopicDescription>> {
        let request = m::MetadataRequest::default()
            .with_topics(None)
            .with_allow_auto_topic_creation(false);
        let response = self.read(&request, 12).await?;
        let mut found = Vec::new();
        for topic in &response.topics {
            match check("Metadata", topic.error_code, None) {
                Err(error) if error.is("UnknownTopicOrPartition") || error.is("UnknownTopicId") => {
                    continue;
                }
                // The partition has no leader at the moment, but it exists.
                Err(error) if error.is("LeaderNotAvailable") => {}
                other => other?,
            }
            let ids = |list: &[m::BrokerId]| list.iter().map(|id| id.0).collect();
            let mut partitions: Vec<_> = topic
                .partitions
                .iter()
                .map(|partition| PartitionDescription {
                    index: partition.partition_index,
                    leader: partition.leader_id.0,
                    replicas: ids(&partition.replica_nodes),
                    in_sync: ids(&partition.isr_nodes),
                })
                .collect();
            partitions.sort_by_key(|partition| partition.index);
            let name = topic
                .name
                .as_ref()
                .map(|name| name.0.to_string())
                .unwrap_or_default();
            found.push(TopicDescription {
                name,
                id: topic.topic_id,
                internal: topic.is_internal,
                partitions,
            });
        }
        Ok(found)
    }

    /// Repeats a call while Kafka refuses it with a retriable error, at most for the call limit.
    async fn retry<T, F: Future<Output = AdminResult<T>>>(
        &self,
        mut call: impl FnMut(Instant) -> F,
    ) -> AdminResult<T> {
        let deadline = Instant::now() + self.call_limit;
        loop {
            match call(deadline).await {
                Err(
                    error @ AdminError::Refused {
                        retriable: true, ..
                    },
                ) if Instant::now() + RETRY_PAUSE < deadline => {
                    tracing::debug!(%error, "retrying");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// A request for many resources. It is repeated as a whole while no broker or controller
    /// accepts it; the response has one result for each resource.
    async fn each<R: Request, T>(
        &self,
        count: usize,
        request: &R,
        version_max: i16,
        results: impl Fn(R::Response) -> AdminResult<Each<T>>,
    ) -> Each<T> {
        if count == 0 {
            return Vec::new();
        }
        let results = &results;
        let answer = self
            .retry(|deadline| async move {
                results(self.send_until(deadline, request, version_max).await?)
            })
            .await;
        match answer {
            Ok(all) if all.len() == count => all,
            Ok(all) => failed(
                count,
                &AdminError::Protocol(format!("{} results for {count}", all.len())),
            ),
            Err(error) => failed(count, &error),
        }
    }
}

fn failed<T>(count: usize, error: &AdminError) -> Each<T> {
    (0..count).map(|_| Err(error.clone())).collect()
}

/// The results of a call, which are found by name, in the order of the request.
fn ordered<'a, T>(
    names: impl Iterator<Item = &'a str>,
    mut found: HashMap<String, AdminResult<T>>,
) -> Each<T> {
    let missing = |name: &str| Err(AdminError::Protocol(format!("no result for {name}")));
    names
        .map(|name| found.remove(name).unwrap_or_else(|| missing(name)))
        .collect()
}

/// When the controller handled no part of the request, the call as a whole failed and may be
/// repeated.
fn not_controller<T>(all: Each<T>) -> AdminResult<Each<T>> {
    match all.first() {
        Some(Err(error)) if error.is("NotController") => Err(error.clone()),
        _ => Ok(all),
    }
}

fn gone_is_fine(result: AdminResult<()>, names: &[&str]) -> AdminResult<()> {
    match result {
        Err(error) if names.iter().any(|name| error.is(name)) => Ok(()),
        other => other,
    }
}
