//! The inventory of a cluster: its topics and principals by who manages them. Those that nobody
//! manages are never changed; they are counted, and listed on request. Pure.

use super::metadata_image::{INTERNAL_TOPICS, MetadataImage};
use super::ownership::Owned;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub managed_topics: usize,
    pub internal_topics: usize,
    pub managed_principals: usize,
    /// Topics that nobody manages.
    pub topics: Vec<String>,
    /// Principals that nobody manages.
    pub principals: Vec<String>,
}

impl Census {
    /// The inventory of these metadata. A topic or principal is managed if Kafka records an owner
    /// for it.
    pub fn of(image: &MetadataImage) -> Self {
        let mut census = Self::default();
        for (name, _) in image.topics() {
            if INTERNAL_TOPICS.contains(&&**name) {
                census.internal_topics += 1;
            } else if image.owners(Owned::Topic, name).is_empty() {
                census.topics.push(name.to_string());
            } else {
                census.managed_topics += 1;
            }
        }
        for (name, _) in image.principals() {
            if image.owners(Owned::Principal, name).is_empty() {
                census.principals.push(format!("User:{name}"));
            } else {
                census.managed_principals += 1;
            }
        }
        census.topics.sort_unstable();
        census.principals.sort_unstable();
        census
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata_record::MetadataRecord;
    use crate::ownership::{self, Owner};
    use uuid::Uuid;

    #[test]
    fn managed_is_what_has_an_owner_in_kafka() {
        let owner = Owner {
            namespace: "shop".into(),
            name: "a".into(),
            uid: "u".into(),
        };
        let mut image = MetadataImage::default();
        let topics = ["__consumer_offsets", "held", "made-by-hand"]
            .into_iter()
            .zip(1..);
        let mut records: Vec<_> = topics
            .map(|(name, id)| MetadataRecord::Topic {
                name: name.into(),
                id: Uuid::from_u128(id),
            })
            .collect();
        records.push(MetadataRecord::Acl {
            id: Uuid::from_u128(9),
            acl: ownership::mark(Owned::Topic, "held", &owner),
        });
        records
            .into_iter()
            .for_each(|record| image.apply(record, &mut Vec::new()));
        let census = Census::of(&image);
        assert_eq!(
            (census.managed_topics, census.internal_topics, census.topics),
            (1, 1, vec!["made-by-hand".to_owned()])
        );
    }
}
