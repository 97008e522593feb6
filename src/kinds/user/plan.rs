//! Plans the steps from the observed state to that of a valid User. Pure.

use crate::api::conditions::Reason;
use crate::api::invalid::Invalid;
use crate::api::user::{User, UserAdoption, UserAuthenticationType};
use crate::clusters::ClusterFacts;
use crate::kinds::drift;
use crate::kinds::user::desired;
use crate::kinds::user::observe::Observed;
use crate::kinds::user::secrets::Marks;
use crate::kinds::user::validate::ValidUser;
use crate::kubernetes;
use crate::kubernetes::labels;
use crate::tenancy::access;
use crate::tenancy::tenants::Tenant;
use freehold_kafka::acl::{self, AclBinding};
use freehold_kafka::grants;
use k8s_openapi::jiff::{SignedDuration, Timestamp, Unit};
use std::collections::BTreeMap;
use std::fmt;

/// The validity of a client's certificate in days. It is issued again `RENEW_BEFORE_DAYS` days
/// before its end.
pub const CERTIFICATE_DAYS: u32 = 365;
const RENEW_BEFORE_DAYS: i64 = 60;

/// One write to Kubernetes or Kafka, or two that belong together.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    AddFinalizer,
    /// Records this object in Kafka as the principal's owner, before the principal gets anything.
    RecordOwner,
    /// Records in Kafka the end of a certificate in this name, before it is issued: until then no
    /// User of another namespace may have the name.
    RecordCertificate(Timestamp),
    DeleteAcls(Vec<AclBinding>),
    CreateAcls(Vec<AclBinding>),
    AlterQuotas(BTreeMap<String, Option<f64>>),
    DeletePassword,
    /// Sets the credential in Kafka, if Kafka stores it, and then writes the Secret, so that a
    /// credential that replaces another is in force. The first one is written to the Secret before.
    WriteCredential(Written),
    /// Deletes the Secret with a former name.
    DeleteSecret {
        name: String,
        uid: String,
        version: String,
    },
}

/// The properties of a credential to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The time since which it is in force; a password is derived from it.
    pub since: Timestamp,
    /// The value of the rotation annotation that was followed last.
    pub rotated: Option<String>,
    /// The version and the key of the user's own Secret with the password.
    pub given: Option<String>,
    /// The id of the password key from which its passwords are derived.
    pub key: Option<String>,
    /// The version of the Secret that is replaced; `None` if it is created.
    pub replaces: Option<String>,
    pub why: Why,
}

/// The reason for writing a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There was no credential.
    New,
    /// A rotation was requested or is due.
    Rotated,
    /// Somebody deleted or changed the Secret.
    SecretChanged,
    /// Kafka has another credential, or none.
    KafkaChanged,
    /// The inputs that the Secret is made from have changed.
    InputsChanged,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => write!(f, "add the finalizer"),
            Self::RecordOwner => write!(f, "record the owner"),
            Self::RecordCertificate(until) => {
                write!(f, "record a certificate that ends at {until}")
            }
            Self::DeleteAcls(acls) => write!(f, "delete ACLs: {}", grants::words(acls).join("; ")),
            Self::CreateAcls(acls) => write!(f, "create ACLs: {}", grants::words(acls).join("; ")),
            Self::AlterQuotas(quotas) => write!(
                f,
                "alter quotas: {}",
                quotas.keys().cloned().collect::<Vec<_>>().join(", ")
            ),
            Self::DeletePassword => write!(f, "delete the SCRAM credential"),
            Self::DeleteSecret { name, .. } => write!(f, "delete Secret {name}"),
            Self::WriteCredential(written) => write!(f, "write the credential ({:?})", written.why),
        }
    }
}

/// The steps to do, and the changes of others that they undo.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub drift: Vec<String>,
    /// True if an existing principal is adopted.
    pub adopts: bool,
}

/// True if, according to the object's status, the principal was created for it in this cluster.
/// Older statuses do not name the cluster.
pub fn is_known(object: &User, cluster: &ClusterFacts) -> bool {
    let here = |id: &String| cluster.cluster_id.is_empty() || *id == cluster.cluster_id;
    object
        .status
        .as_ref()
        .is_some_and(|status| status.acls.is_some() && status.cluster_id.as_ref().is_none_or(here))
}

/// Plans the next steps of a User.
///
/// # Errors
/// Fails if the principal belongs to another object.
pub fn plan(object: &User, user: &ValidUser, observed: &Observed) -> Result<Plan, Invalid> {
    let mut draft = Draft {
        plan: Plan::default(),
        settled: object.status.as_ref().is_some_and(|status| {
            drift::was_settled(&status.conditions, object.metadata.generation)
        }),
    };
    if !observed.principal.is_empty()
        && !observed
            .ownership
            .is_proven(is_known(object, &observed.cluster))
    {
        adopt(object, user, observed)?;
        draft.plan.adopts = true;
    }
    if !kubernetes::has_finalizer(object) {
        draft.plan.steps.push(Step::AddFinalizer);
    }
    draft.records(user, observed);
    draft.acls(user, observed);
    draft.quotas(user, observed);
    draft.credential(object, user, observed);
    if let Some((name, found)) = &observed.former_secret {
        let (name, uid, version) = (
            name.clone(),
            found.uid.clone(),
            found.resource_version.clone(),
        );
        draft
            .plan
            .steps
            .push(Step::DeleteSecret { name, uid, version });
    }
    Ok(draft.plan)
}

/// A plan to which the steps are added one after the other.
struct Draft {
    plan: Plan,
    /// True if a difference that is found now was made by somebody else.
    settled: bool,
}

impl Draft {
    fn drift(&mut self, words: String) {
        if self.settled {
            self.plan.drift.push(words);
        }
    }

    /// What is recorded in Kafka before the principal gets anything.
    fn records(&mut self, user: &ValidUser, observed: &Observed) {
        if !observed.ownership.mine {
            self.plan.steps.push(Step::RecordOwner);
        }
        // A certificate that was issued before such records existed is recorded now.
        let issued = observed
            .secret
            .as_ref()
            .and_then(|secret| secret.marks.not_after)
            .filter(|_| user.authentication == UserAuthenticationType::MutualTls);
        if issued > observed.certified_until {
            self.plan.steps.extend(issued.map(Step::RecordCertificate));
        }
    }

    /// New ACLs are created before others are deleted, so that a client never lacks a right in
    /// between.
    fn acls(&mut self, user: &ValidUser, observed: &Observed) {
        let found: Vec<_> = observed.principal.acls().cloned().collect();
        let changes = acl::changes(&user.acls, &found);
        if !changes.create.is_empty() {
            self.drift(format!(
                "ACLs were removed: {}",
                grants::words(&changes.create).join("; ")
            ));
        }
        // ACLs that are no longer allowed are reported as refused, not as drift.
        if !changes.delete.is_empty() && user.refused.is_empty() {
            self.drift(format!(
                "ACLs were added: {}",
                grants::words(&changes.delete).join("; ")
            ));
        }
        let steps = &mut self.plan.steps;
        steps.extend(changes.creations().into_iter().map(Step::CreateAcls));
        steps.extend(changes.deletions().into_iter().map(Step::DeleteAcls));
    }

    fn quotas(&mut self, user: &ValidUser, observed: &Observed) {
        let found = &observed.principal.quotas;
        let quotas = quota_changes(&user.quotas, found);
        if quotas.is_empty() {
            return;
        }
        let was = |key: &String| {
            let value = found.get(key).map(ToString::to_string);
            format!("{key} was {}", value.as_deref().unwrap_or("not set"))
        };
        self.drift(format!(
            "quotas: {}",
            quotas.keys().map(was).collect::<Vec<_>>().join(", ")
        ));
        self.plan.steps.push(Step::AlterQuotas(quotas));
    }

    fn credential(&mut self, object: &User, user: &ValidUser, observed: &Observed) {
        if observed.principal.scram.is_some()
            && user.authentication != UserAuthenticationType::ScramSha512
        {
            self.drift("a SCRAM credential was added".into());
            self.plan.steps.push(Step::DeletePassword);
        }
        let Some(written) = credential(object, user, observed) else {
            return;
        };
        match written.why {
            Why::SecretChanged => {
                self.drift(format!("Secret {} was deleted or changed", user.secret));
            }
            Why::KafkaChanged => {
                self.drift("the SCRAM credential was deleted or changed".into());
            }
            Why::New | Why::Rotated | Why::InputsChanged => {}
        }
        self.plan.steps.push(Step::WriteCredential(written));
    }
}

/// Decides whether a principal that exists and that this object did not create is adopted; fails if
/// not.
fn adopt(object: &User, user: &ValidUser, observed: &Observed) -> Result<(), Invalid> {
    let name = &user.name;
    let differences = || {
        let found: Vec<_> = observed.principal.acls().cloned().collect();
        let acl::AclChanges { create, delete } = acl::changes(&user.acls, &found);
        let mut differences = grants::words(&delete)
            .into_iter()
            .map(|line| format!("it has {line}"))
            .collect::<Vec<_>>();
        differences.extend(
            grants::words(&create)
                .into_iter()
                .map(|line| format!("it lacks {line}")),
        );
        differences.extend(
            quota_changes(&user.quotas, &observed.principal.quotas)
                .into_keys()
                .map(|key| format!("its {key} is another")),
        );
        differences.extend(
            observed
                .principal
                .scram
                .map(|_| "it has a password, which would be replaced".to_owned()),
        );
        differences
    };
    let access = &observed.cluster.access;
    let refused = access::refuse_adoption(
        access,
        observed.at_home,
        access.principal_names.as_ref(),
        &object.claim().cluster,
    );
    let why = match object.spec.adoption {
        _ if let Some(why) = refused => format!("principal User:{name} exists: {why}"),
        UserAdoption::Always => return Ok(()),
        UserAdoption::Never => format!(
            "principal User:{name} exists and was not made by Freehold, and adoption is Never; take another name, or set adoption: Always to replace its ACLs, password and quotas"
        ),
        UserAdoption::IfIdentical => match differences() {
            differences if differences.is_empty() => return Ok(()),
            differences => format!(
                "principal User:{name} exists and differs: {}; make the spec as it is, or set adoption: Always to change it, or take another name",
                differences.join("; ")
            ),
        },
    };
    Err(Invalid::new("spec.adoption", why).because(Reason::NotOurs))
}

fn quota_changes(
    wanted: &BTreeMap<String, f64>,
    found: &BTreeMap<String, f64>,
) -> BTreeMap<String, Option<f64>> {
    let set = wanted
        .iter()
        .filter(|(key, value)| found.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), Some(*value)));
    let removed = found
        .keys()
        .filter(|key| !wanted.contains_key(*key))
        .map(|key| (key.clone(), None));
    set.chain(removed).collect()
}

/// The credential to write; `None` if the one in force is right.
fn credential(object: &User, user: &ValidUser, observed: &Observed) -> Option<Written> {
    let secret = observed.secret.as_ref();
    let marks = secret
        .map(|secret| secret.marks.clone())
        .unwrap_or_default();
    let status = object
        .status
        .as_ref()
        .and_then(|status| status.credential.as_ref());
    // A deleted Secret is created again from the values in the status, with the same password.
    let since = marks.since.or_else(|| status.map(|status| status.since.0));
    let rotated = marks
        .rotated
        .clone()
        .or_else(|| status.and_then(|status| status.rotated.clone()));
    let asked = object
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(labels::ROTATE))
        .cloned();
    let given = given(object, observed);
    let passwords = &observed.cluster.password_key;
    let key = (derives(object, user) && !passwords.key.is_empty()).then(|| passwords.id.clone());
    let another_key =
        key.is_some() && marks.key.as_ref().or(passwords.first.as_ref()) != key.as_ref();
    let why = match (secret, since) {
        (_, None) => Why::New,
        (_, Some(since))
            if rotates(
                object,
                user,
                observed,
                since,
                &marks,
                asked.as_ref(),
                rotated.as_ref(),
            ) =>
        {
            Why::Rotated
        }
        (None, _) => Why::SecretChanged,
        (Some(found), _) if found.content != found.marks.content && !found.imposed => {
            Why::SecretChanged
        }
        _ if marks.inputs != desired::inputs(object, user, &observed.cluster) => Why::InputsChanged,
        _ if marks.given != given || another_key => Why::Rotated,
        _ if user.authentication == UserAuthenticationType::ScramSha512
            && observed
                .principal
                .scram
                .map(|held| held.to_string())
                .as_ref()
                != Some(&marks.credential) =>
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
        key,
        replaces: secret.map(|secret| secret.resource_version.clone()),
        why,
    })
}

/// The version and the key of the user's own Secret with the password.
fn given(object: &User, observed: &Observed) -> Option<String> {
    let reference = object.spec.authentication.password_secret_ref.as_ref()?;
    let given = observed.given.as_ref()?;
    Some(format!("{} {}", given.resource_version, reference.key))
}

/// True if a password in its Secret is derived: that of the user, or that of the PKCS#12 stores.
fn derives(object: &User, user: &ValidUser) -> bool {
    let made = user.authentication == UserAuthenticationType::ScramSha512
        && object.spec.authentication.password_secret_ref.is_none();
    made || object.spec.secret.pkcs12
}

/// True if a credential that Freehold creates must be replaced now.
fn rotates(
    object: &User,
    user: &ValidUser,
    observed: &Observed,
    since: Timestamp,
    marks: &Marks,
    asked: Option<&String>,
    followed: Option<&String>,
) -> bool {
    let made = user.authentication != UserAuthenticationType::ExternalTls
        && object.spec.authentication.password_secret_ref.is_none();
    let period = object
        .spec
        .authentication
        .rotation
        .as_ref()
        .map(|rotation| days(rotation.period_days.into()));
    // The time comes from an annotation that anybody may have changed, so the addition may
    // overflow.
    let due = period.is_some_and(|period| {
        since
            .checked_add(period)
            .is_ok_and(|due| observed.now >= due)
    });
    let ends = marks
        .not_after
        .is_some_and(|end| end <= observed.now + days(RENEW_BEFORE_DAYS));
    made && (due || ends || asked.is_some_and(|asked| Some(asked) != followed))
}

/// A number of days as a duration.
pub fn days(count: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * count)
}

/// A new time in whole seconds, as the status stores it. It differs from the old one, because
/// passwords are derived from it.
fn fresh(now: Timestamp, old: Option<Timestamp>) -> Timestamp {
    let now = now.round(Unit::Second).unwrap_or(now);
    old.filter(|old| *old >= now)
        .and_then(|old| old.checked_add(SignedDuration::from_secs(1)).ok())
        .unwrap_or(now)
}

/// The marks of a credential, as far as the plan knows them.
pub fn marks(written: &Written) -> Marks {
    Marks {
        since: Some(written.since),
        rotated: written.rotated.clone(),
        given: written.given.clone(),
        key: written.key.clone(),
        ..Marks::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::{State, conditions};
    use crate::api::kafka_cluster::{
        Access, Authentication, KafkaCluster, RightsPolicy, TopicNames,
    };
    use crate::api::user::{CredentialStatus, UserStatus};
    use crate::clusters::{ClusterFacts, PasswordKey};
    use crate::kinds::user::secrets::SecretFacts;
    use crate::kinds::user::validate::validate;
    use crate::tenancy::ownership::{Other, Ownership};
    use crate::tenancy::rights::{Standing, Standings};
    use freehold_kafka::metadata_image::{MetadataImage, PrincipalImage};
    use freehold_kafka::metadata_record::{Fingerprint, MetadataRecord, SCRAM_SHA_512};
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

    /// A Topic of namespace shop manages the topic `orders`.
    fn orders() -> Standings {
        let standing = Standing {
            owner: Some(("shop/orders".into(), "shop".into())),
            ..Standing::default()
        };
        [("orders".to_owned(), standing)].into()
    }

    fn observed(principal: PrincipalImage, secret: Option<SecretFacts>) -> Observed {
        let now = NOW.parse().unwrap();
        let (standings, ownership) = (orders(), Ownership::default());
        Observed {
            certified_until: None,
            now,
            cluster: Arc::new(cluster()),
            at_home: false,
            secret,
            former_secret: None,
            given: None,
            principal,
            standings,
            ownership,
        }
    }

    /// The state after the plan was executed: the object with finalizer and status, and what is
    /// observed then.
    fn settled(more: &Value) -> (User, Observed) {
        let mut object = user(more);
        object.metadata.finalizers = Some(vec![labels::FINALIZER.into()]);
        let valid = validate(&object, &observed(PrincipalImage::default(), None)).unwrap();
        let mut image = MetadataImage::default();
        let mut write = |record| image.apply(record, &mut Vec::new());
        for (index, acl) in crate::tenancy::rules::acls(&object, "app")
            .into_iter()
            .enumerate()
        {
            write(MetadataRecord::Acl {
                id: uuid::Uuid::from_u128(index as u128),
                acl,
            });
        }
        let entity = vec![("user".to_owned(), Some("app".to_owned()))];
        write(MetadataRecord::Quota {
            entity,
            key: "producer_byte_rate".into(),
            value: Some(1_048_576.0),
        });
        let fingerprint = Fingerprint::of(b"stored");
        write(MetadataRecord::Scram {
            user: "app".into(),
            mechanism: SCRAM_SHA_512,
            fingerprint,
        });
        let since: Timestamp = "2026-05-01T00:00:00Z".parse().unwrap();
        let marks = Marks {
            inputs: desired::inputs(&object, &valid, &cluster()),
            content: "c".into(),
            credential: fingerprint.to_string(),
            since: Some(since),
            ..Marks::default()
        };
        let secret = SecretFacts {
            uid: "s".into(),
            resource_version: "7".into(),
            managed: true,
            user: "app".into(),
            content: "c".into(),
            marks,
            imposed: false,
        };
        let credential = Some(CredentialStatus {
            since: Time(since),
            not_after: None,
            rotated: None,
        });
        let conditions = conditions(&State::Ready, Some(1), &[], &Time(since));
        object.status = Some(UserStatus {
            conditions,
            credential,
            ..UserStatus::default()
        });
        let ownership = Ownership {
            mine: true,
            ..Ownership::default()
        };
        (
            object,
            Observed {
                ownership,
                ..observed(image.principal("app").unwrap().clone(), Some(secret))
            },
        )
    }

    fn planned(object: &User, observed: &Observed) -> Plan {
        plan(object, &validate(object, observed).unwrap(), observed).unwrap()
    }

    fn written(plan: &Plan) -> &Written {
        let found = plan.steps.iter().find_map(|step| {
            if let Step::WriteCredential(written) = step {
                Some(written)
            } else {
                None
            }
        });
        found.expect("a credential is written")
    }

    #[test]
    fn a_new_user_gets_everything_and_a_settled_one_nothing() {
        let plan = planned(
            &user(&json!({})),
            &observed(PrincipalImage::default(), None),
        );
        let words: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "add the finalizer",
                "record the owner",
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
        assert_eq!(
            (
                written(&plan).why,
                Some(written(&plan).since),
                plan.drift.len()
            ),
            (Why::SecretChanged, since, 1)
        );
        observed.secret.as_mut().unwrap().imposed = true;
        assert!(
            planned(&object, &observed).steps.is_empty(),
            "what a policy makes of it is not written again and again"
        );
        observed.secret = None;
        let plan = planned(&object, &observed);
        assert_eq!(
            (written(&plan).why, Some(written(&plan).since)),
            (Why::SecretChanged, since),
            "by what status remembers"
        );
    }

    #[test]
    fn what_somebody_else_changed_in_kafka_is_put_right_and_told() {
        let (object, mut observed) = settled(&json!({}));
        observed.principal.scram = Some(Fingerprint::of(b"another"));
        observed
            .principal
            .quotas
            .insert("consumer_byte_rate".into(), 5.0);
        let plan = planned(&object, &observed);
        assert_eq!(written(&plan).why, Why::KafkaChanged);
        assert!(plan.steps.contains(&Step::AlterQuotas(
            [("consumer_byte_rate".to_owned(), None)].into()
        )));
        assert_eq!(
            plan.drift,
            [
                "quotas: consumer_byte_rate was 5",
                "the SCRAM credential was deleted or changed"
            ]
        );
    }

    #[test]
    fn a_principal_that_somebody_made_by_hand_is_taken_over_only_where_the_spec_says_so() {
        let (mut object, mut there) = settled(&json!({}));
        (object.status, there.ownership) = (None, Ownership::default());
        let refused = |object: &User, observed: &Observed| {
            plan(object, &validate(object, observed).unwrap(), observed).unwrap_err()
        };
        let (access, names) = (
            there.cluster.access.clone(),
            TopicNames {
                prefix: Some(String::new()),
                pattern: None,
            },
        );
        Arc::make_mut(&mut there.cluster).access.rights = Some(RightsPolicy::Own);
        assert!(
            refused(&object, &there)
                .why
                .contains("it may belong to somebody else")
        );
        Arc::make_mut(&mut there.cluster).access = Access {
            principal_names: Some(names),
            ..access
        };
        let why = refused(&object, &there);
        assert!(
            why.field == "spec.adoption"
                && why.reason == Reason::NotOurs
                && why.why.contains("adoption is Never"),
            "{why}"
        );
        object.spec.adoption = UserAdoption::IfIdentical;
        assert!(refused(&object, &there).why.contains("it has a password"));
        let mut without = there.clone();
        without.principal.scram = None;
        assert!(planned(&object, &without).adopts);
        let mut more = without;
        more.principal
            .quotas
            .insert("consumer_byte_rate".into(), 5.0);
        assert!(
            refused(&object, &more)
                .why
                .contains("its consumer_byte_rate is another")
        );
        object.spec.adoption = UserAdoption::Always;
        let plan = planned(&object, &there);
        assert!(
            plan.adopts && plan.steps.first() == Some(&Step::RecordOwner),
            "{:?}",
            plan.steps
        );
        // A principal that belongs, by its status, to a User from before owners were recorded is
        // not somebody else's.
        let (known, _) = settled(&json!({}));
        let plan = planned(
            &User {
                status: known.status.map(|status| UserStatus {
                    acls: Some(2),
                    ..status
                }),
                ..object
            },
            &there,
        );
        assert!(!plan.adopts && plan.steps.first() == Some(&Step::RecordOwner));
    }

    #[test]
    fn a_certificate_from_before_they_were_recorded_is_recorded_once() {
        let (mut object, mut observed) = settled(&json!({}));
        object.spec.authentication.kind = UserAuthenticationType::MutualTls;
        Arc::make_mut(&mut observed.cluster).listeners[0].authentication =
            Authentication::MutualTls;
        observed.principal.scram = None;
        let until = observed.now + days(300);
        observed.secret.as_mut().unwrap().marks.not_after = Some(until);
        assert!(
            planned(&object, &observed)
                .steps
                .contains(&Step::RecordCertificate(until))
        );
        observed.certified_until = Some(until + days(1));
        assert!(
            !planned(&object, &observed)
                .steps
                .iter()
                .any(|step| matches!(step, Step::RecordCertificate(_)))
        );
    }

    #[test]
    fn a_time_that_somebody_wrote_into_a_secret_stops_nothing() {
        let (object, mut observed) =
            settled(&json!({"/spec/authentication/rotation": {"periodDays": 1}}));
        observed.secret.as_mut().unwrap().marks.since = Some(Timestamp::MAX);
        planned(&object, &observed);
        assert!(fresh(Timestamp::MAX, Some(Timestamp::MAX)) <= Timestamp::MAX);
    }

    #[test]
    fn a_right_that_is_no_longer_allowed_is_taken_and_the_others_stay() {
        let (object, mut observed) = settled(&json!({}));
        observed.standings.clear();
        let user = validate(&object, &observed).unwrap();
        assert!(
            user.acls.is_empty() && user.refused[0].reason == Reason::RightNotAllowed,
            "{:?}",
            user.refused
        );
        let plan = planned(&object, &observed);
        let words: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            ["delete ACLs: Allow Write, Describe on Topic orders"]
        );
        assert!(
            plan.drift.is_empty(),
            "nobody changed anything behind our back: {:?}",
            plan.drift
        );
    }

    #[test]
    fn a_principal_s_name_follows_the_cluster_s_policy() {
        let mut observed = observed(PrincipalImage::default(), None);
        let mut facts = cluster();
        facts.access.principal_names = Some(crate::api::kafka_cluster::TopicNames {
            prefix: Some("{namespace}-".into()),
            pattern: None,
        });
        observed.cluster = Arc::new(facts);
        let refused = validate(&user(&json!({})), &observed).unwrap_err();
        assert!(
            refused[0].reason == Reason::NameNotAllowed && refused[0].why.contains("\"shop-\""),
            "{refused:?}"
        );
        assert!(validate(&user(&json!({"/metadata/name": "shop-app"})), &observed).is_ok());
    }

    #[test]
    fn who_holds_the_name_is_told() {
        let held = Ownership {
            other: Some(Other::Holds("a/b".into())),
            ..Ownership::default()
        };
        let observed = Observed {
            ownership: held,
            ..observed(PrincipalImage::default(), None)
        };
        let refused = validate(&user(&json!({})), &observed).unwrap_err();
        assert!(
            refused[0].reason == Reason::NameTaken && refused[0].why.contains("User a/b"),
            "{refused:?}"
        );
    }

    #[test]
    fn a_rotation_is_followed_once_for_each_value_of_the_annotation_and_when_it_is_due() {
        let asked = json!({"/metadata/annotations": {labels::ROTATE: "1"}});
        let (object, mut observed) = settled(&asked);
        let plan = planned(&object, &observed);
        assert_eq!(
            (written(&plan).why, written(&plan).since.to_string()),
            (Why::Rotated, NOW.to_owned())
        );
        assert_eq!(written(&plan).rotated.as_deref(), Some("1"));
        observed.secret.as_mut().unwrap().marks.rotated = Some("1".into());
        assert_eq!(planned(&object, &observed).steps, []);

        let (object, observed) =
            settled(&json!({"/spec/authentication/rotation": {"periodDays": 31}}));
        assert_eq!(written(&planned(&object, &observed)).why, Why::Rotated);
        let (object, observed) =
            settled(&json!({"/spec/authentication/rotation": {"periodDays": 32}}));
        assert_eq!(planned(&object, &observed).steps, []);
    }

    #[test]
    fn another_key_of_passwords_means_another_password_for_those_that_have_one_from_it() {
        let (object, mut observed) = settled(&json!({}));
        let mut with = |id: &str, first: Option<&str>, mark: Option<&str>| {
            let mut facts = cluster();
            facts.password_key = PasswordKey {
                key: format!("key {id}"),
                id: id.into(),
                first: first.map(str::to_owned),
            };
            observed.cluster = Arc::new(facts);
            observed.secret.as_mut().unwrap().marks.key = mark.map(str::to_owned);
            planned(&object, &observed)
        };
        assert_eq!(
            with("a", Some("a"), None).steps,
            [],
            "a Secret from before is of the first key"
        );
        assert_eq!(with("b", None, Some("b")).steps, []);
        for changed in [with("b", Some("a"), None), with("b", Some("a"), Some("a"))] {
            let written = written(&changed);
            assert_eq!(
                (
                    written.why,
                    written.key.as_deref(),
                    written.since.to_string()
                ),
                (Why::Rotated, Some("b"), NOW.to_owned())
            );
        }
        let valid = validate(&object, &observed).unwrap();
        let given =
            json!({"/spec/authentication/passwordSecretRef": {"name": "given", "key": "password"}});
        assert!(
            derives(&object, &valid) && !derives(&user(&given), &valid),
            "whoever gives a password changes it"
        );
    }

    #[test]
    fn a_new_time_is_another_than_the_old_one() {
        let now: Timestamp = NOW.parse().unwrap();
        assert_eq!(fresh(now, Some(now)), now + SignedDuration::from_secs(1));
        assert_eq!(fresh(now, None), now);
    }
}
