//! The client: a connection to each broker, requests to any that answers, retries on retriable errors only.

use super::connection::{Connection, Endpoint};
use super::sasl::ScramLogin;
use super::tls::TlsSettings;
use super::*;
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::{Request, StrBytes};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// One request's time; brokers answer in milliseconds, a topic's creation may take seconds.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A call with all its retries.
const CALL_LIMIT: Duration = Duration::from_secs(20);
const RETRY_PAUSE: Duration = Duration::from_millis(150);
const REQUEST_LIMIT_MS: i32 = 10_000;
const SCRAM_SHA_512: i8 = 2;
const TOPIC_RESOURCE: i8 = 2;
const SOURCE_TOPIC: i8 = 1;

/// A client of one cluster. Cheap to share; connections open on demand.
pub struct Client {
    endpoints: Vec<Endpoint>,
    tls: TlsSettings,
    login: Option<ScramLogin>,
    connections: Mutex<HashMap<i32, Arc<Connection>>>,
}

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Kafka's error code as a result.
fn check(api: &'static str, code: i16, message: Option<&StrBytes>) -> AdminResult<()> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(AdminError::Refused {
            api,
            error: format!("{error:?}"),
            retriable: error.is_retriable(),
            message: message.map(|message| message.to_string()),
        }),
    }
}

impl Client {
    pub fn new(endpoints: Vec<Endpoint>, tls: TlsSettings, login: Option<ScramLogin>) -> Self {
        Self { endpoints, tls, login, connections: Mutex::default() }
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
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
    async fn send<R: Request>(&self, request: &R, version_max: i16) -> AdminResult<R::Response> {
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
        let endpoint = self.endpoints.iter().find(|endpoint| endpoint.node_id == id);
        let endpoint = endpoint.ok_or_else(|| AdminError::Unavailable(format!("broker {id} has no address")))?;
        self.connection(endpoint).await?.send(request, version_max, REQUEST_LIMIT).await
    }

    /// Sum of the partitions' offsets at a timestamp: -1 the end, -2 the start.
    async fn offsets(&self, topic: &TopicDescription, timestamp: i64) -> AdminResult<i64> {
        let mut sum = 0;
        for partition in &topic.partitions {
            let asked = m::list_offsets_request::ListOffsetsPartition::default()
                .with_partition_index(partition.index)
                .with_current_leader_epoch(-1)
                .with_timestamp(timestamp);
            let of = m::list_offsets_request::ListOffsetsTopic::default().with_name(topic_name(&topic.name)).with_partitions(vec![asked]);
            // The default of replica_id is broker 0; a client is -1.
            let request = m::ListOffsetsRequest::default().with_replica_id(m::BrokerId(-1)).with_topics(vec![of]);
            let response = self.send_to(partition.leader, &request, 7).await?;
            for found in response.topics.iter().flat_map(|topic| &topic.partitions) {
                check("ListOffsets", found.error_code, None)?;
                sum += found.offset;
            }
        }
        Ok(sum)
    }
}

fn acl_creation(acl: &AclBinding) -> m::create_acls_request::AclCreation {
    m::create_acls_request::AclCreation::default()
        .with_resource_type(acl.resource_type)
        .with_resource_name(text(&acl.resource_name))
        .with_resource_pattern_type(acl.pattern_type)
        .with_principal(text(&acl.principal))
        .with_host(text(&acl.host))
        .with_operation(acl.operation)
        .with_permission_type(acl.permission)
}

fn acl_filter(acl: &AclBinding) -> m::delete_acls_request::DeleteAclsFilter {
    m::delete_acls_request::DeleteAclsFilter::default()
        .with_resource_type_filter(acl.resource_type)
        .with_resource_name_filter(Some(text(&acl.resource_name)))
        .with_pattern_type_filter(acl.pattern_type)
        .with_principal_filter(Some(text(&acl.principal)))
        .with_host_filter(Some(text(&acl.host)))
        .with_operation(acl.operation)
        .with_permission_type(acl.permission)
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

    async fn describe_topics(&self, names: Option<&[String]>) -> AdminResult<Vec<TopicDescription>> {
        let topics = names.map(|names| {
            names.iter().map(|name| m::metadata_request::MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect()
        });
        let request = m::MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
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

    async fn create_topic(&self, topic: &NewTopic) -> AdminResult<()> {
        use m::create_topics_request::{CreatableTopic, CreatableTopicConfig};
        let configs =
            topic.config.iter().map(|(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
        let creatable = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(topic.partitions)
            .with_replication_factor(topic.replicas)
            .with_configs(configs.collect());
        let request = m::CreateTopicsRequest::default().with_topics(vec![creatable]).with_timeout_ms(REQUEST_LIMIT_MS);
        self.retry(|| async {
            let response = self.send(&request, 7).await?;
            response.topics.iter().try_for_each(|topic| check("CreateTopics", topic.error_code, topic.error_message.as_ref()))
        })
        .await
    }

    async fn create_partitions(&self, topic: &str, count: i32) -> AdminResult<()> {
        // An empty list of assignments would mean that there are none to choose from; None lets Kafka choose.
        let more = m::create_partitions_request::CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(count)
            .with_assignments(None);
        let request = m::CreatePartitionsRequest::default().with_topics(vec![more]).with_timeout_ms(REQUEST_LIMIT_MS);
        self.retry(|| async {
            let response = self.send(&request, 3).await?;
            response.results.iter().try_for_each(|result| check("CreatePartitions", result.error_code, result.error_message.as_ref()))
        })
        .await
    }

    async fn delete_topic(&self, id: uuid::Uuid) -> AdminResult<()> {
        let state = m::delete_topics_request::DeleteTopicState::default().with_name(None).with_topic_id(id);
        let request = m::DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(REQUEST_LIMIT_MS);
        self.retry(|| async {
            let response = self.send(&request, 6).await?;
            response.responses.iter().try_for_each(|result| match check("DeleteTopics", result.error_code, result.error_message.as_ref()) {
                Err(error) if error.is("UnknownTopicId") || error.is("UnknownTopicOrPartition") => Ok(()),
                other => other,
            })
        })
        .await
    }

    async fn topic_config(&self, topic: &str) -> AdminResult<BTreeMap<String, String>> {
        // None asks for all keys; an empty list for none.
        let resource = m::describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(text(topic))
            .with_configuration_keys(None);
        let response = self.send(&m::DescribeConfigsRequest::default().with_resources(vec![resource]), 4).await?;
        let mut config = BTreeMap::new();
        for result in &response.results {
            check("DescribeConfigs", result.error_code, result.error_message.as_ref())?;
            for entry in result.configs.iter().filter(|entry| entry.config_source == SOURCE_TOPIC) {
                config.insert(entry.name.to_string(), entry.value.as_ref().map(|value| value.to_string()).unwrap_or_default());
            }
        }
        Ok(config)
    }

    async fn alter_topic_config(&self, topic: &str, changes: &BTreeMap<String, Option<String>>) -> AdminResult<()> {
        use m::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
        // KIP-339: 0 sets, 1 deletes.
        let configs = changes.iter().map(|(key, value)| {
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(i8::from(value.is_none()))
                .with_value(value.as_deref().map(text))
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC_RESOURCE)
            .with_resource_name(text(topic))
            .with_configs(configs.collect());
        let request = m::IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        self.retry(|| async {
            let response = self.send(&request, 1).await?;
            response
                .responses
                .iter()
                .try_for_each(|result| check("IncrementalAlterConfigs", result.error_code, result.error_message.as_ref()))
        })
        .await
    }

    async fn topic_holds_records(&self, topic: &TopicDescription) -> AdminResult<bool> {
        Ok(self.offsets(topic, -1).await? > self.offsets(topic, -2).await?)
    }

    async fn acls_of(&self, principal: &str) -> AdminResult<Vec<AclBinding>> {
        // 1 is ANY of each kind.
        let request = m::DescribeAclsRequest::default()
            .with_resource_type_filter(1)
            .with_resource_name_filter(None)
            .with_pattern_type_filter(1)
            .with_principal_filter(Some(text(principal)))
            .with_host_filter(None)
            .with_operation(1)
            .with_permission_type(1);
        let response = self.send(&request, 3).await?;
        check("DescribeAcls", response.error_code, response.error_message.as_ref())?;
        let mut acls = Vec::new();
        for resource in &response.resources {
            for acl in &resource.acls {
                acls.push(AclBinding {
                    resource_type: resource.resource_type,
                    resource_name: resource.resource_name.to_string(),
                    pattern_type: resource.pattern_type,
                    principal: acl.principal.to_string(),
                    host: acl.host.to_string(),
                    operation: acl.operation,
                    permission: acl.permission_type,
                });
            }
        }
        Ok(acls)
    }

    async fn create_acls(&self, acls: &[AclBinding]) -> AdminResult<()> {
        let request = m::CreateAclsRequest::default().with_creations(acls.iter().map(acl_creation).collect());
        self.retry(|| async {
            let response = self.send(&request, 3).await?;
            response.results.iter().try_for_each(|result| check("CreateAcls", result.error_code, result.error_message.as_ref()))
        })
        .await
    }

    async fn delete_acls(&self, acls: &[AclBinding]) -> AdminResult<()> {
        let request = m::DeleteAclsRequest::default().with_filters(acls.iter().map(acl_filter).collect());
        self.retry(|| async {
            let response = self.send(&request, 3).await?;
            response.filter_results.iter().try_for_each(|result| check("DeleteAcls", result.error_code, result.error_message.as_ref()))
        })
        .await
    }

    async fn scram_iterations(&self, user: &str) -> AdminResult<Option<i32>> {
        let name = m::describe_user_scram_credentials_request::UserName::default().with_name(text(user));
        let response = self.send(&m::DescribeUserScramCredentialsRequest::default().with_users(Some(vec![name])), 0).await?;
        check("DescribeUserScramCredentials", response.error_code, response.error_message.as_ref())?;
        let Some(result) = response.results.first() else { return Ok(None) };
        match check("DescribeUserScramCredentials", result.error_code, result.error_message.as_ref()) {
            Err(error) if error.is("ResourceNotFound") => return Ok(None),
            other => other?,
        }
        Ok(result.credential_infos.iter().find(|info| info.mechanism == SCRAM_SHA_512).map(|info| info.iterations))
    }

    async fn upsert_scram(&self, credential: &ScramUpsertion) -> AdminResult<()> {
        let upsertion = m::alter_user_scram_credentials_request::ScramCredentialUpsertion::default()
            .with_name(text(&credential.user))
            .with_mechanism(SCRAM_SHA_512)
            .with_iterations(credential.iterations)
            .with_salt(Bytes::copy_from_slice(&credential.salt))
            .with_salted_password(Bytes::copy_from_slice(&credential.salted_password));
        let request = m::AlterUserScramCredentialsRequest::default().with_upsertions(vec![upsertion]);
        self.retry(|| async {
            let response = self.send(&request, 0).await?;
            response
                .results
                .iter()
                .try_for_each(|result| check("AlterUserScramCredentials", result.error_code, result.error_message.as_ref()))
        })
        .await
    }

    async fn delete_scram(&self, user: &str) -> AdminResult<()> {
        let deletion =
            m::alter_user_scram_credentials_request::ScramCredentialDeletion::default().with_name(text(user)).with_mechanism(SCRAM_SHA_512);
        let request = m::AlterUserScramCredentialsRequest::default().with_deletions(vec![deletion]);
        self.retry(|| async {
            let response = self.send(&request, 0).await?;
            response.results.iter().try_for_each(|result| {
                match check("AlterUserScramCredentials", result.error_code, result.error_message.as_ref()) {
                    Err(error) if error.is("ResourceNotFound") => Ok(()),
                    other => other,
                }
            })
        })
        .await
    }
}
