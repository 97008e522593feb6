//! What a cluster holds, by who manages it. What is nobody's is never touched; it is counted, and listed on request.

use super::claims::{Claim, Claims};
use crate::kafka::metadata_image::{INTERNAL_TOPICS, MetadataImage};
use crate::kinds::reference::ClusterKey;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub managed_topics: usize,
    pub internal_topics: usize,
    pub managed_principals: usize,
    /// Nobody's topics.
    pub topics: Vec<String>,
    /// Nobody's principals.
    pub principals: Vec<String>,
}

impl Census {
    pub fn of(cluster: &ClusterKey, image: &MetadataImage, topics: &Claims, users: &Claims) -> Self {
        let mut census = Self::default();
        let claim = |name: &str| Claim { cluster: cluster.clone(), name: name.to_owned() };
        for (name, _) in image.topics() {
            if INTERNAL_TOPICS.contains(&&**name) {
                census.internal_topics += 1;
            } else if topics.is_claimed(&claim(name)) {
                census.managed_topics += 1;
            } else {
                census.topics.push(name.to_string());
            }
        }
        for (name, _) in image.principals() {
            if users.is_claimed(&claim(name)) {
                census.managed_principals += 1;
            } else {
                census.principals.push(format!("User:{name}"));
            }
        }
        census.topics.sort_unstable();
        census.principals.sort_unstable();
        census
    }
}
