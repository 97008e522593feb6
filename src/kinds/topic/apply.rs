//! Does a Topic's steps. Writes only.

use super::api::Topic;
use super::plan::Step;
use super::reconcile::Error;
use crate::kafka::topic_plan::{TopicChange, WantedTopic};
use crate::kafka_admin::{Admin, AdminResult, NewTopic};
use crate::kube_io;
use kube::Client;

pub async fn apply(client: &Client, admin: &dyn Admin, object: &Topic, name: &str, step: &Step) -> Result<(), Error> {
    match step {
        Step::AddFinalizer => kube_io::set_finalizer(client, object, true).await?,
        Step::Change(step) => change(admin, name, step).await?,
    }
    Ok(())
}

/// Does one change in Kafka.
async fn change(admin: &dyn Admin, name: &str, step: &TopicChange) -> AdminResult<()> {
    match step {
        TopicChange::Create(wanted) => {
            let WantedTopic { name, partitions, replicas, config } = wanted.clone();
            match admin.create_topic(&NewTopic { name, partitions, replicas, config }).await {
                // A broker's cache did not know it yet: the next look sees it.
                Err(error) if error.is("TopicAlreadyExists") => Ok(()),
                other => other,
            }
        }
        TopicChange::AddPartitions { count } => admin.create_partitions(name, *count).await,
        TopicChange::AlterConfig(changes) => admin.alter_topic_config(name, changes).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::topic_plan::changes;
    use crate::kafka_admin::fake::FakeCluster;
    use std::collections::BTreeMap;

    /// Plans and applies until there is nothing to change; gives the number of changes.
    async fn settle(cluster: &FakeCluster, wanted: &WantedTopic) -> usize {
        let mut done = 0;
        loop {
            let found = cluster.state().topics.get(&wanted.name).cloned();
            let steps = changes(wanted, found.as_ref().map(|(topic, config)| (topic, config))).unwrap();
            if steps.is_empty() {
                return done;
            }
            for step in &steps {
                change(cluster, &wanted.name, step).await.unwrap();
                done += 1;
            }
            assert!(done < 10, "it never settles");
        }
    }

    #[test]
    fn what_is_planned_and_applied_leaves_nothing_to_change() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let cluster = FakeCluster::default();
            let config = |key: &str| BTreeMap::from([(key.to_owned(), "1".to_owned())]);
            let wanted = WantedTopic { name: "t".into(), partitions: 2, replicas: 1, config: config("retention.ms") };
            assert_eq!(settle(&cluster, &wanted).await, 1, "created once");
            let grown = WantedTopic { partitions: 5, config: config("max.message.bytes"), ..wanted };
            assert_eq!(settle(&cluster, &grown).await, 2, "partitions, and both configs in one");
            assert_eq!(cluster.topic_config("t").await.unwrap(), grown.config);
            // A second creation, as after a stale read, changes nothing.
            change(&cluster, "t", &TopicChange::Create(grown.clone())).await.unwrap();
            assert_eq!(settle(&cluster, &grown).await, 0);
        });
    }
}
