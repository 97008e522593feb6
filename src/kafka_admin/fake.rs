//! A cluster in memory, for tests of what talks to one.

use super::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct FakeCluster {
    state: Mutex<FakeState>,
}

/// What the fake holds; tests look and change.
#[derive(Clone, Default)]
pub struct FakeState {
    pub cluster: ClusterDescription,
    pub quorum: QuorumDescription,
    pub topics: BTreeMap<String, (TopicDescription, BTreeMap<String, String>)>,
    pub acls: Vec<AclBinding>,
    pub scram: BTreeMap<String, ScramUpsertion>,
    /// Topics that hold records.
    pub records: Vec<String>,
    created: u128,
}

impl FakeCluster {
    pub fn state(&self) -> MutexGuard<'_, FakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(api: &'static str) -> AdminError {
    AdminError::Refused { api, error: "UnknownTopicOrPartition".into(), retriable: true, message: None }
}

#[async_trait]
impl Admin for FakeCluster {
    async fn describe_cluster(&self) -> AdminResult<ClusterDescription> {
        Ok(self.state().cluster.clone())
    }
    async fn describe_quorum(&self) -> AdminResult<QuorumDescription> {
        Ok(self.state().quorum.clone())
    }
    async fn describe_topics(&self, names: Option<&[String]>) -> AdminResult<Vec<TopicDescription>> {
        let wanted = |name: &String| names.is_none_or(|names| names.contains(name));
        Ok(self.state().topics.iter().filter(|(name, _)| wanted(name)).map(|(_, (topic, _))| topic.clone()).collect())
    }
    async fn create_topic(&self, topic: &NewTopic) -> AdminResult<()> {
        let mut state = self.state();
        if state.topics.contains_key(&topic.name) {
            return Err(AdminError::Refused { api: "CreateTopics", error: "TopicAlreadyExists".into(), retriable: false, message: None });
        }
        state.created += 1;
        let replicas: Vec<i32> = (1..=i32::from(topic.replicas.max(1))).collect();
        let partition = |index| PartitionDescription { index, leader: 1, replicas: replicas.clone(), in_sync: replicas.clone() };
        let description = TopicDescription {
            name: topic.name.clone(),
            id: uuid::Uuid::from_u128(state.created),
            internal: false,
            partitions: (0..topic.partitions).map(partition).collect(),
        };
        state.topics.insert(topic.name.clone(), (description, topic.config.clone()));
        Ok(())
    }
    async fn create_partitions(&self, topic: &str, count: i32) -> AdminResult<()> {
        let mut state = self.state();
        let (found, _) = state.topics.get_mut(topic).ok_or_else(|| unknown("CreatePartitions"))?;
        let first = found.partitions.first().cloned().ok_or_else(|| unknown("CreatePartitions"))?;
        found.partitions = (0..count).map(|index| PartitionDescription { index, ..first.clone() }).collect();
        Ok(())
    }
    async fn delete_topic(&self, id: uuid::Uuid) -> AdminResult<()> {
        self.state().topics.retain(|_, (topic, _)| topic.id != id);
        Ok(())
    }
    async fn topic_config(&self, topic: &str) -> AdminResult<BTreeMap<String, String>> {
        self.state().topics.get(topic).map(|(_, config)| config.clone()).ok_or_else(|| unknown("DescribeConfigs"))
    }
    async fn alter_topic_config(&self, topic: &str, changes: &BTreeMap<String, Option<String>>) -> AdminResult<()> {
        let mut state = self.state();
        let (_, config) = state.topics.get_mut(topic).ok_or_else(|| unknown("IncrementalAlterConfigs"))?;
        for (key, value) in changes {
            match value {
                Some(value) => config.insert(key.clone(), value.clone()),
                None => config.remove(key),
            };
        }
        Ok(())
    }
    async fn topic_holds_records(&self, topic: &TopicDescription) -> AdminResult<bool> {
        Ok(self.state().records.contains(&topic.name))
    }
    async fn acls_of(&self, principal: &str) -> AdminResult<Vec<AclBinding>> {
        Ok(self.state().acls.iter().filter(|acl| acl.principal == principal).cloned().collect())
    }
    async fn create_acls(&self, acls: &[AclBinding]) -> AdminResult<()> {
        self.state().acls.extend_from_slice(acls);
        Ok(())
    }
    async fn delete_acls(&self, acls: &[AclBinding]) -> AdminResult<()> {
        self.state().acls.retain(|acl| !acls.contains(acl));
        Ok(())
    }
    async fn scram_iterations(&self, user: &str) -> AdminResult<Option<i32>> {
        Ok(self.state().scram.get(user).map(|credential| credential.iterations))
    }
    async fn upsert_scram(&self, credential: &ScramUpsertion) -> AdminResult<()> {
        self.state().scram.insert(credential.user.clone(), credential.clone());
        Ok(())
    }
    async fn delete_scram(&self, user: &str) -> AdminResult<()> {
        self.state().scram.remove(user);
        Ok(())
    }
}
