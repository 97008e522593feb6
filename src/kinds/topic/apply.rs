//! Does a Topic's steps. Writes only.

use super::api::Topic;
use super::plan::Step;
use super::reconcile::Error;
use crate::kafka::topic_plan::TopicChange;
use crate::kafka_admin::{Admin, NewTopic};
use crate::kube_io;
use kube::Client;

pub async fn apply(client: &Client, admin: &dyn Admin, object: &Topic, name: &str, step: &Step) -> Result<(), Error> {
    match step {
        Step::AddFinalizer => kube_io::set_finalizer(client, object, true).await?,
        Step::Change(TopicChange::Create(wanted)) => {
            let topic = NewTopic {
                name: wanted.name.clone(),
                partitions: wanted.partitions,
                replicas: wanted.replicas,
                config: wanted.config.clone(),
            };
            match admin.create_topic(&topic).await {
                // A broker's cache did not know it yet: the next look sees it.
                Err(error) if error.is("TopicAlreadyExists") => {}
                other => other?,
            }
        }
        Step::Change(TopicChange::AddPartitions { count }) => admin.create_partitions(name, *count).await?,
        Step::Change(TopicChange::AlterConfig(changes)) => admin.alter_topic_config(name, changes).await?,
    }
    Ok(())
}
