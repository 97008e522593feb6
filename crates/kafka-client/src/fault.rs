//! Fault injection for tests, in builds with the feature `fault-injection` alone. It is off unless `FREEHOLD_FAULT_EXIT_AFTER_WRITES=n` is set: then
//! the process exits after its n-th write to the API server or to Kafka, as if it had been killed
//! there.

use kafka_protocol::messages::ApiKey;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

const EXIT_AFTER_WRITES: &str = "FREEHOLD_FAULT_EXIT_AFTER_WRITES";
/// The exit code of a killed process (128 + SIGKILL).
const EXIT_CODE: i32 = 137;
/// Writes that are left before the process exits. `None`: no limit.
static LEFT: LazyLock<Option<AtomicU32>> = LazyLock::new(|| {
    std::env::var(EXIT_AFTER_WRITES)
        .ok()?
        .parse()
        .ok()
        .map(AtomicU32::new)
});

/// Counts a write that was answered.
pub fn wrote() {
    if let Some(left) = &*LEFT
        && left.fetch_sub(1, Ordering::SeqCst) <= 1
    {
        std::process::exit(EXIT_CODE);
    }
}

/// Counts a request that a broker has answered, if the request changes something.
pub(crate) fn asked_kafka(key: i16) {
    if ApiKey::try_from(key).is_ok_and(changes) {
        wrote();
    }
}

/// The requests of the admin client that change something.
fn changes(key: ApiKey) -> bool {
    use ApiKey as K;
    matches!(
        key,
        K::CreateTopics
            | K::DeleteTopics
            | K::CreatePartitions
            | K::IncrementalAlterConfigs
            | K::AlterPartitionReassignments
            | K::ElectLeaders
            | K::CreateAcls
            | K::DeleteAcls
            | K::AlterUserScramCredentials
            | K::AlterClientQuotas
            | K::UpdateFeatures
            | K::UnregisterBroker
            | K::AddRaftVoter
            | K::RemoveRaftVoter
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_the_cluster_counts() {
        assert!(
            changes(ApiKey::AlterPartitionReassignments)
                && !changes(ApiKey::DescribeQuorum)
                && !changes(ApiKey::Fetch)
        );
    }
}
