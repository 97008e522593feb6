//! Valid user and observed world -> the steps between them. Pure.

use super::api::{User, UserAuthenticationType};
use super::desired;
use super::observe::Observed;
use super::secrets::Marks;
use super::validate::ValidUser;
use crate::kafka::acl::{self, AclBinding};
use crate::kafka::grants;
use crate::kinds::drift;
use crate::{kube_io, labels};
use k8s_openapi::jiff::{SignedDuration, Timestamp, Unit};
use std::collections::BTreeMap;
use std::fmt;

/// Days that a client's certificate is valid, and before its end that it is issued anew.
pub const CERTIFICATE_DAYS: u32 = 365;
const RENEW_BEFORE_DAYS: i64 = 60;

/// One write, or two that belong together.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    AddFinalizer,
    DeleteAcls(Vec<AclBinding>),
    CreateAcls(Vec<AclBinding>),
    AlterQuotas(BTreeMap<String, Option<f64>>),
    DeletePassword,
    /// Sets the credential in Kafka where Kafka holds it, then writes the Secret: what is in a Secret is in force.
    WriteCredential(Written),
    /// The Secret of an earlier name.
    DeleteSecret {
        name: String,
        uid: String,
        version: String,
    },
}

/// What a credential that is written will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// A password is derived from it.
    pub since: Timestamp,
    /// The value of the annotation that asked for it.
    pub rotated: Option<String>,
    /// Version and key of the Secret that gives the password.
    pub given: Option<String>,
    /// The Secret's version that is replaced; `None`: there is none.
    pub replaces: Option<String>,
    pub why: Why,
}

/// Why a credential is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was none.
    New,
    /// It was asked for, or is due.
    Rotated,
    /// The Secret was deleted or changed by somebody.
    SecretChanged,
    /// Kafka holds another credential, or none.
    KafkaChanged,
    /// What the Secret is made from is another.
    InputsChanged,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => write!(f, "add the finalizer"),
            Self::DeleteAcls(acls) => write!(f, "delete ACLs: {}", grants::words(acls).join("; ")),
            Self::CreateAcls(acls) => write!(f, "create ACLs: {}", grants::words(acls).join("; ")),
            Self::AlterQuotas(quotas) => write!(f, "alter quotas: {}", quotas.keys().cloned().collect::<Vec<_>>().join(", ")),
            Self::DeletePassword => write!(f, "delete the SCRAM credential"),
            Self::DeleteSecret { name, .. } => write!(f, "delete Secret {name}"),
            Self::WriteCredential(written) => write!(f, "write the credential ({:?})", written.why),
        }
    }
}

/// What to do, and what somebody else did that it undoes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub drift: Vec<String>,
}

/// Plans the next steps.
pub fn plan(object: &User, user: &ValidUser, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let settled = object.status.as_ref().is_some_and(|status| drift::was_settled(&status.conditions, object.metadata.generation));
    let mut drift = |words: String| {
        if settled {
            plan.drift.push(words);
        }
    };
    if !kube_io::has_finalizer(object) {
        plan.steps.push(Step::AddFinalizer);
    }
    // Rights are taken before they are given.
    let found: Vec<_> = observed.principal.acls().cloned().collect();
    let changes = acl::changes(&desired::acls(object, &user.name), &found);
    if !changes.delete.is_empty() {
        drift(format!("ACLs were added: {}", grants::words(&changes.delete).join("; ")));
        plan.steps.push(Step::DeleteAcls(changes.delete));
    }
    if !changes.create.is_empty() {
        drift(format!("ACLs were removed: {}", grants::words(&changes.create).join("; ")));
        plan.steps.push(Step::CreateAcls(changes.create));
    }
    let quotas = quota_changes(&user.quotas, &observed.principal.quotas);
    if !quotas.is_empty() {
        let show = |key: &String| observed.principal.quotas.get(key).map_or_else(|| "not set".to_owned(), ToString::to_string);
        drift(format!("quotas: {}", quotas.keys().map(|key| format!("{key} was {}", show(key))).collect::<Vec<_>>().join(", ")));
        plan.steps.push(Step::AlterQuotas(quotas));
    }
    if observed.principal.scram.is_some() && user.authentication != UserAuthenticationType::ScramSha512 {
        drift("a SCRAM credential was added".into());
        plan.steps.push(Step::DeletePassword);
    }
    if let Some(written) = credential(object, user, observed) {
        match written.why {
            Why::SecretChanged => drift(format!("Secret {} was deleted or changed", user.secret)),
            Why::KafkaChanged => drift("the SCRAM credential was deleted or changed".into()),
            Why::New | Why::Rotated | Why::InputsChanged => {}
        }
        plan.steps.push(Step::WriteCredential(written));
    }
    if let Some((name, found)) = &observed.former_secret {
        let (name, uid, version) = (name.clone(), found.uid.clone(), found.resource_version.clone());
        plan.steps.push(Step::DeleteSecret { name, uid, version });
    }
    plan
}

fn quota_changes(wanted: &BTreeMap<String, f64>, found: &BTreeMap<String, f64>) -> BTreeMap<String, Option<f64>> {
    let set = wanted.iter().filter(|(key, value)| found.get(*key) != Some(value)).map(|(key, value)| (key.clone(), Some(*value)));
    let removed = found.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), None));
    set.chain(removed).collect()
}

/// The credential to write; `None` where the one in force is right.
fn credential(object: &User, user: &ValidUser, observed: &Observed) -> Option<Written> {
    let secret = observed.secret.as_ref();
    let marks = secret.map(|secret| secret.marks.clone()).unwrap_or_default();
    let status = object.status.as_ref().and_then(|status| status.credential.as_ref());
    // A Secret that was deleted is made again from what status remembers: the same password.
    let since = marks.since.or_else(|| status.map(|status| status.since.0));
    let rotated = marks.rotated.clone().or_else(|| status.and_then(|status| status.rotated.clone()));
    let asked = object.metadata.annotations.as_ref().and_then(|all| all.get(labels::ROTATE)).cloned();
    let reference = object.spec.authentication.password_secret_ref.as_ref();
    let given = observed.given.as_ref().zip(reference).map(|(given, reference)| format!("{} {}", given.resource_version, reference.key));
    let why = match (secret, since) {
        (_, None) => Why::New,
        (_, Some(since)) if rotates(object, user, observed, since, &marks, asked.as_ref(), rotated.as_ref()) => Why::Rotated,
        (None, _) => Why::SecretChanged,
        (Some(found), _) if found.content != found.marks.content => Why::SecretChanged,
        _ if marks.inputs != desired::inputs(object, user, &observed.cluster) => Why::InputsChanged,
        _ if marks.given != given => Why::Rotated,
        _ if user.authentication == UserAuthenticationType::ScramSha512
            && observed.principal.scram.map(|held| held.to_string()).as_ref() != Some(&marks.credential) =>
        {
            Why::KafkaChanged
        }
        _ => return None,
    };
    let keeps = since.filter(|_| !matches!(why, Why::New | Why::Rotated));
    Some(Written {
        since: keeps.unwrap_or_else(|| fresh(observed.now, since)),
        rotated: asked.or(rotated),
        given,
        replaces: secret.map(|secret| secret.resource_version.clone()),
        why,
    })
}

/// True when a credential that Freehold makes is due to be replaced.
fn rotates(
    object: &User,
    user: &ValidUser,
    observed: &Observed,
    since: Timestamp,
    marks: &Marks,
    asked: Option<&String>,
    followed: Option<&String>,
) -> bool {
    let made = user.authentication != UserAuthenticationType::ExternalTls && object.spec.authentication.password_secret_ref.is_none();
    let period = object.spec.authentication.rotation.as_ref().map(|rotation| days(rotation.period_days.into()));
    let due = period.is_some_and(|period| observed.now >= since + period);
    let ends = marks.not_after.is_some_and(|end| end <= observed.now + days(RENEW_BEFORE_DAYS));
    made && (due || ends || asked.is_some_and(|asked| Some(asked) != followed))
}

fn days(count: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * count)
}

/// A new time, in whole seconds as status keeps it, and another than the old one: passwords are derived from it.
fn fresh(now: Timestamp, old: Option<Timestamp>) -> Timestamp {
    let now = now.round(Unit::Second).unwrap_or(now);
    old.filter(|old| *old >= now).map_or(now, |old| old + SignedDuration::from_secs(1))
}

/// The marks of a credential, so far as the plan knows them.
pub fn marks(written: &Written) -> Marks {
    Marks { since: Some(written.since), rotated: written.rotated.clone(), given: written.given.clone(), ..Marks::default() }
}

#[cfg(test)]
mod tests {
    use super::super::api::{CredentialStatus, UserStatus};
    use super::super::secrets::SecretFacts;
    use super::super::validate::validate;
    use super::*;
    use crate::conditions::{State, conditions};
    use crate::kafka::metadata_image::{MetadataImage, PrincipalImage};
    use crate::kafka::metadata_record::{Fingerprint, MetadataRecord, SCRAM_SHA_512};
    use crate::kinds::kafka_cluster::api::KafkaCluster;
    use crate::runtime::clusters::ClusterFacts;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::{Value, json};
    use std::sync::Arc;

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn cluster() -> ClusterFacts {
        let cluster: KafkaCluster = serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "demo", "namespace": "kafka"},
            "spec": {"version": "4.3.1", "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}],
                "nodePools": [{"name": "all", "roles": ["controller", "broker"], "replicas": 3, "zones": ["a", "b", "c"], "storage": {"size": "1Gi"}}]}
        }))
        .unwrap();
        ClusterFacts::of_spec(&cluster)
    }

    fn user(more: &Value) -> User {
        let mut value = json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "User",
            "metadata": {"name": "app", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {"clusterRef": {"name": "demo", "namespace": "kafka"}, "authentication": {"type": "ScramSha512"},
                "grants": [{"produce": {"topics": ["orders"]}}], "quotas": {"producerByteRate": "1Mi"}}
        });
        for (path, change) in more.as_object().unwrap() {
            let (parent, key) = path.rsplit_once('/').unwrap();
            value.pointer_mut(parent).unwrap()[key] = change.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn observed(principal: PrincipalImage, secret: Option<SecretFacts>) -> Observed {
        let now = NOW.parse().unwrap();
        Observed { now, cluster: Arc::new(cluster()), at_home: false, secret, former_secret: None, given: None, principal, older: None }
    }

    /// The world as the plan leaves it: the object with finalizer and status, and what is seen then.
    fn settled(more: &Value) -> (User, Observed) {
        let mut object = user(more);
        object.metadata.finalizers = Some(vec![labels::FINALIZER.into()]);
        let valid = validate(&object, &observed(PrincipalImage::default(), None)).unwrap();
        let mut image = MetadataImage::default();
        let mut write = |record| image.apply(record, &mut Vec::new());
        for (index, acl) in desired::acls(&object, "app").into_iter().enumerate() {
            write(MetadataRecord::Acl { id: uuid::Uuid::from_u128(index as u128), acl });
        }
        let entity = vec![("user".to_owned(), Some("app".to_owned()))];
        write(MetadataRecord::Quota { entity, key: "producer_byte_rate".into(), value: Some(1_048_576.0) });
        let fingerprint = Fingerprint::of(b"stored");
        write(MetadataRecord::Scram { user: "app".into(), mechanism: SCRAM_SHA_512, fingerprint });
        let since: Timestamp = "2026-05-01T00:00:00Z".parse().unwrap();
        let marks = Marks {
            inputs: desired::inputs(&object, &valid, &cluster()),
            content: "c".into(),
            credential: fingerprint.to_string(),
            since: Some(since),
            ..Marks::default()
        };
        let secret =
            SecretFacts { uid: "s".into(), resource_version: "7".into(), managed: true, user: "app".into(), content: "c".into(), marks };
        let credential = Some(CredentialStatus { since: Time(since), not_after: None, rotated: None });
        let conditions = conditions(&State::Ready, Some(1), &[], &Time(since));
        object.status = Some(UserStatus { conditions, credential, ..UserStatus::default() });
        (object, observed(image.principal("app").unwrap().clone(), Some(secret)))
    }

    fn planned(object: &User, observed: &Observed) -> Plan {
        plan(object, &validate(object, observed).unwrap(), observed)
    }

    fn written(plan: &Plan) -> &Written {
        let found = plan.steps.iter().find_map(|step| if let Step::WriteCredential(written) = step { Some(written) } else { None });
        found.expect("a credential is written")
    }

    #[test]
    fn a_new_user_gets_everything_and_a_settled_one_nothing() {
        let plan = planned(&user(&json!({})), &observed(PrincipalImage::default(), None));
        let words: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "add the finalizer",
                "create ACLs: Allow Write, Describe on Topic orders",
                "alter quotas: producer_byte_rate",
                "write the credential (New)"
            ]
        );
        let (object, observed) = settled(&json!({}));
        assert_eq!(planned(&object, &observed), Plan::default());
    }

    #[test]
    fn a_secret_that_was_deleted_or_changed_comes_back_with_the_same_credential() {
        let (object, mut observed) = settled(&json!({}));
        let since = observed.secret.as_ref().unwrap().marks.since;
        observed.secret.as_mut().unwrap().content = "tampered".into();
        let plan = planned(&object, &observed);
        assert_eq!((written(&plan).why, Some(written(&plan).since), plan.drift.len()), (Why::SecretChanged, since, 1));
        observed.secret = None;
        let plan = planned(&object, &observed);
        assert_eq!((written(&plan).why, Some(written(&plan).since)), (Why::SecretChanged, since), "by what status remembers");
    }

    #[test]
    fn what_somebody_else_changed_in_kafka_is_put_right_and_told() {
        let (object, mut observed) = settled(&json!({}));
        observed.principal.scram = Some(Fingerprint::of(b"another"));
        observed.principal.quotas.insert("consumer_byte_rate".into(), 5.0);
        let plan = planned(&object, &observed);
        assert_eq!(written(&plan).why, Why::KafkaChanged);
        assert!(plan.steps.contains(&Step::AlterQuotas([("consumer_byte_rate".to_owned(), None)].into())));
        assert_eq!(plan.drift, ["quotas: consumer_byte_rate was 5", "the SCRAM credential was deleted or changed"]);
    }

    #[test]
    fn a_rotation_is_followed_once_for_each_value_of_the_annotation_and_when_it_is_due() {
        let asked = json!({"/metadata/annotations": {labels::ROTATE: "1"}});
        let (object, mut observed) = settled(&asked);
        let plan = planned(&object, &observed);
        assert_eq!((written(&plan).why, written(&plan).since.to_string()), (Why::Rotated, NOW.to_owned()));
        assert_eq!(written(&plan).rotated.as_deref(), Some("1"));
        observed.secret.as_mut().unwrap().marks.rotated = Some("1".into());
        assert_eq!(planned(&object, &observed).steps, []);

        let (object, observed) = settled(&json!({"/spec/authentication/rotation": {"periodDays": 31}}));
        assert_eq!(written(&planned(&object, &observed)).why, Why::Rotated);
        let (object, observed) = settled(&json!({"/spec/authentication/rotation": {"periodDays": 32}}));
        assert_eq!(planned(&object, &observed).steps, []);
    }

    #[test]
    fn a_new_time_is_another_than_the_old_one() {
        let now: Timestamp = NOW.parse().unwrap();
        assert_eq!(fresh(now, Some(now)), now + SignedDuration::from_secs(1));
        assert_eq!(fresh(now, None), now);
    }
}
