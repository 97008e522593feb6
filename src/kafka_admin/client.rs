//! The client: a connection to each broker, requests to any that answers, retries on retriable errors only.

use super::connection::{Connection, Endpoint};
use super::requests::{
    acl_creation, acl_filter, acls_named, alter_configs_request, alter_folders_request, altered, check, config_resource, text, topic_name,
};
use super::sasl::ScramLogin;
use super::tls::TlsSettings;
use super::*;
use crate::kafka::metadata_record::SCRAM_SHA_512;
use crate::kafka::{grants, load};
use bytes::Bytes;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::Request;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// One request's time; brokers answer in milliseconds, a topic's creation may take seconds.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A call with all its retries.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const RETRY_PAUSE: Duration = Duration::from_millis(150);
const REQUEST_LIMIT_MS: i32 = 10_000;

/// A client of one cluster. Cheap to share; connections open on demand.
pub struct Client {
    endpoints: Vec<Endpoint>,
    /// Nodes that are controllers only: asked for what each node knows by itself.
    controllers: Vec<Endpoint>,
    tls: TlsSettings,
    login: Option<ScramLogin>,
    connections: Mutex<HashMap<i32, Arc<Connection>>>,
}

impl Client {
    pub fn new(endpoints: Vec<Endpoint>, tls: TlsSettings, login: Option<ScramLogin>) -> Self {
        Self { endpoints, controllers: Vec::new(), tls, login, connections: Mutex::default() }
    }

    /// With the nodes that are controllers only.
    #[must_use]
    pub fn with_controllers(mut self, controllers: Vec<Endpoint>) -> Self {
        self.controllers = controllers;
        self
    }

    /// Brokers, and controllers that are no brokers.
    pub fn endpoints(&self) -> (&[Endpoint], &[Endpoint]) {
        (&self.endpoints, &self.controllers)
    }

    async fn connection(&self, endpoint: &Endpoint) -> AdminResult<Arc<Connection>> {
        let open = self.connections.lock().await.get(&endpoint.node_id).filter(|connection| connection.is_open()).cloned();
        if let Some(connection) = open {
            return Ok(connection);
        }
        let connection = Arc::new(Connection::open(endpoint, &self.tls, self.login.as_ref()).await?);
        self.connections.lock().await.insert(endpoint.node_id, Arc::clone(&connection));
        Ok(connection)
    }

    /// Sends to one broker after another until one answers. Brokers forward what is the controller's (KIP-590), so
    /// that a change of controller is followed by trying again.
    ///
    /// # Errors
    /// No broker that answers, or an answer that cannot be read. What is in the answer is not looked at.
    pub async fn send<R: Request>(&self, request: &R, version_max: i16) -> AdminResult<R::Response> {
        let mut last = AdminError::Unavailable("no broker has an address yet".into());
        for endpoint in &self.endpoints {
            match self.connection(endpoint).await {
                Err(error) => last = error,
                Ok(connection) => match connection.send(request, version_max, REQUEST_LIMIT).await {
                    Err(error @ AdminError::Unavailable(_)) => last = error,
                    answer => return answer,
                },
            }
        }
        Err(last)
    }

    /// Every topic as a broker's metadata cache knows it: for those who ask Kafka itself, beside the log that the operator follows.
    ///
    /// # Errors
    /// No broker that answers, or one that refuses.
    pub async fn describe_topics(&self) -> AdminResult<Vec<TopicDescription>> {
        let request = m::MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let response = self.send(&request, 12).await?;
        let mut found = Vec::new();
        for topic in &response.topics {
            match check("Metadata", topic.error_code, None) {
                Err(error) if error.is("UnknownTopicOrPartition") || error.is("UnknownTopicId") => continue,
                // Without a leader for the moment; the partitions are there.
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
            let name = topic.name.as_ref().map(|name| name.0.to_string()).unwrap_or_default();
            found.push(TopicDescription { name, id: topic.topic_id, internal: topic.is_internal, partitions });
        }
        Ok(found)
    }

    /// Repeats a call while Kafka says that it may succeed later, up to [`CALL_LIMIT`].
    async fn retry<T, F: Future<Output = AdminResult<T>>>(&self, mut call: impl FnMut() -> F) -> AdminResult<T> {
        let start = Instant::now();
        loop {
            match call().await {
                Err(error @ AdminError::Refused { retriable: true, .. }) if start.elapsed() < CALL_LIMIT => {
                    tracing::debug!(%error, "retrying");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// Sends to the broker with this id, as ListOffsets asks for.
    async fn send_to<R: Request>(&self, id: i32, request: &R, version_max: i16) -> AdminResult<R::Response> {
        let endpoint = self.endpoints.iter().chain(&self.controllers).find(|endpoint| endpoint.node_id == id);
        let endpoint = endpoint.ok_or_else(|| AdminError::Unavailable(format!("broker {id} has no address")))?;
        self.connection(endpoint).await?.send(request, version_max, REQUEST_LIMIT).await
    }

    /// Sum of each topic's offsets at a timestamp: -1 the end, -2 the start. One request to each leader.
    async fn offsets(&self, topics: &[Leaders], timestamp: i64) -> Each<i64> {
        use m::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
        let mut by_leader: BTreeMap<i32, BTreeMap<&str, Vec<ListOffsetsPartition>>> = BTreeMap::new();
        for topic in topics {
            for (partition, leader) in &topic.partitions {
                let asked = ListOffsetsPartition::default()
                    .with_partition_index(*partition)
                    .with_current_leader_epoch(-1)
                    .with_timestamp(timestamp);
                by_leader.entry(*leader).or_default().entry(&topic.topic).or_default().push(asked);
            }
        }
        let asked = by_leader.into_iter().map(|(leader, topics)| async move {
            let names: Vec<&str> = topics.keys().copied().collect();
            let topics = topics
                .into_iter()
                .map(|(name, partitions)| ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions));
            // The default of replica_id is broker 0; a client is -1.
            let request = m::ListOffsetsRequest::default().with_replica_id(m::BrokerId(-1)).with_topics(topics.collect());
            (names, self.send_to(leader, &request, 7).await)
        });
        let mut sums: HashMap<String, AdminResult<i64>> = HashMap::new();
        for (names, answer) in futures::future::join_all(asked).await {
            match answer {
                Err(error) => sums.extend(names.into_iter().map(|name| (name.to_owned(), Err(error.clone())))),
                Ok(response) => {
                    for topic in response.topics {
                        let sum = sums.entry(topic.name.0.to_string()).or_insert(Ok(0));
                        for partition in &topic.partitions {
                            match check("ListOffsets", partition.error_code, None) {
                                Err(error) => *sum = Err(error),
                                Ok(()) => *sum = sum.clone().map(|sum| sum + partition.offset),
                            }
                        }
                    }
                }
            }
        }
        let missing = || Err(AdminError::Protocol("ListOffsets without the topic".into()));
        topics
            .iter()
            .map(|topic| if topic.partitions.is_empty() { Ok(0) } else { sums.remove(&topic.topic).unwrap_or_else(missing) })
            .collect()
    }

    /// A call for many: repeated as a whole while no broker or controller takes it at all; what comes back is for each.
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
        let answer = self.retry(|| async { results(self.send(request, version_max).await?) }).await;
        match answer {
            Ok(all) if all.len() == count => all,
            Ok(all) => failed(count, &AdminError::Protocol(format!("{} results for {count}", all.len()))),
            Err(error) => failed(count, &error),
        }
    }
}

fn failed<T>(count: usize, error: &AdminError) -> Each<T> {
    (0..count).map(|_| Err(error.clone())).collect()
}

/// The results of a call by name, in the order in which they were asked.
fn ordered<'a, T>(names: impl Iterator<Item = &'a str>, mut found: HashMap<String, AdminResult<T>>) -> Each<T> {
    let missing = |name: &str| Err(AdminError::Protocol(format!("no result for {name}")));
    names.map(|name| found.remove(name).unwrap_or_else(|| missing(name))).collect()
}

/// When nothing was done for any: the call as a whole failed, and may be repeated as one.
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

#[async_trait]
impl Admin for Client {
    async fn describe_cluster(&self) -> AdminResult<ClusterDescription> {
        let request = m::DescribeClusterRequest::default().with_endpoint_type(1).with_include_fenced_brokers(true);
        let response = self.send(&request, 2).await?;
        check("DescribeCluster", response.error_code, response.error_message.as_ref())?;
        let brokers = response.brokers.iter().map(|broker| BrokerDescription {
            id: broker.broker_id.0,
            fenced: broker.is_fenced,
            rack: broker.rack.as_ref().map(|rack| rack.to_string()),
        });
        Ok(ClusterDescription { cluster_id: response.cluster_id.to_string(), brokers: brokers.collect() })
    }

    async fn describe_quorum(&self) -> AdminResult<QuorumDescription> {
        use m::describe_quorum_request::{PartitionData, TopicData};
        let topic = TopicData::default().with_topic_name(topic_name("__cluster_metadata")).with_partitions(vec![PartitionData::default()]);
        let request = m::DescribeQuorumRequest::default().with_topics(vec![topic]);
        let response = self.send(&request, 2).await?;
        check("DescribeQuorum", response.error_code, response.error_message.as_ref())?;
        let partition = response.topics.first().and_then(|topic| topic.partitions.first());
        let partition = partition.ok_or_else(|| AdminError::Protocol("DescribeQuorum without a partition".into()))?;
        check("DescribeQuorum", partition.error_code, partition.error_message.as_ref())?;
        let states = |list: &[m::describe_quorum_response::ReplicaState]| {
            list.iter()
                .map(|state| ReplicaState {
                    id: state.replica_id.0,
                    directory: state.replica_directory_id,
                    log_end_offset: state.log_end_offset,
                    last_fetch_ms: state.last_fetch_timestamp,
                })
                .collect()
        };
        Ok(QuorumDescription {
            leader: partition.leader_id.0,
            high_watermark: partition.high_watermark,
            voters: states(&partition.current_voters),
            observers: states(&partition.observers),
        })
    }

    async fn create_topics(&self, topics: &[NewTopic]) -> Each<()> {
        use m::create_topics_request::{CreatableTopic, CreatableTopicConfig};
        let creatable = topics.iter().map(|topic| {
            let configs =
                topic.config.iter().map(|(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
            CreatableTopic::default()
                .with_name(topic_name(&topic.name))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replicas)
                .with_configs(configs.collect())
        });
        let request = m::CreateTopicsRequest::default().with_topics(creatable.collect()).with_timeout_ms(REQUEST_LIMIT_MS);
        self.each(topics.len(), &request, 7, |response| {
            let results = response.topics.iter();
            let found = results
                .map(|topic| (topic.name.0.to_string(), check("CreateTopics", topic.error_code, topic.error_message.as_ref())))
                .collect();
            not_controller(ordered(topics.iter().map(|topic| topic.name.as_str()), found))
        })
        .await
    }

    async fn create_partitions(&self, topics: &[(String, i32)]) -> Each<()> {
        // An empty list of assignments would mean that there are none to choose from; None lets Kafka choose.
        let more = topics.iter().map(|(topic, count)| {
            m::create_partitions_request::CreatePartitionsTopic::default()
                .with_name(topic_name(topic))
                .with_count(*count)
                .with_assignments(None)
        });
        let request = m::CreatePartitionsRequest::default().with_topics(more.collect()).with_timeout_ms(REQUEST_LIMIT_MS);
        self.each(topics.len(), &request, 3, |response| {
            let results = response.results.iter();
            let found = results
                .map(|result| (result.name.0.to_string(), check("CreatePartitions", result.error_code, result.error_message.as_ref())))
                .collect();
            not_controller(ordered(topics.iter().map(|(topic, _)| topic.as_str()), found))
        })
        .await
    }

    async fn delete_topics(&self, ids: &[uuid::Uuid]) -> Each<()> {
        let states = ids.iter().map(|id| m::delete_topics_request::DeleteTopicState::default().with_name(None).with_topic_id(*id));
        let request = m::DeleteTopicsRequest::default().with_topics(states.collect()).with_timeout_ms(REQUEST_LIMIT_MS);
        let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.each(ids.len(), &request, 6, |response| {
            let result = |result: &m::delete_topics_response::DeletableTopicResult| {
                let checked = check("DeleteTopics", result.error_code, result.error_message.as_ref());
                (result.topic_id.to_string(), gone_is_fine(checked, &["UnknownTopicId", "UnknownTopicOrPartition"]))
            };
            not_controller(ordered(names.iter().map(String::as_str), response.responses.iter().map(result).collect()))
        })
        .await
    }

    async fn alter_configs(&self, changes: &[(ConfigResource, ConfigChanges)]) -> Each<()> {
        // A broker takes its own configs itself; what is not a broker's any one passes on.
        let own = |change: &&(ConfigResource, ConfigChanges)| matches!(change.0, ConfigResource::Broker(_));
        let shared: Vec<_> = changes.iter().filter(|change| !own(change)).collect();
        let of_brokers = changes.iter().filter(own).map(|change| async move {
            let ConfigResource::Broker(id) = change.0 else { return Ok(()) };
            let response = self.send_to(id, &alter_configs_request(&[change]), 1).await?;
            response.responses.iter().try_for_each(altered)
        });
        let request = alter_configs_request(&shared);
        let of_others = self.each(shared.len(), &request, 1, |response| {
            let found = response.responses.iter().map(|result| (result.resource_name.to_string(), altered(result))).collect();
            let names: Vec<String> = shared.iter().map(|(resource, _)| config_resource(resource).1).collect();
            not_controller(ordered(names.iter().map(String::as_str), found))
        });
        let (of_brokers, of_others) = futures::join!(futures::future::join_all(of_brokers), of_others);
        let (mut of_brokers, mut of_others) = (of_brokers.into_iter(), of_others.into_iter());
        let result = |change: &(ConfigResource, ConfigChanges)| if own(&change) { of_brokers.next() } else { of_others.next() };
        changes.iter().filter_map(result).collect()
    }

    async fn reassign(&self, moves: &[Reassignment]) -> Each<()> {
        use m::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
        let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
        for one in moves {
            let replicas = one.replicas.as_ref().map(|ids| ids.iter().map(|id| m::BrokerId(*id)).collect());
            let partition = ReassignablePartition::default().with_partition_index(one.partition).with_replicas(replicas);
            topics.entry(&one.topic).or_default().push(partition);
        }
        let topics = topics
            .into_iter()
            .map(|(name, partitions)| ReassignableTopic::default().with_name(topic_name(name)).with_partitions(partitions));
        let request = m::AlterPartitionReassignmentsRequest::default().with_topics(topics.collect()).with_timeout_ms(REQUEST_LIMIT_MS);
        let name = |topic: &str, partition: i32| format!("{topic} {partition}");
        let names: Vec<String> = moves.iter().map(|one| name(&one.topic, one.partition)).collect();
        self.each(moves.len(), &request, 0, |response| {
            check("AlterPartitionReassignments", response.error_code, response.error_message.as_ref())?;
            let mut found = HashMap::new();
            for topic in &response.responses {
                for partition in &topic.partitions {
                    let checked = check("AlterPartitionReassignments", partition.error_code, partition.error_message.as_ref());
                    // A move that is over cannot be taken back, and need not be.
                    found.insert(name(&topic.name.0, partition.partition_index), gone_is_fine(checked, &["NoReassignmentInProgress"]));
                }
            }
            Ok(ordered(names.iter().map(String::as_str), found))
        })
        .await
    }

    async fn elect_preferred_leaders(&self, elections: &[Election]) -> Each<()> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        elections.iter().for_each(|one| topics.entry(&one.topic).or_default().push(one.partition));
        let topics = topics.into_iter().map(|(topic, partitions)| {
            m::elect_leaders_request::TopicPartitions::default().with_topic(topic_name(topic)).with_partitions(partitions)
        });
        // 0: the preferred one.
        let request = m::ElectLeadersRequest::default()
            .with_election_type(0)
            .with_topic_partitions(Some(topics.collect()))
            .with_timeout_ms(REQUEST_LIMIT_MS);
        let name = |topic: &str, partition: i32| format!("{topic} {partition}");
        let names: Vec<String> = elections.iter().map(|one| name(&one.topic, one.partition)).collect();
        self.each(elections.len(), &request, 2, |response| {
            check("ElectLeaders", response.error_code, None)?;
            let mut found: HashMap<String, AdminResult<()>> = HashMap::new();
            for topic in &response.replica_election_results {
                for partition in &topic.partition_result {
                    let checked = check("ElectLeaders", partition.error_code, partition.error_message.as_ref());
                    found.insert(name(&topic.topic.0, partition.partition_id), gone_is_fine(checked, &["ElectionNotNeeded"]));
                }
            }
            Ok(ordered(names.iter().map(String::as_str), found))
        })
        .await
    }

    async fn lead(&self, elections: &[Election]) -> AdminResult<()> {
        let mut topics: BTreeMap<&str, Vec<(i32, i32)>> = BTreeMap::new();
        elections.iter().for_each(|one| topics.entry(&one.topic).or_default().push((one.partition, one.leader)));
        let topics: Vec<_> = topics.into_iter().map(|(topic, partitions)| Leaders { topic: topic.to_owned(), partitions }).collect();
        self.offsets(&topics, -1).await.into_iter().try_for_each(|end| end.map(drop))
    }

    async fn count_records(&self, topics: &[Leaders]) -> Each<i64> {
        let (ends, starts) = futures::join!(self.offsets(topics, -1), self.offsets(topics, -2));
        ends.into_iter().zip(starts).map(|(end, start)| Ok(end? - start?)).collect()
    }

    async fn log_folders_of(&self, broker: i32) -> AdminResult<LogFolders> {
        let response = self.send_to(broker, &m::DescribeLogDirsRequest::default().with_topics(None), 4).await?;
        check("DescribeLogDirs", response.error_code, None)?;
        let mut folders = LogFolders::default();
        for folder in &response.results {
            check("DescribeLogDirs", folder.error_code, None)?;
            // -1: the broker does not know.
            let disk = Some(Disk { total: folder.total_bytes, usable: folder.usable_bytes }).filter(|disk| disk.total > 0);
            let ours = folder.topics.iter().filter(|topic| &*topic.name.0 != "__cluster_metadata");
            let replicas = ours.flat_map(|topic| {
                let name: Arc<str> = (&*topic.name.0).into();
                topic.partitions.iter().map(move |partition| LogReplica {
                    topic: Arc::clone(&name),
                    partition: partition.partition_index,
                    bytes: partition.partition_size,
                    future: partition.is_future_key,
                })
            });
            folders.0.insert(folder.log_dir.to_string(), LogFolder { disk, replicas: replicas.collect() });
        }
        Ok(folders)
    }

    async fn move_folders(&self, broker: i32, moves: &[FolderMove]) -> AdminResult<()> {
        let response = self.send_to(broker, &alter_folders_request(moves), 2).await?;
        let mut partitions = response.results.iter().flat_map(|topic| &topic.partitions);
        partitions.try_for_each(|partition| check("AlterReplicaLogDirs", partition.error_code, None))
    }

    async fn unregister_broker(&self, broker: i32) -> AdminResult<()> {
        let request = m::UnregisterBrokerRequest::default().with_broker_id(m::BrokerId(broker));
        let response = self.send(&request, 0).await?;
        gone_is_fine(check("UnregisterBroker", response.error_code, response.error_message.as_ref()), &["BrokerIdNotRegistered"])
    }

    async fn add_voter(&self, id: i32, directory: uuid::Uuid, host: &str, port: u16) -> AdminResult<()> {
        let listener = m::add_raft_voter_request::Listener::default().with_name(text("CONTROLLER")).with_host(text(host)).with_port(port);
        let request = m::AddRaftVoterRequest::default()
            .with_cluster_id(None)
            .with_timeout_ms(REQUEST_LIMIT_MS)
            .with_voter_id(id)
            .with_voter_directory_id(directory)
            .with_listeners(vec![listener]);
        let response = self.send(&request, 0).await?;
        gone_is_fine(check("AddRaftVoter", response.error_code, response.error_message.as_ref()), &["DuplicateVoter"])
    }

    async fn remove_voter(&self, id: i32, directory: uuid::Uuid) -> AdminResult<()> {
        let request = m::RemoveRaftVoterRequest::default().with_cluster_id(None).with_voter_id(id).with_voter_directory_id(directory);
        let response = self.send(&request, 0).await?;
        gone_is_fine(check("RemoveRaftVoter", response.error_code, response.error_message.as_ref()), &["VoterNotFound"])
    }

    async fn upgrade_features(&self, levels: &BTreeMap<String, i16>) -> AdminResult<()> {
        let update = |(name, level): (&String, &i16)| {
            // 1: an upgrade; a level is never lowered.
            m::update_features_request::FeatureUpdateKey::default()
                .with_feature(text(name))
                .with_max_version_level(*level)
                .with_upgrade_type(1)
        };
        let request =
            m::UpdateFeaturesRequest::default().with_timeout_ms(REQUEST_LIMIT_MS).with_feature_updates(levels.iter().map(update).collect());
        let response = self.send(&request, 2).await?;
        check("UpdateFeatures", response.error_code, response.error_message.as_ref())?;
        response.results.iter().try_for_each(|result| check("UpdateFeatures", result.error_code, result.error_message.as_ref()))
    }

    async fn create_acls(&self, acls: &[AclBinding]) -> Each<()> {
        let request = m::CreateAclsRequest::default().with_creations(acls.iter().map(acl_creation).collect());
        self.each(acls.len(), &request, 3, |response| {
            not_controller(
                response.results.iter().map(|result| check("CreateAcls", result.error_code, result.error_message.as_ref())).collect(),
            )
        })
        .await
    }

    async fn delete_acls(&self, acls: &[AclBinding]) -> Each<()> {
        let request = m::DeleteAclsRequest::default().with_filters(acls.iter().map(acl_filter).collect());
        self.each(acls.len(), &request, 3, |response| {
            let results = response.filter_results.iter();
            not_controller(results.map(|result| check("DeleteAcls", result.error_code, result.error_message.as_ref())).collect())
        })
        .await
    }

    async fn would_be_refused(&self, principal: &str) -> AdminResult<Vec<AclBinding>> {
        let request = acls_named(grants::SHADOW_MARK).with_principal_filter(Some(text(principal)));
        let nodes = self.endpoints.iter().chain(&self.controllers);
        let asked = nodes.map(|endpoint| self.send_to(endpoint.node_id, &request, 3));
        let mut refusals = Vec::new();
        for response in futures::future::try_join_all(asked).await? {
            check("DescribeAcls", response.error_code, response.error_message.as_ref())?;
            for resource in response.resources {
                refusals.extend(resource.acls.iter().map(|acl| AclBinding {
                    resource_type: resource.resource_type,
                    resource_name: resource.resource_name.to_string(),
                    pattern_type: resource.pattern_type,
                    principal: acl.principal.to_string(),
                    host: acl.host.to_string(),
                    operation: acl.operation,
                    permission: acl.permission_type,
                }));
            }
        }
        Ok(refusals)
    }

    async fn loads(&self) -> BTreeMap<i32, Load> {
        let request = acls_named(load::MARK);
        let asked = self.endpoints.iter().map(async |endpoint| {
            let response = self.send_to(endpoint.node_id, &request, 3).await.ok().filter(|response| response.error_code == 0)?;
            Some((endpoint.node_id, Load::of(response.resources.iter().map(|resource| &*resource.resource_name))))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    async fn alter_scram(&self, changes: &[ScramChange]) -> Each<()> {
        use m::alter_user_scram_credentials_request::{ScramCredentialDeletion, ScramCredentialUpsertion};
        let (mut upsertions, mut deletions, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for change in changes {
            match change {
                ScramChange::Upsert { user, iterations, salt, salted_password } => {
                    names.push(user.as_str());
                    upsertions.push(
                        ScramCredentialUpsertion::default()
                            .with_name(text(user))
                            .with_mechanism(SCRAM_SHA_512)
                            .with_iterations(i32::try_from(*iterations).unwrap_or(i32::MAX))
                            .with_salt(Bytes::copy_from_slice(salt))
                            .with_salted_password(Bytes::copy_from_slice(salted_password)),
                    );
                }
                ScramChange::Delete { user } => {
                    names.push(user.as_str());
                    deletions.push(ScramCredentialDeletion::default().with_name(text(user)).with_mechanism(SCRAM_SHA_512));
                }
            }
        }
        let request = m::AlterUserScramCredentialsRequest::default().with_upsertions(upsertions).with_deletions(deletions);
        self.each(changes.len(), &request, 0, |response| {
            let results = response.results.iter();
            let found = results
                .map(|result| {
                    let checked = check("AlterUserScramCredentials", result.error_code, result.error_message.as_ref());
                    (result.user.to_string(), gone_is_fine(checked, &["ResourceNotFound"]))
                })
                .collect();
            not_controller(ordered(names.iter().copied(), found))
        })
        .await
    }

    async fn alter_quotas(&self, changes: &[QuotaChange]) -> Each<()> {
        use m::alter_client_quotas_request::{EntityData, EntryData, OpData};
        let entries = changes.iter().map(|change| {
            let entity = EntityData::default().with_entity_type(text("user")).with_entity_name(Some(text(&change.user)));
            let ops = change.quotas.iter().map(|(key, value)| {
                OpData::default().with_key(text(key)).with_value(value.unwrap_or_default()).with_remove(value.is_none())
            });
            EntryData::default().with_entity(vec![entity]).with_ops(ops.collect())
        });
        let request = m::AlterClientQuotasRequest::default().with_entries(entries.collect());
        self.each(changes.len(), &request, 1, |response| {
            let mut found = HashMap::new();
            for entry in &response.entries {
                let user = entry.entity.first().and_then(|entity| entity.entity_name.as_ref()).map(ToString::to_string);
                found.insert(user.unwrap_or_default(), check("AlterClientQuotas", entry.error_code, entry.error_message.as_ref()));
            }
            not_controller(ordered(changes.iter().map(|change| change.user.as_str()), found))
        })
        .await
    }
}
