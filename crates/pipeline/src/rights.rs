//! The rights that a Pipeline needs in Kafka.

use crate::definition::{Delivery, ErrorPolicy};
use crate::stages::Cut;
use crate::topics::TopicTarget;
use std::collections::BTreeSet;

/// What the principal of a Pipeline must be allowed to do, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Topics to read.
    pub read: BTreeSet<String>,
    /// Topics to write.
    pub write: BTreeSet<String>,
    /// Prefix of its consumer groups and of its transactional ids.
    pub prefix: String,
    /// Whether it uses transactional ids.
    pub transactional: bool,
}

impl Rights {
    /// The rights for all stages. The prefix is `<namespace>.<pipeline>.`: where a cluster's
    /// `access.rights` is Own, groups and transactional ids begin with the namespace's name.
    pub fn of(cut: &Cut, namespace: &str, pipeline: &str) -> Self {
        let mut rights = Self {
            prefix: format!("{namespace}.{pipeline}."),
            ..Self::default()
        };
        let topic = |target: &TopicTarget| target.topic.clone();
        for stage in &cut.stages {
            let definition = &stage.definition;
            rights.transactional |= definition.delivery == Delivery::ExactlyOnce;
            for block in &definition.blocks {
                if let Ok(work) = block.work() {
                    rights.read.extend(work.reads().and_then(topic));
                    rights.write.extend(work.writes().and_then(topic));
                }
                if definition.errors.policy(block) == ErrorPolicy::DeadLetter {
                    rights
                        .write
                        .extend(definition.errors.dead_letter.as_ref().and_then(topic));
                }
            }
        }
        rights
    }
}
