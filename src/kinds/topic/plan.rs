//! Plans the steps from the observed topic to the wanted one, and the deletion of a topic. Pure.

use crate::api::conditions::{Reason, State};
use crate::api::invalid::Invalid;
use crate::api::topic::{Adoption, Topic, TopicDeletionPolicy};
use crate::kinds::dependent::outcome;
use crate::kinds::drift;
use crate::kinds::error::Error;
use crate::kinds::topic::deletion::{is_confirmed, leaderless};
use crate::kinds::topic::observe::Observed;
use crate::kubernetes;
use crate::kubernetes::labels;
use crate::runtime::kind::Failure;
use crate::tenancy::access;
use crate::tenancy::tenants::Tenant;
use freehold_kafka::metadata_image::{TopicImage, id_text};
use freehold_kafka::topic_plan::{
    self, RATE_START, THROTTLE_RATES, TopicChange, TopicChanges, TopicRefusal, WantedTopic,
};
use k8s_openapi::jiff::Timestamp;
use std::fmt;
use std::time::Duration;

/// One write to Kubernetes or Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddFinalizer,
    /// Records this object in Kafka as the topic's owner, before the topic is created.
    RecordOwner,
    /// Sets the brokers' throttle for replica moves, in bytes per second.
    SetThrottle(u64),
    Change(TopicChange),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => write!(f, "add the finalizer"),
            Self::RecordOwner => write!(f, "record the owner"),
            Self::SetThrottle(rate) => {
                write!(f, "set the brokers' throttle to {rate} bytes per second")
            }
            Self::Change(change) => write!(f, "{change}"),
        }
    }
}

/// The steps to do, and the changes of others that they undo.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub drift: Vec<String>,
    /// The topic is gone. Its id is removed from the status before another topic is created: if the
    /// operator or the object ended before the new id is known, the new topic would not count as
    /// this object's.
    pub forgets: bool,
    /// True if an existing topic is adopted.
    pub adopts: bool,
    /// What of the spec cannot be done; all else is.
    pub refused: Vec<Invalid>,
}

/// The id of the topic that this object created or adopted.
fn managed(object: &Topic) -> Option<&str> {
    object.status.as_ref()?.topic_id.as_deref()
}

fn invalid(refusal: TopicRefusal) -> Invalid {
    Invalid::new(refusal.field, refusal.why)
}

/// Those of the differences that somebody else has made: the topic was as its spec says before. That
/// is so of a topic whose status names nothing but partitions that somebody added; and of the
/// replicas of one whose config Kafka refuses.
fn drifted(
    object: &Topic,
    wanted: &WantedTopic,
    topic: &TopicImage,
    corrected: Vec<String>,
) -> Vec<String> {
    let (Some(status), generation) = (&object.status, object.metadata.generation) else {
        return Vec::new();
    };
    let told = State::told(&status.conditions, generation);
    let refused = status
        .partitions
        .and_then(|partitions| topic_plan::refuse_fewer(wanted, partitions))
        .map(|refusal| Error::Invalid(vec![invalid(refusal)]).state());
    if drift::was_settled(&status.conditions, generation) || (told.is_some() && told == refused) {
        return corrected;
    }
    let is_refused = matches!(
        told,
        Some(State::Stalled {
            reason: Reason::KafkaRefused,
            ..
        })
    );
    let had_its_replicas = status.replicas == Some(i32::from(wanted.replicas));
    topic_plan::replicas_differ(wanted, topic)
        .filter(|_| is_refused && had_its_replicas)
        .into_iter()
        .collect()
}

/// The drift without what is there still, because Kafka refused the change.
pub fn put_right(
    mut drift: Vec<String>,
    wanted: &WantedTopic,
    topic: Option<&TopicImage>,
) -> Vec<String> {
    let left = topic
        .map(|topic| topic_plan::corrected(wanted, topic))
        .unwrap_or_default();
    drift.retain(|one| !left.contains(one));
    drift
}

/// Plans the next steps of a Topic.
///
/// # Errors
/// Fails if the topic belongs to another object, or is adopted and cannot be as the spec says:
/// then nothing of it is touched.
pub fn plan(
    object: &Topic,
    wanted: &WantedTopic,
    observed: &Observed,
) -> Result<Plan, Vec<Invalid>> {
    let mut plan = Plan::default();
    let found = observed.topic.as_ref();
    let differences = found
        .map(|topic| topic_plan::differences(wanted, topic))
        .unwrap_or_default();
    let corrected = found
        .map(|topic| topic_plan::corrected(wanted, topic))
        .unwrap_or_default();
    match (found, managed(object)) {
        // If the owner is recorded, the topic is ours: an operator may have died right after it
        // created the topic.
        (Some(topic), None) if !observed.ownership.mine => {
            adopt(object, topic, &differences, observed)?;
            plan.adopts = true;
        }
        (Some(topic), Some(id)) if id_text(topic.id) != id => {
            if !observed.ownership.mine {
                adopt(object, topic, &differences, observed)?;
                plan.adopts = true;
            }
            plan.drift.push(format!(
                "the topic was deleted and made again (id {}, not {id})",
                id_text(topic.id)
            ));
            plan.drift.extend(corrected);
        }
        (Some(topic), Some(_)) => plan.drift = drifted(object, wanted, topic, corrected),
        (None, Some(id)) => {
            plan.drift
                .push(format!("the topic was deleted (id {id}) with what it held"));
            return Ok(Plan {
                forgets: true,
                ..plan
            });
        }
        _ => {}
    }
    let TopicChanges {
        steps: changes,
        refused,
    } = topic_plan::changes(wanted, found, &observed.brokers);
    plan.refused = refused.map(invalid).into_iter().collect();
    if plan.adopts && !plan.refused.is_empty() {
        return Err(plan.refused);
    }
    if !kubernetes::has_finalizer(object) {
        plan.steps.push(Step::AddFinalizer);
    }
    if !observed.ownership.mine {
        plan.steps.push(Step::RecordOwner);
    }
    plan.steps.extend(throttle(&changes, observed));
    plan.steps.extend(changes.into_iter().map(Step::Change));
    Ok(plan)
}

/// The step that limits the rate of moves, if some are to begin and it is not limited yet.
fn throttle(changes: &[TopicChange], observed: &Observed) -> Option<Step> {
    let rate = observed.cluster.throttle.unwrap_or(RATE_START);
    // If the cluster sets the throttle automatically, a present value is already the right one.
    let throttled = |key: &&str| {
        let found = observed.brokers_config.get(*key);
        found.is_some_and(|found| observed.cluster.throttle.is_none() || *found == rate.to_string())
    };
    let moves = changes
        .iter()
        .any(|change| matches!(change, TopicChange::Reassign(_)));
    (moves && !THROTTLE_RATES.iter().all(throttled)).then_some(Step::SetThrottle(rate))
}

/// Decides whether a topic that exists and that this object did not create is adopted; fails if
/// not.
fn adopt(
    object: &Topic,
    topic: &TopicImage,
    differences: &[String],
    observed: &Observed,
) -> Result<(), Vec<Invalid>> {
    let name = object.topic_name();
    let access = &observed.cluster.access;
    let refused = access::refuse_adoption(
        access,
        observed.at_home,
        access.topic_names.as_ref(),
        &object.claim().cluster,
    );
    let why = match object.spec.adoption {
        _ if let Some(why) = refused => format!("topic {name} exists (id {}): {why}", topic.id),
        Adoption::Always => return Ok(()),
        Adoption::IfIdentical if differences.is_empty() => return Ok(()),
        Adoption::IfIdentical => format!(
            "topic {name} exists (id {}) and differs: {}; make the spec as it is, or set adoption: Always to change the topic, or take another name",
            topic.id,
            differences.join("; ")
        ),
        Adoption::Never => format!(
            "topic {name} exists (id {}) and adoption is Never; take another name, or set adoption: IfIdentical to take it over",
            topic.id
        ),
    };
    Err(vec![
        Invalid::new("spec.adoption", why).because(Reason::NotOurs),
    ])
}

/// What happens to the topic when its Topic is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The topic stays, or there is none.
    Release,
    /// There is none, but an earlier request may still create it.
    Wait(Duration),
    Delete(uuid::Uuid),
    /// It holds records, and nobody has confirmed the deletion.
    Refuse,
    /// Kafka deletes no topics, because `delete.topic.enable` is false.
    Off,
}

/// Why a topic stays because Kafka does not delete topics, and what to do about it.
pub fn deletion_is_off(name: &str) -> String {
    format!(
        "topic {name} stays: delete.topic.enable is false, so that Kafka deletes no topic; set it to true in the KafkaCluster's spec.config, or set this Topic's spec.deletionPolicy to Retain, which lets the object go and keeps the topic"
    )
}

/// Why a topic is not deleted without a confirmation, and how to confirm it.
pub fn refusal(object: &Topic, topic: Option<&TopicImage>) -> String {
    let name = object.topic_name();
    let leaderless: Vec<String> = topic
        .into_iter()
        .flat_map(leaderless)
        .map(|index| index.to_string())
        .collect();
    let holds = if leaderless.is_empty() {
        format!("topic {name} holds records; to delete them with it")
    } else {
        format!(
            "topic {name} may hold records, since nobody leads its partitions {}; to delete it all the same",
            leaderless.join(", ")
        )
    };
    format!(
        "{holds}, annotate this Topic with {}: {name}",
        labels::CONFIRM_DELETE
    )
}

/// Decides what happens to the topic when its Topic is deleted.
pub fn end(object: &Topic, observed: &Observed, now: Timestamp) -> End {
    let Some(found) = &observed.topic else {
        // No creation was requested before the owner was recorded.
        let asked = managed(object).is_none() && observed.ownership.mine;
        let late = asked
            .then(|| outcome::late(&object.metadata, now))
            .flatten();
        return late.map_or(End::Release, End::Wait);
    };
    // Only a topic that this object is proven to own is deleted, not one that somebody else created
    // under its name.
    let is_same = managed(object).map(|id| *id == id_text(found.id));
    let ours = observed.ownership.is_proven(is_same == Some(true))
        && is_same != Some(false)
        && observed.ownership.other.is_none();
    if !ours || object.spec.deletion_policy == TopicDeletionPolicy::Retain {
        return End::Release;
    }
    if !observed.cluster.deletes_topics {
        return End::Off;
    }
    if observed.holds_records && !is_confirmed(object) {
        End::Refuse
    } else {
        End::Delete(found.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::conditions;
    use crate::api::kafka_cluster::{KafkaCluster, RightsPolicy};
    use crate::api::topic::TopicStatus;
    use crate::clusters::ClusterFacts;
    use crate::kinds::topic::deletion::asks_for_records;
    use crate::kinds::topic::{desired, validate};
    use crate::tenancy::ownership::{Other, Ownership};
    use freehold_kafka::metadata_image::PartitionImage;
    use freehold_kafka::replication::Brokers;
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
        topic.status = id.map(|id| TopicStatus {
            topic_id: Some(id_text(uuid::Uuid::from_u128(id))),
            conditions,
            ..TopicStatus::default()
        });
        topic
    }

    fn found(id: u128, retention: &str) -> TopicImage {
        let config =
            std::collections::BTreeMap::from([("retention.ms".to_owned(), retention.to_owned())])
                .into();
        TopicImage {
            id: uuid::Uuid::from_u128(id),
            partitions: vec![PartitionImage::new(&[1, 2, 3]); 2],
            config,
        }
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
            ownership: Ownership::default(),
        }
    }

    fn owned(topic: Option<TopicImage>) -> Observed {
        Observed {
            ownership: Ownership {
                mine: true,
                ..Ownership::default()
            },
            ..observed(topic)
        }
    }

    fn planned(object: &Topic, observed: &Observed) -> Result<Plan, Vec<Invalid>> {
        plan(
            object,
            &desired::desired(&validate::validate(object, observed)?),
            observed,
        )
    }

    fn words(plan: &Plan) -> Vec<String> {
        plan.steps.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_topic_that_exists_is_adopted_as_the_spec_says() {
        let at_home = |topic| Observed {
            at_home: true,
            ..observed(topic)
        };
        let there = at_home(Some(found(1, "5")));
        let refused = planned(&topic("IfIdentical", false, None), &there).unwrap_err();
        assert!(
            refused[0].reason == Reason::NotOurs
                && refused[0].why.contains("retention.ms is 5, not 1000"),
            "{refused:?}"
        );
        assert!(
            planned(
                &topic("Never", false, None),
                &observed(Some(found(1, "1000")))
            )
            .is_err()
        );
        let adopted = planned(&topic("Always", false, None), &there).unwrap();
        assert_eq!(
            words(&adopted),
            [
                "add the finalizer",
                "record the owner",
                "set retention.ms to 1000"
            ]
        );
        let identical = planned(
            &topic("IfIdentical", false, None),
            &at_home(Some(found(1, "1000"))),
        )
        .unwrap();
        assert!(
            identical.adopts && words(&identical) == ["add the finalizer", "record the owner"],
            "{identical:?}"
        );
        // From another namespace only if a policy restricts it to its own names, or if rights are
        // not restricted.
        let mut elsewhere = observed(Some(found(1, "1000")));
        let refused = planned(&topic("Always", false, None), &elsewhere).unwrap_err();
        assert!(
            refused[0].reason == Reason::NotOurs
                && refused[0].why.contains("ask the owner of KafkaCluster"),
            "{refused:?}"
        );
        Arc::get_mut(&mut elsewhere.cluster).unwrap().access.rights = Some(RightsPolicy::Any);
        assert!(
            planned(&topic("IfIdentical", false, None), &elsewhere)
                .unwrap()
                .adopts
        );
        // A finalizer in the manifest proves nothing.
        assert!(
            planned(
                &topic("Never", true, None),
                &observed(Some(found(1, "1000")))
            )
            .is_err()
        );
        assert_eq!(
            planned(&topic("Never", true, None), &owned(Some(found(1, "1000")))),
            Ok(Plan::default()),
            "made by an operator that died"
        );
    }

    #[test]
    fn drift_is_told_and_put_right() {
        let managed = topic("IfIdentical", true, Some(1));
        assert_eq!(
            planned(&managed, &owned(Some(found(1, "1000")))),
            Ok(Plan::default())
        );
        let before_records = planned(&managed, &observed(Some(found(1, "1000")))).unwrap();
        assert!(
            words(&before_records) == ["record the owner"] && !before_records.adopts,
            "{before_records:?}"
        );
        let changed = planned(&managed, &owned(Some(found(1, "5")))).unwrap();
        assert_eq!(
            (words(&changed), changed.drift),
            (
                vec!["set retention.ms to 1000".to_owned()],
                vec!["config retention.ms is 5, not 1000".to_owned()]
            )
        );
        let gone = planned(&managed, &observed(None)).unwrap();
        assert!(
            gone.forgets && gone.steps.is_empty() && gone.drift[0].contains("was deleted"),
            "{gone:?}"
        );
        let anew = planned(&topic("Never", true, None), &observed(None)).unwrap();
        assert_eq!(
            words(&anew),
            ["record the owner", "create it with 2 partitions"]
        );
        let again = planned(&managed, &owned(Some(found(2, "1000")))).unwrap();
        assert!(
            again.steps.is_empty() && again.drift[0].contains("made again"),
            "{again:?}"
        );
        let named = planned(
            &topic("Never", true, Some(1)),
            &owned(Some(found(2, "1000"))),
        )
        .unwrap();
        assert!(
            named.drift[0].contains("made again"),
            "the name is its own: {named:?}"
        );
        assert!(
            planned(
                &topic("Never", true, Some(1)),
                &observed(Some(found(2, "1000")))
            )
            .is_err()
        );
    }

    #[test]
    fn a_topic_with_too_many_partitions_is_kept_as_the_spec_says_but_not_taken_over() {
        let mut many = found(1, "5");
        many.partitions = vec![PartitionImage::new(&[1, 2, 3]); 3];
        let managed = topic("IfIdentical", true, Some(1));
        let kept = planned(&managed, &owned(Some(many.clone()))).unwrap();
        assert_eq!(words(&kept), ["set retention.ms to 1000"]);
        assert_eq!(kept.refused[0].field, "spec.partitions");
        assert_eq!(kept.drift, ["config retention.ms is 5, not 1000"]);
        let there = Observed {
            at_home: true,
            ..observed(Some(many))
        };
        let refused = planned(&topic("Always", false, None), &there).unwrap_err();
        assert_eq!(refused[0].field, "spec.partitions");
    }

    /// The Topic after a reconcile that ended so.
    fn told(mut object: Topic, state: &State, topic: &TopicImage) -> Topic {
        let status = object.status.as_mut().unwrap();
        status.conditions = conditions(state, Some(1), &[], &Time(Timestamp::UNIX_EPOCH));
        status.partitions = i32::try_from(topic.partitions.len()).ok();
        status.replicas = topic
            .partitions
            .first()
            .and_then(|partition| i32::try_from(partition.target().len()).ok());
        object
    }

    #[test]
    fn drift_is_told_also_of_a_topic_that_has_too_many_partitions() {
        let mut many = found(1, "1000");
        many.partitions = vec![PartitionImage::new(&[1, 2, 3]); 3];
        let managed = topic("IfIdentical", true, Some(1));
        let refused = planned(&managed, &owned(Some(many.clone())))
            .unwrap()
            .refused;
        let managed = told(managed, &Error::Invalid(refused).state(), &many);
        let mut changed = many.clone();
        changed.config.set("retention.ms", Some("5".into()));
        let of = |object: &Topic, topic: &TopicImage| {
            planned(object, &owned(Some(topic.clone()))).unwrap().drift
        };
        let expected = ["config retention.ms is 5, not 1000"];
        assert_eq!(of(&managed, &changed), expected);
        let mut more = changed.clone();
        more.partitions.push(PartitionImage::new(&[1, 2, 3]));
        assert_eq!(of(&managed, &more), expected, "one more was added too");
        // What a new spec changes is no drift, nor what an invalid spec kept from being done.
        let mut edited = managed.clone();
        edited.metadata.generation = Some(2);
        assert_eq!(of(&edited, &changed), [""; 0]);
        let invalid = Error::Invalid(vec![Invalid::new("spec.partitions", "no")]);
        let other = told(managed, &invalid.state(), &many);
        assert_eq!(of(&other, &changed), [""; 0]);
    }

    #[test]
    fn replicas_are_told_as_drift_also_while_kafka_refuses_a_config() {
        let mut object = topic("IfIdentical", true, Some(1));
        object.spec.replicas = Some(3);
        let refused = State::stalled(Reason::KafkaRefused, "AlterConfigs: InvalidConfig");
        let of = |object: &Topic, topic: &TopicImage| {
            planned(object, &owned(Some(topic.clone()))).unwrap().drift
        };
        let found = found(1, "5");
        let before = told(object.clone(), &refused, &found);
        assert_eq!(of(&before, &found), [""; 0], "the config was refused");
        let mut fewer = found.clone();
        fewer.partitions = vec![PartitionImage::new(&[1, 2]); 2];
        assert_eq!(of(&before, &fewer), ["replicas is 2, not 3"]);
        let never = told(object.clone(), &refused, &fewer);
        assert_eq!(of(&never, &fewer), [""; 0], "it never had so many");
        // Both were changed, and Kafka has refused to put the config right.
        let ready = told(object.clone(), &State::Ready, &found);
        let both = of(&ready, &fewer);
        assert_eq!(both.len(), 2, "{both:?}");
        let wanted = desired::desired(&validate::validate(&object, &owned(None)).unwrap());
        assert_eq!(
            put_right(both, &wanted, Some(&found)),
            ["replicas is 2, not 3"]
        );
    }

    #[test]
    fn only_the_topic_that_is_managed_is_deleted_and_records_only_after_a_confirmation() {
        let end = |object: &Topic, observed: &Observed| {
            end(
                object,
                observed,
                Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1),
            )
        };
        let managed = topic("IfIdentical", true, Some(1));
        // Neither a finalizer in the manifest nor a status overrides the owner that Kafka records.
        assert_eq!(
            end(
                &topic("IfIdentical", true, None),
                &observed(Some(found(1, "1000")))
            ),
            End::Release
        );
        let anothers = Ownership {
            other: Some(Other::Holds("a/b".into())),
            ..Ownership::default()
        };
        assert_eq!(
            end(
                &managed,
                &Observed {
                    ownership: anothers,
                    ..observed(Some(found(1, "1000")))
                }
            ),
            End::Release
        );
        assert_eq!(
            end(
                &topic("IfIdentical", true, None),
                &owned(Some(found(1, "1000")))
            ),
            End::Delete(uuid::Uuid::from_u128(1))
        );
        assert_eq!(
            end(&managed, &observed(Some(found(1, "1000")))),
            End::Delete(uuid::Uuid::from_u128(1))
        );
        assert_eq!(
            end(&managed, &observed(Some(found(2, "1000")))),
            End::Release
        );
        assert_eq!(end(&managed, &observed(None)), End::Release);
        let full = Observed {
            holds_records: true,
            ..observed(Some(found(1, "1000")))
        };
        assert_eq!(end(&managed, &full), End::Refuse);
        let mut off = observed(Some(found(1, "1000")));
        Arc::get_mut(&mut off.cluster).unwrap().deletes_topics = false;
        assert_eq!(end(&managed, &off), End::Off);
        let mut kept = managed.clone();
        kept.spec.deletion_policy = TopicDeletionPolicy::Retain;
        assert_eq!(end(&kept, &off), End::Release, "the way out");
        let mut confirmed = managed;
        confirmed.metadata.annotations =
            Some([(labels::CONFIRM_DELETE.to_owned(), "t".to_owned())].into());
        assert_eq!(
            end(&confirmed, &full),
            End::Delete(uuid::Uuid::from_u128(1))
        );
    }

    #[test]
    fn a_topic_that_lost_a_partition_goes_without_an_answer_when_that_was_confirmed_or_it_is_retained()
     {
        let mut lost = found(1, "1000");
        lost.partitions[1].leader = -1;
        let object = topic("IfIdentical", true, Some(1));
        assert!(asks_for_records(&object), "nobody confirmed");
        let why = refusal(&object, Some(&lost));
        assert!(
            why.contains("nobody leads its partitions 1")
                && why.contains("freehold.dev/confirm-delete: t"),
            "{why}"
        );
        assert!(refusal(&object, Some(&found(1, "1000"))).starts_with("topic t holds records"));
        let mut confirmed = object.clone();
        confirmed.metadata.annotations =
            Some([(labels::CONFIRM_DELETE.to_owned(), "t".to_owned())].into());
        let mut retained = object;
        retained.spec.deletion_policy = TopicDeletionPolicy::Retain;
        assert!(
            !asks_for_records(&confirmed) && !asks_for_records(&retained),
            "no broker is asked"
        );
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(
            end(&confirmed, &observed(Some(lost.clone())), now),
            End::Delete(uuid::Uuid::from_u128(1))
        );
        assert_eq!(end(&retained, &observed(Some(lost)), now), End::Release);
    }

    #[test]
    fn a_topic_that_was_asked_for_may_come_after_the_end_has_begun() {
        let mut asked = topic("IfIdentical", true, None);
        asked.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let after = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        assert_eq!(
            end(&asked, &owned(None), after(2)),
            End::Wait(Duration::from_secs(8))
        );
        assert_eq!(
            end(&asked, &owned(Some(found(7, "1000"))), after(2)),
            End::Delete(uuid::Uuid::from_u128(7))
        );
        assert_eq!(end(&asked, &owned(None), after(10)), End::Release);
        assert_eq!(
            end(&asked, &observed(None), after(2)),
            End::Release,
            "nothing was asked for"
        );
    }
}
