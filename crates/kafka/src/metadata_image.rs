//! The state of a cluster's metadata after some records: topics with their configs, and by
//! principal the ACLs, SCRAM credentials and quotas. It holds only what decisions need. Pure.

use super::acl::AclBinding;
use super::config::Configs;
use super::metadata_record::{
    BROKER_RESOURCE, Fingerprint, MetadataRecord, PartitionFields, SCRAM_SHA_512, TOPIC_RESOURCE,
};
use super::ownership::{self, OWNED_COUNT, Owned, Owner};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// No topic has more partitions. A record with a larger index cannot be Kafka's.
const PARTITIONS_MAX: usize = 200_000;
const USER_PREFIX: &str = "User:";

/// Kafka's internal topics.
pub const INTERNAL_TOPICS: [&str; 4] = [
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
    "__cluster_metadata",
];

/// A partition. The lists hold broker ids; an empty list allocates nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionImage {
    pub replicas: Box<[i32]>,
    /// `None`: every replica is in sync.
    in_sync: Option<Box<[i32]>>,
    pub removing: Box<[i32]>,
    pub adding: Box<[i32]>,
    /// -1: no leader.
    pub leader: i32,
}

/// A topic id as Kafka's tools write it: URL-safe base64 of its 16 bytes.
pub fn id_text(id: Uuid) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(id.as_bytes())
}

impl PartitionImage {
    /// A partition on these brokers: all in sync, and the first one is the leader.
    pub fn new(replicas: &[i32]) -> Self {
        Self {
            replicas: replicas.into(),
            leader: replicas.first().copied().unwrap_or(-1),
            ..Self::default()
        }
    }

    /// The in-sync replicas.
    pub fn in_sync(&self) -> &[i32] {
        self.in_sync.as_deref().unwrap_or(&self.replicas)
    }

    /// True when the partition has no leader and none of its in-sync replicas serves. Waiting does
    /// not help; only a broker that returns with its log does.
    pub fn is_lost(&self, serves: impl Fn(i32) -> bool) -> bool {
        self.leader < 0 && !self.in_sync().iter().any(|id| serves(*id))
    }

    /// True while a reassignment of the partition is under way.
    pub fn is_moving(&self) -> bool {
        !self.removing.is_empty() || !self.adding.is_empty()
    }

    /// The replicas after every move has finished (KIP-455).
    pub fn target(&self) -> Vec<i32> {
        self.replicas
            .iter()
            .filter(|id| !self.removing.contains(id))
            .copied()
            .collect()
    }

    /// The replicas after every move has been cancelled.
    pub fn origin(&self) -> Vec<i32> {
        self.replicas
            .iter()
            .filter(|id| !self.adding.contains(id))
            .copied()
            .collect()
    }

    /// The partition of a record that has all fields.
    pub fn of(fields: PartitionFields) -> Self {
        let mut partition = Self {
            leader: -1,
            ..Self::default()
        };
        partition.update(fields);
        partition
    }

    fn update(&mut self, fields: PartitionFields) {
        let in_sync = fields
            .in_sync
            .or_else(|| self.in_sync.take().map(Vec::from));
        let before = in_sync.unwrap_or_else(|| self.replicas.to_vec());
        let set = |field: &mut Box<[i32]>, ids: Option<Vec<i32>>| {
            if let Some(ids) = ids {
                *field = ids.into_boxed_slice();
            }
        };
        set(&mut self.replicas, fields.replicas);
        set(&mut self.removing, fields.removing);
        set(&mut self.adding, fields.adding);
        self.leader = fields.leader.unwrap_or(self.leader);
        let whole = before.len() == self.replicas.len()
            && self.replicas.iter().all(|id| before.contains(id));
        self.in_sync = (!whole).then(|| before.into_boxed_slice());
    }
}

/// A topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicImage {
    pub id: Uuid,
    /// By partition index.
    pub partitions: Vec<PartitionImage>,
    /// The configs set on the topic itself.
    pub config: Configs,
}

/// What Kafka stores for a principal `User:<name>`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PrincipalImage {
    acls: Vec<(Uuid, AclBinding)>,
    /// Fingerprint of the SCRAM-SHA-512 credential.
    pub scram: Option<Fingerprint>,
    /// Quotas of the user, independent of the client id (KIP-13, KIP-546).
    pub quotas: BTreeMap<String, f64>,
}

impl PrincipalImage {
    /// The ACLs of the principal.
    pub fn acls(&self) -> impl Iterator<Item = &AclBinding> {
        self.acls.iter().map(|(_, acl)| acl)
    }

    /// True when Kafka stores nothing for the principal.
    pub fn is_empty(&self) -> bool {
        self.acls.is_empty() && self.scram.is_none() && self.quotas.is_empty()
    }
}

/// The topic or principal that a record changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Concerned {
    Topic(Arc<str>),
    Principal(Arc<str>),
}

/// The metadata of a cluster.
#[derive(Clone, Debug, Default)]
pub struct MetadataImage {
    topics: HashMap<Arc<str>, TopicImage>,
    names: HashMap<Uuid, Arc<str>>,
    principals: HashMap<Arc<str>, PrincipalImage>,
    /// The principal of each ACL.
    acls: HashMap<Uuid, Arc<str>>,
    /// Owners of topics and principals; and for each ACL that records an owner, what is owned and
    /// by which object.
    owners: [HashMap<Arc<str>, Vec<Arc<Owner>>>; OWNED_COUNT],
    marks: HashMap<Uuid, (Owned, Arc<str>, Arc<Owner>)>,
    /// Dynamic broker configs by node id. The empty name holds the cluster-wide ones.
    broker_configs: BTreeMap<String, BTreeMap<String, String>>,
    /// Levels of features in force.
    features: BTreeMap<String, i16>,
    transaction: Option<Vec<MetadataRecord>>,
}

impl MetadataImage {
    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&TopicImage> {
        self.topics.get(name)
    }

    /// All topics by name.
    pub fn topics(&self) -> impl Iterator<Item = (&Arc<str>, &TopicImage)> {
        self.topics.iter()
    }

    /// A principal by its name without `User:`.
    pub fn principal(&self, name: &str) -> Option<&PrincipalImage> {
        self.principals.get(name)
    }

    /// All principals by name, without `User:`.
    pub fn principals(&self) -> impl Iterator<Item = (&Arc<str>, &PrincipalImage)> {
        self.principals.iter()
    }

    /// The recorded owners of a topic or principal. There is one, or for a short time several when
    /// several objects claim it at once.
    pub fn owners(&self, owned: Owned, name: &str) -> &[Arc<Owner>] {
        self.owners[owned as usize]
            .get(name)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// All topics, principals and certificates that have an owner.
    pub fn all_owners(&self) -> impl Iterator<Item = &(Owned, Arc<str>, Arc<Owner>)> {
        self.marks.values()
    }

    /// Dynamic broker configs by node id. The empty name holds the cluster-wide ones.
    pub fn broker_configs(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.broker_configs
    }

    /// Levels of features in force (KIP-584).
    pub fn features(&self) -> &BTreeMap<String, i16> {
        &self.features
    }

    /// A cluster-wide dynamic broker config.
    pub fn brokers_config(&self, key: &str) -> Option<&str> {
        self.broker_configs.get("")?.get(key).map(String::as_str)
    }

    /// Applies a record and adds the topic or principal that it changes to `concerned`. Changes of
    /// leaders and in-sync replicas add nothing.
    pub fn apply(&mut self, record: MetadataRecord, concerned: &mut Vec<Concerned>) {
        match record {
            MetadataRecord::BeginTransaction => self.transaction = Some(Vec::new()),
            MetadataRecord::AbortTransaction => self.transaction = None,
            MetadataRecord::EndTransaction => {
                for record in self.transaction.take().unwrap_or_default() {
                    concerned.extend(self.replay(record));
                }
            }
            record => match &mut self.transaction {
                Some(held) => held.push(record),
                None => concerned.extend(self.replay(record)),
            },
        }
    }

    fn replay(&mut self, record: MetadataRecord) -> Option<Concerned> {
        match record {
            MetadataRecord::Topic { name, id } => {
                let name: Arc<str> = name.into();
                self.names.insert(id, Arc::clone(&name));
                let topic = self.topics.entry(Arc::clone(&name)).or_default();
                // In a cluster with many topics most have few partitions.
                (topic.id, topic.partitions) = (id, Vec::with_capacity(1));
                Some(Concerned::Topic(name))
            }
            MetadataRecord::RemoveTopic { id } => {
                let name = self.names.remove(&id)?;
                self.topics.remove(&name);
                Some(Concerned::Topic(name))
            }
            MetadataRecord::Partition {
                topic,
                index,
                state,
            }
            | MetadataRecord::PartitionChange {
                topic,
                index,
                state,
            } => self.partition(topic, index, state),
            MetadataRecord::Config {
                resource_type,
                resource,
                key,
                value,
            } => self.config(resource_type, &resource, key, value),
            MetadataRecord::Acl { id, acl } => self.acl(id, acl),
            MetadataRecord::RemoveAcl { id } => self.remove_acl(id),
            MetadataRecord::Scram {
                user,
                mechanism,
                fingerprint,
            } if mechanism == SCRAM_SHA_512 => {
                Some(Concerned::Principal(self.user_mut(&user, |principal| {
                    principal.scram = Some(fingerprint)
                })))
            }
            MetadataRecord::RemoveScram { user, mechanism } if mechanism == SCRAM_SHA_512 => Some(
                Concerned::Principal(self.user_mut(&user, |principal| principal.scram = None)),
            ),
            MetadataRecord::Quota { entity, key, value } => self.quota(&entity, key, value),
            MetadataRecord::Feature { name, level } => {
                self.features.insert(name, level);
                None
            }
            MetadataRecord::Scram { .. }
            | MetadataRecord::RemoveScram { .. }
            | MetadataRecord::BeginTransaction
            | MetadataRecord::EndTransaction
            | MetadataRecord::AbortTransaction => None,
        }
    }

    fn acl(&mut self, id: Uuid, acl: AclBinding) -> Option<Concerned> {
        if let Some((owned, name, owner)) = ownership::read(&acl) {
            return Some(self.own(id, owned, name.into(), owner));
        }
        let user = acl.principal.strip_prefix(USER_PREFIX)?.to_owned();
        let name = self.user_mut(&user, |principal| principal.acls.push((id, acl)));
        self.acls.insert(id, Arc::clone(&name));
        Some(Concerned::Principal(name))
    }

    fn remove_acl(&mut self, id: Uuid) -> Option<Concerned> {
        if let Some((owned, name, owner)) = self.marks.remove(&id) {
            return Some(self.disown(owned, name, &owner));
        }
        let user = self.acls.remove(&id)?;
        Some(Concerned::Principal(self.user_mut(&user, |principal| {
            principal.acls.retain(|(other, _)| *other != id)
        })))
    }

    /// Only quotas of a single user are used.
    fn quota(
        &mut self,
        entity: &[(String, Option<String>)],
        key: String,
        value: Option<f64>,
    ) -> Option<Concerned> {
        let [(kind, Some(user))] = entity else {
            return None;
        };
        if kind != "user" {
            return None;
        }
        Some(Concerned::Principal(self.user_mut(
            user,
            |principal| match value {
                Some(value) => drop(principal.quotas.insert(key, value)),
                None => drop(principal.quotas.remove(&key)),
            },
        )))
    }

    fn own(&mut self, id: Uuid, owned: Owned, name: Arc<str>, owner: Owner) -> Concerned {
        let owner = Arc::new(owner);
        let owners = self.owners[owned as usize]
            .entry(Arc::clone(&name))
            .or_insert_with(|| Vec::with_capacity(1));
        owners.push(Arc::clone(&owner));
        self.marks.insert(id, (owned, Arc::clone(&name), owner));
        concern(owned, name)
    }

    fn disown(&mut self, owned: Owned, name: Arc<str>, owner: &Owner) -> Concerned {
        let all = &mut self.owners[owned as usize];
        if let Some(owners) = all.get_mut(&name) {
            owners.retain(|other| **other != *owner);
            if owners.is_empty() {
                all.remove(&name);
            }
        }
        concern(owned, name)
    }

    fn partition(&mut self, topic: Uuid, index: i32, state: PartitionFields) -> Option<Concerned> {
        let name = self.names.get(&topic)?;
        let partitions = &mut self.topics.get_mut(name)?.partitions;
        let index = usize::try_from(index).ok()?;
        if index >= PARTITIONS_MAX {
            return None;
        }
        let concerns = index >= partitions.len()
            || state.replicas.is_some()
            || state.removing.is_some()
            || state.adding.is_some();
        if index >= partitions.len() {
            partitions.resize_with(index + 1, PartitionImage::default);
        }
        partitions[index].update(state);
        concerns.then(|| Concerned::Topic(Arc::clone(name)))
    }

    fn config(
        &mut self,
        resource_type: i8,
        resource: &str,
        key: String,
        value: Option<String>,
    ) -> Option<Concerned> {
        match resource_type {
            TOPIC_RESOURCE => {
                let name = Arc::clone(self.topics.get_key_value(resource)?.0);
                self.topics.get_mut(&name)?.config.set(&key, value);
                Some(Concerned::Topic(name))
            }
            BROKER_RESOURCE => {
                let configs = self.broker_configs.entry(resource.to_owned()).or_default();
                match value {
                    Some(value) => drop(configs.insert(key, value)),
                    None => drop(configs.remove(&key)),
                }
                if configs.is_empty() {
                    self.broker_configs.remove(resource);
                }
                None
            }
            _ => None,
        }
    }

    fn user_mut(&mut self, user: &str, change: impl FnOnce(&mut PrincipalImage)) -> Arc<str> {
        let name = self
            .principals
            .get_key_value(user)
            .map_or_else(|| Arc::from(user), |(name, _)| Arc::clone(name));
        let image = self.principals.entry(Arc::clone(&name)).or_default();
        change(image);
        if image.is_empty() {
            self.principals.remove(&name);
        }
        name
    }
}

fn concern(owned: Owned, name: Arc<str>) -> Concerned {
    match owned {
        Owned::Topic => Concerned::Topic(name),
        Owned::Principal | Owned::Certificate => Concerned::Principal(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::from_u128(1);

    fn image(records: Vec<MetadataRecord>) -> (MetadataImage, Vec<Concerned>) {
        let (mut image, mut concerned) = (MetadataImage::default(), Vec::new());
        records
            .into_iter()
            .for_each(|record| image.apply(record, &mut concerned));
        (image, concerned)
    }

    fn topic() -> MetadataRecord {
        MetadataRecord::Topic {
            name: "t".into(),
            id: ID,
        }
    }

    fn partition(replicas: &[i32]) -> MetadataRecord {
        let state = PartitionFields {
            replicas: Some(replicas.to_vec()),
            in_sync: Some(replicas.to_vec()),
            ..PartitionFields::default()
        };
        MetadataRecord::Partition {
            topic: ID,
            index: 0,
            state,
        }
    }

    #[test]
    fn who_is_in_sync_follows_changes_and_concerns_nobody() {
        let in_sync = |ids: &[i32]| PartitionFields {
            in_sync: Some(ids.to_vec()),
            ..PartitionFields::default()
        };
        let change = |ids: &[i32]| MetadataRecord::PartitionChange {
            topic: ID,
            index: 0,
            state: in_sync(ids),
        };
        let (shrunk, concerned) = image(vec![topic(), partition(&[1, 2, 3]), change(&[1, 3])]);
        assert_eq!(shrunk.topic("t").unwrap().partitions[0].in_sync(), [1, 3]);
        assert_eq!(concerned.len(), 2);
        let (whole, _) = image(vec![
            topic(),
            partition(&[1, 2, 3]),
            change(&[1, 3]),
            change(&[3, 1, 2]),
        ]);
        assert_eq!(
            whole.topic("t").unwrap().partitions[0],
            PartitionImage {
                leader: 0,
                ..PartitionImage::new(&[1, 2, 3])
            }
        );
    }

    #[test]
    fn a_move_has_an_origin_and_a_target() {
        let state = PartitionFields {
            replicas: Some(vec![4, 1, 2]),
            adding: Some(vec![4]),
            removing: Some(vec![2]),
            ..PartitionFields::default()
        };
        let (moving, _) = image(vec![
            topic(),
            partition(&[1, 2]),
            MetadataRecord::PartitionChange {
                topic: ID,
                index: 0,
                state,
            },
        ]);
        let partition = &moving.topic("t").unwrap().partitions[0];
        assert_eq!(
            (
                partition.target(),
                partition.origin(),
                partition.is_moving()
            ),
            (vec![4, 1], vec![1, 2], true)
        );
    }

    #[test]
    fn a_topic_that_is_removed_takes_its_configs_along() {
        let config = MetadataRecord::Config {
            resource_type: TOPIC_RESOURCE,
            resource: "t".into(),
            key: "a".into(),
            value: Some("1".into()),
        };
        let (with, _) = image(vec![topic(), config.clone()]);
        assert_eq!(with.topic("t").unwrap().config.get("a"), Some("1"));
        let (again, _) = image(vec![
            topic(),
            config,
            MetadataRecord::RemoveTopic { id: ID },
            topic(),
        ]);
        assert!(again.topic("t").unwrap().config.is_empty());
    }

    #[test]
    fn a_principal_is_there_while_it_has_anything() {
        let acl = AclBinding {
            resource_type: 2,
            resource_name: "t".into(),
            pattern_type: 3,
            principal: "User:a".into(),
            host: "*".into(),
            operation: 3,
            permission: 3,
        };
        let create = MetadataRecord::Acl { id: ID, acl };
        let (one, concerned) = image(vec![create.clone()]);
        assert_eq!(
            (one.principal("a").unwrap().acls().count(), concerned),
            (1, vec![Concerned::Principal("a".into())])
        );
        assert!(
            image(vec![create, MetadataRecord::RemoveAcl { id: ID }])
                .0
                .principal("a")
                .is_none()
        );
    }

    #[test]
    fn an_owner_is_known_by_its_mark_and_is_no_right_of_a_principal() {
        let owner = Owner {
            namespace: "shop".into(),
            name: "a".into(),
            uid: "u".into(),
        };
        let acl = ownership::mark(Owned::Principal, "a", &owner);
        let create = MetadataRecord::Acl { id: ID, acl };
        let (owned, concerned) = image(vec![create.clone()]);
        assert_eq!(
            (owned.owners(Owned::Principal, "a"), concerned),
            (
                [Arc::new(owner)].as_slice(),
                vec![Concerned::Principal("a".into())]
            )
        );
        assert!(owned.principals().next().is_none() && owned.owners(Owned::Topic, "a").is_empty());
        let (gone, concerned) = image(vec![create, MetadataRecord::RemoveAcl { id: ID }]);
        assert!(
            gone.owners(Owned::Principal, "a").is_empty() && gone.all_owners().next().is_none()
        );
        assert_eq!(concerned.len(), 2, "who waits for the name hears of it");
    }

    #[test]
    fn a_transaction_counts_once_it_ends() {
        let (open, _) = image(vec![MetadataRecord::BeginTransaction, topic()]);
        assert!(open.topic("t").is_none());
        assert!(
            image(vec![
                MetadataRecord::BeginTransaction,
                topic(),
                MetadataRecord::EndTransaction
            ])
            .0
            .topic("t")
            .is_some()
        );
        assert!(
            image(vec![
                MetadataRecord::BeginTransaction,
                topic(),
                MetadataRecord::AbortTransaction
            ])
            .0
            .topic("t")
            .is_none()
        );
    }
}
