//! The requests of the admin client, one for each method of [`Admin`].

use super::{
    Client, LOAD_LIMIT, REQUEST_LIMIT_MS, gone_is_fine, groups, not_controller, ordered,
    principals, records,
};
use crate::requests::{
    acls_named, alter_configs_request, alter_folders_request, altered, check, config_resource,
    text, topic_name,
};
use crate::*;
use freehold_kafka::load;
use kafka_protocol::messages as m;
use std::collections::HashMap;
use tokio::time::timeout;

#[async_trait]
impl Admin for Client {
    async fn describe_cluster(&self) -> AdminResult<ClusterDescription> {
        let request = m::DescribeClusterRequest::default()
            .with_endpoint_type(1)
            .with_include_fenced_brokers(true);
        let response = self.read(&request, 2).await?;
        check(
            "DescribeCluster",
            response.error_code,
            response.error_message.as_ref(),
        )?;
        let brokers = response.brokers.iter().map(|broker| BrokerDescription {
            id: broker.broker_id.0,
            fenced: broker.is_fenced,
            rack: broker.rack.as_ref().map(|rack| rack.to_string()),
        });
        Ok(ClusterDescription {
            cluster_id: response.cluster_id.to_string(),
            brokers: brokers.collect(),
        })
    }

    async fn describe_quorum(&self) -> AdminResult<QuorumDescription> {
        use m::describe_quorum_request::{PartitionData, TopicData};
        let topic = TopicData::default()
            .with_topic_name(topic_name("__cluster_metadata"))
            .with_partitions(vec![PartitionData::default()]);
        let request = m::DescribeQuorumRequest::default().with_topics(vec![topic]);
        let response = self.read(&request, 2).await?;
        check(
            "DescribeQuorum",
            response.error_code,
            response.error_message.as_ref(),
        )?;
        let partition = response
            .topics
            .first()
            .and_then(|topic| topic.partitions.first());
        let partition = partition
            .ok_or_else(|| AdminError::Protocol("DescribeQuorum without a partition".into()))?;
        check(
            "DescribeQuorum",
            partition.error_code,
            partition.error_message.as_ref(),
        )?;
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
            let configs = topic.config.iter().map(|(key, value)| {
                CreatableTopicConfig::default()
                    .with_name(text(key))
                    .with_value(Some(text(value)))
            });
            CreatableTopic::default()
                .with_name(topic_name(&topic.name))
                .with_num_partitions(topic.partitions)
                .with_replication_factor(topic.replicas)
                .with_configs(configs.collect())
        });
        let request = m::CreateTopicsRequest::default()
            .with_topics(creatable.collect())
            .with_timeout_ms(REQUEST_LIMIT_MS);
        self.each(topics.len(), &request, 7, |response| {
            let results = response.topics.iter();
            let found = results
                .map(|topic| {
                    (
                        topic.name.0.to_string(),
                        check(
                            "CreateTopics",
                            topic.error_code,
                            topic.error_message.as_ref(),
                        ),
                    )
                })
                .collect();
            not_controller(ordered(
                topics.iter().map(|topic| topic.name.as_str()),
                found,
            ))
        })
        .await
    }

    async fn create_partitions(&self, topics: &[(String, i32)]) -> Each<()> {
        // `None` lets Kafka choose the brokers. An empty list would mean that there are no brokers
        // to choose from.
        let more = topics.iter().map(|(topic, count)| {
            m::create_partitions_request::CreatePartitionsTopic::default()
                .with_name(topic_name(topic))
                .with_count(*count)
                .with_assignments(None)
        });
        let request = m::CreatePartitionsRequest::default()
            .with_topics(more.collect())
            .with_timeout_ms(REQUEST_LIMIT_MS);
        self.each(topics.len(), &request, 3, |response| {
            let results = response.results.iter();
            let found = results
                .map(|result| {
                    (
                        result.name.0.to_string(),
                        check(
                            "CreatePartitions",
                            result.error_code,
                            result.error_message.as_ref(),
                        ),
                    )
                })
                .collect();
            not_controller(ordered(
                topics.iter().map(|(topic, _)| topic.as_str()),
                found,
            ))
        })
        .await
    }

    async fn delete_topics(&self, ids: &[uuid::Uuid]) -> Each<()> {
        let states = ids.iter().map(|id| {
            m::delete_topics_request::DeleteTopicState::default()
                .with_name(None)
                .with_topic_id(*id)
        });
        let request = m::DeleteTopicsRequest::default()
            .with_topics(states.collect())
            .with_timeout_ms(REQUEST_LIMIT_MS);
        let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        self.each(ids.len(), &request, 6, |response| {
            let result = |result: &m::delete_topics_response::DeletableTopicResult| {
                let checked = check(
                    "DeleteTopics",
                    result.error_code,
                    result.error_message.as_ref(),
                );
                (
                    result.topic_id.to_string(),
                    gone_is_fine(checked, &["UnknownTopicId", "UnknownTopicOrPartition"]),
                )
            };
            not_controller(ordered(
                names.iter().map(String::as_str),
                response.responses.iter().map(result).collect(),
            ))
        })
        .await
    }

    async fn alter_configs(&self, changes: &[(ConfigResource, ConfigChanges)]) -> Each<()> {
        // Only the broker itself accepts changes of its own configs. Any broker forwards the other
        // changes to the controller.
        let own = |change: &&(ConfigResource, ConfigChanges)| {
            matches!(change.0, ConfigResource::Broker(_))
        };
        let shared: Vec<_> = changes.iter().filter(|change| !own(change)).collect();
        let of_brokers = changes.iter().filter(own).map(|change| async move {
            let ConfigResource::Broker(id) = change.0 else {
                return Ok(());
            };
            let response = self
                .send_to(id, &alter_configs_request(&[change]), 1)
                .await?;
            response.responses.iter().try_for_each(altered)
        });
        let request = alter_configs_request(&shared);
        let of_others = self.each(shared.len(), &request, 1, |response| {
            let found = response
                .responses
                .iter()
                .map(|result| (result.resource_name.to_string(), altered(result)))
                .collect();
            let names: Vec<String> = shared
                .iter()
                .map(|(resource, _)| config_resource(resource).1)
                .collect();
            not_controller(ordered(names.iter().map(String::as_str), found))
        });
        let (of_brokers, of_others) =
            futures::join!(futures::future::join_all(of_brokers), of_others);
        let (mut of_brokers, mut of_others) = (of_brokers.into_iter(), of_others.into_iter());
        let result = |change: &(ConfigResource, ConfigChanges)| {
            if own(&change) {
                of_brokers.next()
            } else {
                of_others.next()
            }
        };
        changes.iter().filter_map(result).collect()
    }

    async fn reassign(&self, moves: &[Reassignment]) -> Each<()> {
        use m::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
        let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
        for one in moves {
            let replicas = one
                .replicas
                .as_ref()
                .map(|ids| ids.iter().map(|id| m::BrokerId(*id)).collect());
            let partition = ReassignablePartition::default()
                .with_partition_index(one.partition)
                .with_replicas(replicas);
            topics.entry(&one.topic).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            ReassignableTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions)
        });
        let request = m::AlterPartitionReassignmentsRequest::default()
            .with_topics(topics.collect())
            .with_timeout_ms(REQUEST_LIMIT_MS);
        let name = |topic: &str, partition: i32| format!("{topic} {partition}");
        let names: Vec<String> = moves
            .iter()
            .map(|one| name(&one.topic, one.partition))
            .collect();
        self.each(moves.len(), &request, 0, |response| {
            check(
                "AlterPartitionReassignments",
                response.error_code,
                response.error_message.as_ref(),
            )?;
            let mut found = HashMap::new();
            for topic in &response.responses {
                for partition in &topic.partitions {
                    let checked = check(
                        "AlterPartitionReassignments",
                        partition.error_code,
                        partition.error_message.as_ref(),
                    );
                    // A move that has finished cannot be cancelled, and need not be.
                    found.insert(
                        name(&topic.name.0, partition.partition_index),
                        gone_is_fine(checked, &["NoReassignmentInProgress"]),
                    );
                }
            }
            Ok(ordered(names.iter().map(String::as_str), found))
        })
        .await
    }

    async fn elect_preferred_leaders(&self, elections: &[Election]) -> Each<()> {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        elections
            .iter()
            .for_each(|one| topics.entry(&one.topic).or_default().push(one.partition));
        let topics = topics.into_iter().map(|(topic, partitions)| {
            m::elect_leaders_request::TopicPartitions::default()
                .with_topic(topic_name(topic))
                .with_partitions(partitions)
        });
        // 0: the preferred leader.
        let request = m::ElectLeadersRequest::default()
            .with_election_type(0)
            .with_topic_partitions(Some(topics.collect()))
            .with_timeout_ms(REQUEST_LIMIT_MS);
        let name = |topic: &str, partition: i32| format!("{topic} {partition}");
        let names: Vec<String> = elections
            .iter()
            .map(|one| name(&one.topic, one.partition))
            .collect();
        self.each(elections.len(), &request, 2, |response| {
            check("ElectLeaders", response.error_code, None)?;
            let mut found: HashMap<String, AdminResult<()>> = HashMap::new();
            for topic in &response.replica_election_results {
                for partition in &topic.partition_result {
                    let checked = check(
                        "ElectLeaders",
                        partition.error_code,
                        partition.error_message.as_ref(),
                    );
                    found.insert(
                        name(&topic.topic.0, partition.partition_id),
                        gone_is_fine(checked, &["ElectionNotNeeded"]),
                    );
                }
            }
            Ok(ordered(names.iter().map(String::as_str), found))
        })
        .await
    }

    async fn lead(&self, elections: &[Election]) -> AdminResult<()> {
        let mut topics: BTreeMap<&str, Vec<(i32, i32)>> = BTreeMap::new();
        elections.iter().for_each(|one| {
            topics
                .entry(&one.topic)
                .or_default()
                .push((one.partition, one.leader))
        });
        let topics: Vec<_> = topics
            .into_iter()
            .map(|(topic, partitions)| Leaders {
                topic: topic.to_owned(),
                partitions,
            })
            .collect();
        records::offsets(self, &topics, records::END)
            .await
            .into_iter()
            .try_for_each(|end| end.map(drop))
    }

    async fn count_records(&self, topics: &[Leaders]) -> Each<i64> {
        let (ends, starts) = futures::join!(
            records::offsets(self, topics, records::END),
            records::offsets(self, topics, records::START)
        );
        let sum = |offsets: BTreeMap<i32, i64>| offsets.into_values().sum::<i64>();
        ends.into_iter()
            .zip(starts)
            .map(|(end, start)| Ok(sum(end?) - sum(start?)))
            .collect()
    }

    async fn log_starts(&self, topics: &[Leaders]) -> Each<BTreeMap<i32, i64>> {
        records::offsets(self, topics, records::START).await
    }

    async fn delete_records(&self, before: &[RecordsBefore]) -> Each<()> {
        records::delete_records(self, before).await
    }

    async fn log_folders_of(&self, broker: i32) -> AdminResult<LogFolders> {
        let response = self
            .send_to(
                broker,
                &m::DescribeLogDirsRequest::default().with_topics(None),
                4,
            )
            .await?;
        check("DescribeLogDirs", response.error_code, None)?;
        let mut folders = LogFolders::default();
        for folder in &response.results {
            check("DescribeLogDirs", folder.error_code, None)?;
            // -1: the broker does not know the size.
            let disk = Some(Disk {
                total: folder.total_bytes,
                usable: folder.usable_bytes,
            })
            .filter(|disk| disk.total > 0);
            let ours = folder
                .topics
                .iter()
                .filter(|topic| &*topic.name.0 != "__cluster_metadata");
            let replicas = ours.flat_map(|topic| {
                let name: Arc<str> = (&*topic.name.0).into();
                topic.partitions.iter().map(move |partition| LogReplica {
                    topic: Arc::clone(&name),
                    partition: partition.partition_index,
                    bytes: partition.partition_size,
                    future: partition.is_future_key,
                })
            });
            folders.0.insert(
                folder.log_dir.to_string(),
                LogFolder {
                    disk,
                    replicas: replicas.collect(),
                },
            );
        }
        Ok(folders)
    }

    async fn move_folders(&self, broker: i32, moves: &[FolderMove]) -> AdminResult<()> {
        let response = self
            .send_to(broker, &alter_folders_request(moves), 2)
            .await?;
        let mut partitions = response.results.iter().flat_map(|topic| &topic.partitions);
        partitions
            .try_for_each(|partition| check("AlterReplicaLogDirs", partition.error_code, None))
    }

    async fn unregister_broker(&self, broker: i32) -> AdminResult<()> {
        let request = m::UnregisterBrokerRequest::default().with_broker_id(m::BrokerId(broker));
        let response = self.send(&request, 0).await?;
        gone_is_fine(
            check(
                "UnregisterBroker",
                response.error_code,
                response.error_message.as_ref(),
            ),
            &["BrokerIdNotRegistered"],
        )
    }

    async fn add_voter(
        &self,
        id: i32,
        directory: uuid::Uuid,
        host: &str,
        port: u16,
    ) -> AdminResult<()> {
        let listener = m::add_raft_voter_request::Listener::default()
            .with_name(text("CONTROLLER"))
            .with_host(text(host))
            .with_port(port);
        let request = m::AddRaftVoterRequest::default()
            .with_cluster_id(None)
            .with_timeout_ms(REQUEST_LIMIT_MS)
            .with_voter_id(id)
            .with_voter_directory_id(directory)
            .with_listeners(vec![listener]);
        let response = self.send(&request, 0).await?;
        gone_is_fine(
            check(
                "AddRaftVoter",
                response.error_code,
                response.error_message.as_ref(),
            ),
            &["DuplicateVoter"],
        )
    }

    async fn remove_voter(&self, id: i32, directory: uuid::Uuid) -> AdminResult<()> {
        let request = m::RemoveRaftVoterRequest::default()
            .with_cluster_id(None)
            .with_voter_id(id)
            .with_voter_directory_id(directory);
        let response = self.send(&request, 0).await?;
        gone_is_fine(
            check(
                "RemoveRaftVoter",
                response.error_code,
                response.error_message.as_ref(),
            ),
            &["VoterNotFound"],
        )
    }

    async fn upgrade_features(&self, levels: &BTreeMap<String, i16>) -> AdminResult<()> {
        let update = |(name, level): (&String, &i16)| {
            // 1: upgrade only. A level is never lowered.
            m::update_features_request::FeatureUpdateKey::default()
                .with_feature(text(name))
                .with_max_version_level(*level)
                .with_upgrade_type(1)
        };
        let request = m::UpdateFeaturesRequest::default()
            .with_timeout_ms(REQUEST_LIMIT_MS)
            .with_feature_updates(levels.iter().map(update).collect());
        let response = self.send(&request, 2).await?;
        check(
            "UpdateFeatures",
            response.error_code,
            response.error_message.as_ref(),
        )?;
        response.results.iter().try_for_each(|result| {
            check(
                "UpdateFeatures",
                result.error_code,
                result.error_message.as_ref(),
            )
        })
    }

    async fn create_acls(&self, acls: &[AclBinding]) -> Each<()> {
        principals::create_acls(self, acls).await
    }

    async fn delete_acls(&self, acls: &[AclBinding]) -> Each<()> {
        principals::delete_acls(self, acls).await
    }

    async fn delete_groups(&self, names: &[String]) -> Each<()> {
        groups::delete_groups(self, names).await
    }

    async fn remove_members(&self, group: &str, instances: &[String]) -> AdminResult<()> {
        groups::remove_members(self, group, instances).await
    }

    async fn fence_producers(&self, ids: &[String]) -> AdminResult<()> {
        groups::fence_producers(self, ids).await
    }

    async fn committed_offsets(&self, names: &[String]) -> Each<Committed> {
        groups::committed_offsets(self, names).await
    }

    async fn would_be_refused(&self, principal: &str) -> AdminResult<Vec<AclBinding>> {
        principals::would_be_refused(self, principal).await
    }

    async fn loads(&self) -> BTreeMap<i32, Load> {
        let request = acls_named(load::MARK);
        let asked = self.endpoints.iter().map(async |endpoint| {
            let answer = timeout(LOAD_LIMIT, self.send_to(endpoint.node_id, &request, 3))
                .await
                .ok()?;
            let response = answer.ok().filter(|response| response.error_code == 0)?;
            Some((
                endpoint.node_id,
                Load::of(
                    response
                        .resources
                        .iter()
                        .map(|resource| &*resource.resource_name),
                ),
            ))
        });
        futures::future::join_all(asked)
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    async fn alter_scram(&self, changes: &[ScramChange]) -> Each<()> {
        principals::alter_scram(self, changes).await
    }

    async fn alter_quotas(&self, changes: &[QuotaChange]) -> Each<()> {
        principals::alter_quotas(self, changes).await
    }
}
