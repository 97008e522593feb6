//! A Kafka cluster in memory, for tests of its callers. Each change becomes metadata records, as in
//! Kafka.

use super::mirror::Mirror;
use super::*;
use freehold_kafka::metadata_image::MetadataImage;
use freehold_kafka::metadata_record::{
    BROKER_RESOURCE, Fingerprint, MetadataRecord, PartitionFields, SCRAM_SHA_512, TOPIC_RESOURCE,
};
use freehold_kafka::scram;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct FakeCluster {
    state: Mutex<FakeState>,
}

/// The state of the fake cluster. Tests read and change it.
#[derive(Default)]
pub struct FakeState {
    pub cluster: ClusterDescription,
    pub quorum: QuorumDescription,
    pub image: MetadataImage,
    /// Receives every change of the image.
    pub mirror: Arc<Mirror>,
    /// Topics that hold records.
    pub records: Vec<String>,
    /// Number of CreateTopics calls.
    pub calls: u32,
    /// Number of partitions in each election.
    pub elected: Vec<usize>,
    /// Elected leaders do not know yet that they are elected.
    pub leads_late: bool,
    /// How many times a broker will report that it is busy.
    pub busy_looks: usize,
    pub deleted_groups: Vec<String>,
    /// Instance ids that were removed from their groups.
    pub removed_members: Vec<String>,
    /// Transactional ids that were fenced.
    pub fenced_producers: Vec<String>,
    /// What groups have committed.
    pub committed: BTreeMap<String, Committed>,
    /// Where the logs of partitions begin; 0 if it is not here.
    pub log_starts: BTreeMap<(String, i32), i64>,
    /// Where the logs of partitions end.
    pub log_ends: BTreeMap<(String, i32), i64>,
    /// Number of ACLs in each request that creates or deletes some.
    pub acl_requests: Vec<usize>,
    /// Configs that are refused, as those with a value that Kafka does not accept.
    pub refused_configs: Vec<String>,
    /// Principals whose ACLs are refused.
    pub refused_acls: Vec<String>,
    acls: BTreeMap<AclBinding, uuid::Uuid>,
    created: u128,
    offset: i64,
}

impl FakeState {
    fn write(&mut self, record: MetadataRecord) {
        self.image.apply(record.clone(), &mut Vec::new());
        self.offset += 1;
        self.mirror.advance(vec![record], self.offset);
    }

    /// The offset of the metadata log. It grows with each change.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    fn next_id(&mut self) -> uuid::Uuid {
        self.created += 1;
        uuid::Uuid::from_u128(self.created)
    }

    fn create_topic(&mut self, topic: &NewTopic) -> AdminResult<()> {
        if self.image.topic(&topic.name).is_some() {
            return Err(AdminError::Refused {
                api: "CreateTopics",
                error: "TopicAlreadyExists".into(),
                retriable: false,
                message: None,
            });
        }
        let id = self.next_id();
        self.write(MetadataRecord::Topic {
            name: topic.name.clone(),
            id,
        });
        for (key, value) in topic.config.clone() {
            self.write(MetadataRecord::Config {
                resource_type: TOPIC_RESOURCE,
                resource: topic.name.clone(),
                key,
                value: Some(value),
            });
        }
        let replicas: Vec<i32> = (1..=i32::from(topic.replicas.max(1))).collect();
        (0..topic.partitions).for_each(|index| self.write(partition(id, index, &replicas)));
        Ok(())
    }
}

impl FakeCluster {
    /// Locks the state; release it before the next request.
    pub fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused_by(api: &'static str, error: &str) -> AdminError {
    AdminError::Refused {
        api,
        error: error.into(),
        retriable: false,
        message: None,
    }
}

fn unknown(api: &'static str) -> AdminError {
    AdminError::Refused {
        api,
        error: "UnknownTopicOrPartition".into(),
        retriable: true,
        message: None,
    }
}

/// The most records that the controller writes for one request (`MAX_RECORDS_PER_USER_OP`). It
/// refuses a larger request whole.
const RECORDS_MAX: usize = 10_000;

fn too_many(api: &'static str) -> AdminError {
    AdminError::Refused {
        api,
        error: "PolicyViolation".into(),
        retriable: false,
        message: Some("Unable to perform excessively large batch operation.".into()),
    }
}

#[async_trait]
impl Admin for FakeCluster {
    async fn describe_cluster(&self) -> AdminResult<ClusterDescription> {
        Ok(self.state().cluster.clone())
    }
    async fn describe_quorum(&self) -> AdminResult<QuorumDescription> {
        Ok(self.state().quorum.clone())
    }
    async fn create_topics(&self, topics: &[NewTopic]) -> Each<()> {
        let mut state = self.state();
        state.calls += 1;
        topics
            .iter()
            .map(|topic| state.create_topic(topic))
            .collect()
    }
    async fn create_partitions(&self, topics: &[(String, i32)]) -> Each<()> {
        let mut state = self.state();
        let each = topics.iter().map(|(name, count)| {
            let topic = state
                .image
                .topic(name)
                .ok_or_else(|| unknown("CreatePartitions"))?;
            let (id, first, replicas) = (
                topic.id,
                topic.partitions.len(),
                topic.partitions[0].replicas.to_vec(),
            );
            let first = i32::try_from(first).unwrap_or(i32::MAX);
            (first..*count).for_each(|index| state.write(partition(id, index, &replicas)));
            Ok(())
        });
        each.collect()
    }
    async fn delete_topics(&self, ids: &[uuid::Uuid]) -> Each<()> {
        let mut state = self.state();
        ids.iter()
            .for_each(|id| state.write(MetadataRecord::RemoveTopic { id: *id }));
        ids.iter().map(|_| Ok(())).collect()
    }
    async fn alter_configs(&self, changes: &[(ConfigResource, ConfigChanges)]) -> Each<()> {
        let mut state = self.state();
        let is_twice = |one: &(ConfigResource, ConfigChanges)| {
            changes.iter().filter(|other| other.0 == one.0).count() > 1
        };
        if changes.iter().any(is_twice) {
            // Kafka returns this error for each of the duplicates; a client that finds results by
            // name would see only one.
            let twice = || AdminError::Refused {
                api: "AlterConfigs",
                error: "InvalidRequest".into(),
                retriable: false,
                message: None,
            };
            return changes.iter().map(|_| Err(twice())).collect();
        }
        let refused = state.refused_configs.clone();
        let is_refused = |changes: &ConfigChanges| changes.keys().any(|key| refused.contains(key));
        for (resource, changes) in changes.iter().filter(|(_, changes)| !is_refused(changes)) {
            let (resource_type, resource) = match resource {
                ConfigResource::Topic(topic) => (TOPIC_RESOURCE, topic.clone()),
                ConfigResource::Brokers => (BROKER_RESOURCE, String::new()),
                ConfigResource::Broker(id) => (BROKER_RESOURCE, id.to_string()),
            };
            for (key, value) in changes {
                state.write(MetadataRecord::Config {
                    resource_type,
                    resource: resource.clone(),
                    key: key.clone(),
                    value: value.clone(),
                });
            }
        }
        let each = changes.iter().map(|(_, changes)| {
            if is_refused(changes) {
                Err(refused_by("AlterConfigs", "InvalidConfig"))
            } else {
                Ok(())
            }
        });
        each.collect()
    }
    async fn reassign(&self, moves: &[Reassignment]) -> Each<()> {
        let mut state = self.state();
        let each = moves.iter().map(|one| {
            let id = state
                .image
                .topic(&one.topic)
                .ok_or_else(|| unknown("AlterPartitionReassignments"))?
                .id;
            // A move is finished at once.
            if let Some(replicas) = &one.replicas {
                state.write(partition(id, one.partition, replicas));
            }
            Ok(())
        });
        each.collect()
    }
    async fn elect_preferred_leaders(&self, elections: &[Election]) -> Each<()> {
        self.state().elected.push(elections.len());
        elections.iter().map(|_| Ok(())).collect()
    }
    async fn lead(&self, _elections: &[Election]) -> AdminResult<()> {
        if self.state().leads_late {
            Err(unknown("ListOffsets"))
        } else {
            Ok(())
        }
    }
    async fn count_records(&self, topics: &[Leaders]) -> Each<i64> {
        let state = self.state();
        topics
            .iter()
            .map(|topic| Ok(i64::from(state.records.contains(&topic.topic))))
            .collect()
    }
    async fn log_starts(&self, topics: &[Leaders]) -> Each<BTreeMap<i32, i64>> {
        let state = self.state();
        let start = |topic: &str, partition: i32| {
            let starts = &state.log_starts;
            starts
                .get(&(topic.to_owned(), partition))
                .copied()
                .unwrap_or_default()
        };
        let of_topic = |leaders: &Leaders| {
            let partitions = leaders.partitions.iter();
            Ok(partitions
                .map(|(partition, _)| (*partition, start(&leaders.topic, *partition)))
                .collect())
        };
        topics.iter().map(of_topic).collect()
    }
    async fn delete_records(&self, before: &[RecordsBefore]) -> Each<()> {
        let mut state = self.state();
        let each = before.iter().map(|one| {
            let place = (one.topic.clone(), one.partition);
            let end = state.log_ends.get(&place).copied();
            if one.offset > end.ok_or_else(|| unknown("DeleteRecords"))? {
                return Err(AdminError::Refused {
                    api: "DeleteRecords",
                    error: "OffsetOutOfRange".into(),
                    retriable: false,
                    message: None,
                });
            }
            let start = state.log_starts.entry(place).or_default();
            *start = one.offset.max(*start);
            Ok(())
        });
        each.collect()
    }
    async fn log_folders_of(&self, broker: i32) -> AdminResult<LogFolders> {
        let away = self
            .state()
            .cluster
            .brokers
            .iter()
            .any(|one| one.id == broker && one.fenced);
        if away {
            Err(AdminError::Unavailable(format!(
                "broker {broker} has no address"
            )))
        } else {
            Ok(LogFolders::default())
        }
    }
    async fn move_folders(&self, _broker: i32, _moves: &[FolderMove]) -> AdminResult<()> {
        Ok(())
    }
    async fn unregister_broker(&self, _broker: i32) -> AdminResult<()> {
        Ok(())
    }
    async fn add_voter(
        &self,
        _id: i32,
        _directory: uuid::Uuid,
        _host: &str,
        _port: u16,
    ) -> AdminResult<()> {
        Ok(())
    }
    async fn remove_voter(&self, _id: i32, _directory: uuid::Uuid) -> AdminResult<()> {
        Ok(())
    }
    async fn upgrade_features(&self, levels: &BTreeMap<String, i16>) -> AdminResult<()> {
        let mut state = self.state();
        levels.iter().for_each(|(name, level)| {
            state.write(MetadataRecord::Feature {
                name: name.clone(),
                level: *level,
            })
        });
        Ok(())
    }
    async fn create_acls(&self, acls: &[AclBinding]) -> Each<()> {
        let mut state = self.state();
        state.acl_requests.push(acls.len());
        if acls.len() > RECORDS_MAX {
            return acls.iter().map(|_| Err(too_many("CreateAcls"))).collect();
        }
        let refused = state.refused_acls.clone();
        let each = acls.iter().map(|acl| {
            if refused.contains(&acl.principal) {
                return Err(refused_by("CreateAcls", "SecurityDisabled"));
            }
            if !acl.principal.contains(':') {
                return Err(AdminError::Refused {
                    api: "CreateAcls",
                    error: "InvalidRequest".into(),
                    retriable: false,
                    message: None,
                });
            }
            // As in Kafka, an ACL that exists is not created again.
            if !state.acls.contains_key(acl) {
                let id = state.next_id();
                state.write(MetadataRecord::Acl {
                    id,
                    acl: acl.clone(),
                });
                state.acls.insert(acl.clone(), id);
            }
            Ok(())
        });
        each.collect()
    }
    async fn delete_acls(&self, acls: &[AclBinding]) -> Each<()> {
        let mut state = self.state();
        state.acl_requests.push(acls.len());
        if acls.len() > RECORDS_MAX {
            return acls.iter().map(|_| Err(too_many("DeleteAcls"))).collect();
        }
        for acl in acls {
            if let Some(id) = state.acls.remove(acl) {
                state.write(MetadataRecord::RemoveAcl { id });
            }
        }
        acls.iter().map(|_| Ok(())).collect()
    }
    async fn delete_groups(&self, groups: &[String]) -> Each<()> {
        self.state().deleted_groups.extend(groups.iter().cloned());
        groups.iter().map(|_| Ok(())).collect()
    }
    async fn remove_members(&self, _group: &str, instances: &[String]) -> AdminResult<()> {
        self.state().removed_members.extend_from_slice(instances);
        Ok(())
    }
    async fn fence_producers(&self, ids: &[String]) -> AdminResult<()> {
        self.state().fenced_producers.extend_from_slice(ids);
        Ok(())
    }
    async fn committed_offsets(&self, groups: &[String]) -> Each<Committed> {
        let state = self.state();
        let committed = |group| state.committed.get(group).cloned().unwrap_or_default();
        groups.iter().map(|group| Ok(committed(group))).collect()
    }
    async fn would_be_refused(&self, _principal: &str) -> AdminResult<Vec<AclBinding>> {
        Ok(Vec::new())
    }
    async fn loads(&self) -> BTreeMap<i32, Load> {
        let mut state = self.state();
        let busy = state.busy_looks > 0;
        state.busy_looks = state.busy_looks.saturating_sub(1);
        BTreeMap::from([(
            1,
            Load {
                cpu_pressure_now: if busy { 0.9 } else { 0.1 },
                ..Load::default()
            },
        )])
    }
    async fn alter_scram(&self, changes: &[ScramChange]) -> Each<()> {
        let mut state = self.state();
        for change in changes {
            state.write(match change {
                ScramChange::Upsert {
                    user,
                    salted_password,
                    ..
                } => MetadataRecord::Scram {
                    user: user.clone(),
                    mechanism: SCRAM_SHA_512,
                    fingerprint: Fingerprint::of(&scram::stored_key(salted_password)),
                },
                ScramChange::Delete { user } => MetadataRecord::RemoveScram {
                    user: user.clone(),
                    mechanism: SCRAM_SHA_512,
                },
            });
        }
        changes.iter().map(|_| Ok(())).collect()
    }
    async fn alter_quotas(&self, changes: &[QuotaChange]) -> Each<()> {
        let mut state = self.state();
        for change in changes {
            for (key, value) in &change.quotas {
                let entity = vec![("user".to_owned(), Some(change.user.clone()))];
                state.write(MetadataRecord::Quota {
                    entity,
                    key: key.clone(),
                    value: *value,
                });
            }
        }
        changes.iter().map(|_| Ok(())).collect()
    }
}

fn partition(topic: uuid::Uuid, index: i32, replicas: &[i32]) -> MetadataRecord {
    let state = PartitionFields {
        replicas: Some(replicas.to_vec()),
        in_sync: Some(replicas.to_vec()),
        leader: replicas.first().copied(),
        ..PartitionFields::default()
    };
    MetadataRecord::Partition {
        topic,
        index,
        state,
    }
}
