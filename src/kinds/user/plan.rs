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
