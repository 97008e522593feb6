//! Executes a Topic's steps. It only writes.

use crate::api::topic::Topic;
use crate::kinds::error::Error;
use crate::kinds::topic::plan::Step;
use crate::kubernetes;
use crate::tenancy::ownership::owner_of;
use freehold_kafka::ownership::{Owned, mark};
use freehold_kafka::topic_plan::{THROTTLE_RATES, THROTTLED, TopicChange, WantedTopic};
use freehold_kafka_client::batch::BatchedAdmin;
use freehold_kafka_client::{AdminResult, ConfigResource, NewTopic, Reassignment};
use kube::Client;
use std::collections::BTreeMap;

/// Executes one step. Returns the new object after a step that changed it.
pub async fn apply(
    client: &Client,
    admin: &BatchedAdmin,
    object: &Topic,
    name: &str,
    step: &Step,
) -> Result<Option<Topic>, Error> {
    match step {
        Step::AddFinalizer => return Ok(kubernetes::set_finalizer(client, object, true).await?),
        Step::RecordOwner => {
            admin
                .create_acls(vec![mark(Owned::Topic, name, &owner_of(object))])
                .await?
        }
        Step::SetThrottle(rate) => {
            let rates = THROTTLE_RATES
                .map(|key| (key.to_owned(), Some(rate.to_string())))
                .into();
            admin.alter_config(ConfigResource::Brokers, rates).await?;
        }
        Step::Change(step) => change(admin, name, step).await?,
    }
    Ok(None)
}

/// Sets the throttle alone, after Kafka has refused a change of the config that contains it: the
/// moves that follow need it.
pub async fn throttle(admin: &BatchedAdmin, name: &str, step: &Step) -> AdminResult<()> {
    let Step::Change(TopicChange::AlterConfig(changes)) = step else {
        return Ok(());
    };
    let changes = changes.iter();
    let throttle: BTreeMap<_, _> = changes
        .filter(|(key, _)| THROTTLED.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if throttle.is_empty() {
        return Ok(());
    }
    let topic = ConfigResource::Topic(name.to_owned());
    admin.alter_config(topic, throttle).await
}

/// Executes one change in Kafka.
async fn change(admin: &BatchedAdmin, name: &str, step: &TopicChange) -> AdminResult<()> {
    match step.clone() {
        TopicChange::Create(WantedTopic {
            name,
            partitions,
            replicas,
            config,
        }) => {
            match admin
                .create_topic(NewTopic {
                    name,
                    partitions,
                    replicas,
                    config,
                })
                .await
            {
                // An earlier call whose answer was lost has created it; the metadata will show it.
                Err(error) if error.is("TopicAlreadyExists") => Ok(()),
                other => other,
            }
        }
        TopicChange::AddPartitions { count } => {
            admin.create_partitions(name.to_owned(), count).await
        }
        TopicChange::AlterConfig(changes) => {
            admin
                .alter_config(ConfigResource::Topic(name.to_owned()), changes)
                .await
        }
        TopicChange::Reassign(moves) => {
            let moves = moves.into_iter().map(|(partition, replicas)| Reassignment {
                topic: name.to_owned(),
                partition,
                replicas,
            });
            admin.reassign(moves.collect()).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_kafka::replication::Brokers;
    use freehold_kafka::topic_plan::changes;
    use freehold_kafka_client::Admin;
    use freehold_kafka_client::fake::FakeCluster;
    use std::sync::Arc;

    /// Plans and applies until there is nothing to change. Returns the number of changes.
    async fn settle(cluster: &FakeCluster, admin: &BatchedAdmin, wanted: &WantedTopic) -> usize {
        let brokers = Brokers {
            racks: (1..=3).map(|id| (id, format!("r{id}"))).collect(),
            replicas: BTreeMap::new(),
        };
        let mut done = 0;
        loop {
            let steps = changes(wanted, cluster.state().image.topic(&wanted.name), &brokers).steps;
            if steps.is_empty() {
                return done;
            }
            for step in &steps {
                change(admin, &wanted.name, step).await.unwrap();
                done += 1;
            }
            assert!(done < 10, "it never settles");
        }
    }

    #[tokio::test]
    async fn what_is_planned_and_applied_leaves_nothing_to_change() {
        let cluster = Arc::new(FakeCluster::default());
        let admin = BatchedAdmin::new(Arc::clone(&cluster) as Arc<dyn Admin>);
        let config = |key: &str| BTreeMap::from([(key.to_owned(), "1".to_owned())]);
        let wanted = WantedTopic {
            name: "t".into(),
            partitions: 2,
            replicas: 1,
            config: config("retention.ms"),
        };
        assert_eq!(settle(&cluster, &admin, &wanted).await, 1, "created once");
        let grown = WantedTopic {
            partitions: 5,
            config: config("max.message.bytes"),
            ..wanted
        };
        assert_eq!(
            settle(&cluster, &admin, &grown).await,
            2,
            "partitions, and both configs in one"
        );
        assert_eq!(
            cluster.state().image.topic("t").unwrap().config,
            grown.config.clone().into()
        );
        // A second creation, as it happens after a lost answer, changes nothing.
        change(&admin, "t", &TopicChange::Create(grown.clone()))
            .await
            .unwrap();
        assert_eq!(settle(&cluster, &admin, &grown).await, 0);
        let copied = WantedTopic {
            replicas: 3,
            ..grown
        };
        assert_eq!(
            settle(&cluster, &admin, &copied).await,
            3,
            "throttle, moves, and the throttle's end"
        );
        assert!(
            cluster
                .state()
                .image
                .topic("t")
                .unwrap()
                .partitions
                .iter()
                .all(|partition| partition.replicas.len() == 3)
        );
    }
}
