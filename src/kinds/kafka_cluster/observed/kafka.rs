//! The answers of the brokers as typed facts. Pure.

use freehold_kafka::safety::{Answer, TopicView};
use freehold_kafka_client::{ClusterDescription, QuorumDescription};
use std::collections::BTreeMap;

/// The answers of the brokers.
#[derive(Clone, Debug, Default)]
pub enum KafkaFacts {
    /// No broker was asked, because none runs yet.
    #[default]
    NotAsked,
    Unavailable(String),
    Answered {
        cluster: ClusterDescription,
        quorum: QuorumDescription,
        /// The topics according to the metadata log, read up to the offset that was committed when
        /// the quorum was described.
        topics: Vec<TopicView>,
        /// Dynamic configs by node id; the cluster-wide ones are under the empty name.
        configs: BTreeMap<String, BTreeMap<String, String>>,
        /// The feature levels in force.
        features: BTreeMap<String, i16>,
    },
}

impl KafkaFacts {
    /// The part of the answers that decides whether a node may be disrupted; `None` if no broker
    /// answered.
    pub fn answer(&self) -> Option<Answer<'_>> {
        let Self::Answered {
            cluster,
            quorum,
            topics,
            ..
        } = self
        else {
            return None;
        };
        Some(Answer {
            cluster,
            quorum,
            topics,
        })
    }
}
