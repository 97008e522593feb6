//! Wanted topic and observed world -> the steps between them. Pure.

use super::api::{Adoption, Topic, TopicDeletionPolicy};
use super::observe::Observed;
use super::validate::topic_name;
use crate::conditions::Reason;
use crate::kafka::metadata_image::{TopicImage, id_text};
use crate::kafka::topic_plan::{self, RATE_START, THROTTLE_RATES, TopicChange, WantedTopic};
use crate::kinds::drift;
use crate::kinds::error::Invalid;
use crate::kinds::look;
use crate::{kube_io, labels};
use k8s_openapi::jiff::Timestamp;
use std::fmt;
use std::time::Duration;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddFinalizer,
    /// The brokers' throttle for replicas that move, bytes per second.
    SetThrottle(u64),
    Change(TopicChange),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => write!(f, "add the finalizer"),
            Self::SetThrottle(rate) => write!(f, "set the brokers' throttle to {rate} bytes per second"),
            Self::Change(change) => write!(f, "{change}"),
        }
    }
}

/// What to do, and what somebody else did that it undoes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub drift: Vec<String>,
    /// The topic is gone, and so is its id, in status before another one is made: that one would not count as this object's
    /// where the operator, or the object, ends before its id is known.
    pub forgets: bool,
}

/// The id of the topic that this object made or took over.
fn managed(object: &Topic) -> Option<&str> {
    object.status.as_ref()?.topic_id.as_deref()
}

/// Plans the next steps.
///
/// # Errors
/// What the topic cannot become, or that it is not this object's.
pub fn plan(object: &Topic, wanted: &WantedTopic, observed: &Observed) -> Result<Plan, Vec<Invalid>> {
    let mut plan = Plan::default();
    let found = observed.topic.as_ref();
    let differences = found.map(|topic| topic_plan::differences(wanted, topic)).unwrap_or_default();
    let settled = object.status.as_ref().is_some_and(|status| drift::was_settled(&status.conditions, object.metadata.generation));
    match (found, managed(object)) {
        (Some(topic), None) if !kube_io::has_finalizer(object) => adopt(object, topic, &differences)?,
        (Some(topic), Some(id)) if id_text(topic.id) != id => {
            if object.spec.adoption == Adoption::Never {
                let why = format!(
                    "topic {} was deleted and made again by somebody else (id {}, not {id}), and adoption is Never",
                    wanted.name,
                    id_text(topic.id)
                );
                return Err(vec![Invalid::new("spec.adoption", why).because(Reason::NotOurs)]);
            }
            plan.drift.push(format!("the topic was deleted and made again (id {}, not {id})", id_text(topic.id)));
            plan.drift.extend(differences);
        }
        (Some(_), Some(_)) if settled => plan.drift = differences,
        (None, Some(id)) => {
            plan.drift.push(format!("the topic was deleted (id {id}) with what it held"));
            return Ok(Plan { forgets: true, ..plan });
        }
        _ => {}
    }
    let changes =
        topic_plan::changes(wanted, found, &observed.brokers).map_err(|refusal| vec![Invalid::new(refusal.field, refusal.why)])?;
    if !kube_io::has_finalizer(object) {
        plan.steps.push(Step::AddFinalizer);
    }
    let rate = observed.cluster.throttle.unwrap_or(RATE_START);
    // Where the cluster works it out, whatever there is was worked out already.
    let throttled = |key: &&str| {
        let found = observed.brokers_config.get(*key);
        found.is_some_and(|found| observed.cluster.throttle.is_none() || *found == rate.to_string())
    };
    if !THROTTLE_RATES.iter().all(throttled) && changes.iter().any(|change| matches!(change, TopicChange::Reassign(_))) {
        plan.steps.push(Step::SetThrottle(rate));
    }
    plan.steps.extend(changes.into_iter().map(Step::Change));
    Ok(plan)
}

/// Whether a topic that exists and that this object did not make becomes its own.
fn adopt(object: &Topic, topic: &TopicImage, differences: &[String]) -> Result<(), Vec<Invalid>> {
    let name = topic_name(object);
    let why = match object.spec.adoption {
        Adoption::Always => return Ok(()),
        Adoption::IfIdentical if differences.is_empty() => return Ok(()),
        Adoption::IfIdentical => format!(
            "topic {name} exists (id {}) and differs: {}; make the spec as it is, or set adoption: Always to change the topic, or take another name",
            topic.id,
            differences.join("; ")
        ),
        Adoption::Never => format!("topic {name} exists (id {}) and adoption is Never; take another name", topic.id),
    };
    Err(vec![Invalid::new("spec.adoption", why).because(Reason::NotOurs)])
}

/// What the end of a Topic does to the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The topic stays, or there is none.
    Release,
    /// There is none, and one that was asked for may come yet.
    Wait(Duration),
    Delete(uuid::Uuid),
    /// It holds records, and nobody confirmed.
    Refuse,
}

/// Decides the end.
pub fn end(object: &Topic, observed: &Observed, now: Timestamp) -> End {
    let Some(found) = &observed.topic else {
        let late = managed(object).is_none().then(|| look::late(&object.metadata, now)).flatten();
        return late.map_or(End::Release, End::Wait);
    };
    // Only the topic that this object manages is deleted: not one that somebody else made under its name.
    let ours = managed(object).is_none_or(|id| *id == id_text(found.id)) && observed.older.is_none();
    if !ours || object.spec.deletion_policy == TopicDeletionPolicy::Retain {
        return End::Release;
    }
    let annotations = object.metadata.annotations.as_ref();
    let confirmed = annotations.and_then(|all| all.get(labels::CONFIRM_DELETE)).is_some_and(|name| name == topic_name(object));
    if observed.holds_records && !confirmed { End::Refuse } else { End::Delete(found.id) }
}

#[cfg(test)]
mod tests {
    use super::super::api::TopicStatus;
    use super::super::{desired, validate};
    use super::*;
    use crate::conditions::{State, conditions};
    use crate::kafka::metadata_image::PartitionImage;
    use crate::kafka::replication::Brokers;
    use crate::kinds::kafka_cluster::api::KafkaCluster;
    use crate::runtime::clusters::ClusterFacts;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::SignedDuration;
    use serde_json::json;
    use std::sync::Arc;

    fn topic(adoption: &str, finalizer: bool, id: Option<u128>) -> Topic {
        let mut topic: Topic = serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "t", "namespace": "shop", "generation": 1},
            "spec": {"clusterRef": {"name": "demo", "namespace": "kafka"}, "partitions": 2, "adoption": adoption, "config": {"retention.ms": "1000"}}
        }))
        .unwrap();
        topic.metadata.finalizers = finalizer.then(|| vec![labels::FINALIZER.into()]);
        let conditions = conditions(&State::Ready, Some(1), &[], &Time(Timestamp::UNIX_EPOCH));
        topic.status =
            id.map(|id| TopicStatus { topic_id: Some(id_text(uuid::Uuid::from_u128(id))), conditions, ..TopicStatus::default() });
        topic
    }

    fn found(id: u128, retention: &str) -> TopicImage {
        let config = std::collections::BTreeMap::from([("retention.ms".to_owned(), retention.to_owned())]).into();
        TopicImage { id: uuid::Uuid::from_u128(id), partitions: vec![PartitionImage::new(&[1, 2, 3]); 2], config }
    }

    fn observed(topic: Option<TopicImage>) -> Observed {
        let cluster: KafkaCluster = serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "demo", "namespace": "kafka"},
            "spec": {"version": "4.3.1", "nodePools": [
                {"name": "all", "roles": ["controller", "broker"], "replicas": 3, "zones": ["a", "b", "c"], "storage": {"size": "1Gi"}}]}
        }))
        .unwrap();
        Observed {
            cluster: Arc::new(ClusterFacts::of_spec(&cluster)),
            at_home: false,
            topic,
            figure: None,
            brokers: Brokers::default(),
            brokers_config: Default::default(),
            holds_records: false,
            older: None,
        }
    }

    fn planned(object: &Topic, observed: &Observed) -> Result<Plan, Vec<Invalid>> {
        plan(object, &desired::desired(&validate::validate(object, observed)?), observed)
    }

    fn words(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_topic_that_exists_is_adopted_as_the_spec_says() {
        let there = observed(Some(found(1, "5")));
        let refused = planned(&topic("IfIdentical", false, None), &there).unwrap_err();
        assert!(refused[0].reason == Reason::NotOurs && refused[0].why.contains("retention.ms is 5, not 1000"), "{refused:?}");
        assert!(planned(&topic("Never", false, None), &observed(Some(found(1, "1000")))).is_err());
        let adopted = planned(&topic("Always", false, None), &there).unwrap();
        assert_eq!(words(&adopted), ["add the finalizer", "set retention.ms to 1000"]);
        assert_eq!(words(&planned(&topic("IfIdentical", false, None), &observed(Some(found(1, "1000")))).unwrap()), ["add the finalizer"]);
    }

    #[test]
    fn drift_is_told_and_put_right() {
        let managed = topic("IfIdentical", true, Some(1));
        assert_eq!(planned(&managed, &observed(Some(found(1, "1000")))), Ok(Plan::default()));
        let changed = planned(&managed, &observed(Some(found(1, "5")))).unwrap();
        assert_eq!(
            (words(&changed), changed.drift),
            (vec!["set retention.ms to 1000".to_owned()], vec!["config retention.ms is 5, not 1000".to_owned()])
        );
        let gone = planned(&managed, &observed(None)).unwrap();
        assert!(gone.forgets && gone.steps.is_empty() && gone.drift[0].contains("was deleted"), "{gone:?}");
        assert_eq!(words(&planned(&topic("Never", true, None), &observed(None)).unwrap()), ["create it with 2 partitions"]);
        let again = planned(&managed, &observed(Some(found(2, "1000")))).unwrap();
        assert!(again.steps.is_empty() && again.drift[0].contains("made again"), "{again:?}");
        assert!(planned(&topic("Never", true, Some(1)), &observed(Some(found(2, "1000")))).is_err());
    }

    #[test]
    fn only_the_topic_that_is_managed_is_deleted_and_records_only_after_a_confirmation() {
        let end = |object: &Topic, observed: &Observed| end(object, observed, Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1));
        let managed = topic("IfIdentical", true, Some(1));
        assert_eq!(end(&managed, &observed(Some(found(1, "1000")))), End::Delete(uuid::Uuid::from_u128(1)));
        assert_eq!(end(&managed, &observed(Some(found(2, "1000")))), End::Release);
        assert_eq!(end(&managed, &observed(None)), End::Release);
        let full = Observed { holds_records: true, ..observed(Some(found(1, "1000"))) };
        assert_eq!(end(&managed, &full), End::Refuse);
        let mut confirmed = managed;
        confirmed.metadata.annotations = Some([(labels::CONFIRM_DELETE.to_owned(), "t".to_owned())].into());
        assert_eq!(end(&confirmed, &full), End::Delete(uuid::Uuid::from_u128(1)));
    }

    #[test]
    fn a_topic_that_was_asked_for_may_come_after_the_end_has_begun() {
        let mut asked = topic("IfIdentical", true, None);
        asked.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let after = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        assert_eq!(end(&asked, &observed(None), after(2)), End::Wait(Duration::from_secs(8)));
        assert_eq!(end(&asked, &observed(Some(found(7, "1000"))), after(2)), End::Delete(uuid::Uuid::from_u128(7)));
        assert_eq!(end(&asked, &observed(None), after(10)), End::Release);
    }
}
