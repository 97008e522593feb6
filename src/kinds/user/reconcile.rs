//! The sequence: observe, validate, desired, plan, apply, status; and the end of a User.

use super::api::{AuthorizationMode, CredentialStatus, User, UserAuthenticationType, UserStatus};
use super::apply::{self, Scope};
use super::plan::{Plan, Step, Why};
use super::status::Learned;
use super::validate::principal_name;
use super::{desired, observe, plan, secrets, status, validate};
use crate::conditions::{Condition, Reason, State};
use crate::kafka::acl;
use crate::kafka::metadata_image::{Concerned, MetadataImage};
use crate::kafka_admin::{QuotaChange, ScramChange};
use crate::kinds::drift;
use crate::kinds::error::Error;
use crate::kinds::look::{self, LOOK_SOON, Look, ROUNDS_MAX, SEEN_LIMIT};
use crate::kube_io;
use crate::runtime::claims::{Claim, Claims};
use crate::runtime::clusters::Cluster;
use crate::runtime::context::Context;
use crate::runtime::kind::{Kind, Notice, Outcome, Requeue, Woken};
use futures::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Brokers announce nothing of what they let through.
const LOOK_AT_SHADOW: Duration = Duration::from_secs(10);

/// The kind, for the driver.
pub struct UserKind;

impl Kind for UserKind {
    type Object = User;
    type Status = UserStatus;

    const CONCURRENCY: u16 = 128;
    const DEBOUNCE: Duration = Duration::from_millis(1);

    fn status(object: &User) -> Option<&UserStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &UserStatus) -> &[Condition] {
        &status.conditions
    }
    fn wakes(context: &Arc<Context>, namespace: Option<&str>) -> Option<BoxStream<'static, Woken<User>>> {
        Some(secrets::watch(context, namespace))
    }
    fn claims(context: &Context) -> Option<&Claims> {
        Some(&context.users)
    }
    fn claim(object: &User) -> Option<Claim> {
        Some(observe::claim(object))
    }
    fn concerned(concerned: &Concerned) -> Option<&str> {
        match concerned {
            Concerned::Principal(name) => Some(name),
            Concerned::Topic(_) => None,
        }
    }
    fn concern(name: &str) -> Concerned {
        Concerned::Principal(name.into())
    }

    async fn reconcile(object: Arc<User>, context: Arc<Context>) -> Outcome<UserStatus> {
        let now = Time(Timestamp::now());
        let deleting = object.metadata.deletion_timestamp.is_some();
        let result = if deleting { end(&object, &context, now.0).await } else { look(&object, &context).await.map(Some) };
        look::outcome(result, |learned, state| status::status(&object, learned, state, &now))
    }
}

fn waiting(state: State) -> Look<Learned> {
    Look { learned: Learned::default(), state, notices: Vec::new(), requeue: Requeue::After(LOOK_SOON) }
}

async fn look(object: &Arc<User>, context: &Context) -> Result<Look<Learned>, Error> {
    let mut object = Arc::clone(object);
    let (mut found, mut notices) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS_MAX {
        let (observed, cluster) = match observe::observe(context, &object).await? {
            Ok(observed) => observed,
            Err(dependence) => return Ok(dependence.look::<UserKind, _>(&object, context)),
        };
        let user = validate::validate(&object, &observed).map_err(Error::Invalid)?;
        let Plan { steps, drift } = plan::plan(&object, &user, &observed);
        if found.is_empty() {
            found = drift;
        }
        if steps.is_empty() {
            notices.extend(drift::notices(&found));
            let credential = observed.secret.and_then(|secret| {
                let not_after = secret.marks.not_after.map(Time);
                Some(CredentialStatus { since: Time(secret.marks.since?), not_after, rotated: secret.marks.rotated })
            });
            let would_be_refused = observe::would_be_refused(&object, &cluster, &user.name).await?;
            notices.extend(newly_refused(&object, &would_be_refused));
            let shadowed = object.spec.authorization.mode == AuthorizationMode::Shadow;
            let requeue = if shadowed { Requeue::After(LOOK_AT_SHADOW) } else { Requeue::Woken };
            let acls = Some(desired::acls(&object, &user.name));
            let learned = Learned { acls, credential, would_be_refused: Some(would_be_refused), drift: found };
            return Ok(Look { learned, state: State::Ready, notices, requeue });
        }
        context.ensure_current(&*object).await?;
        let writes = steps.iter().any(|step| matches!(step, Step::WriteCredential(_)));
        let given = if writes { observe::given_password(context, &object).await? } else { None };
        if let (true, Some(reference)) = (writes, &object.spec.authentication.password_secret_ref) {
            let field = format!("spec.authentication.passwordSecretRef (Secret {}, key {})", reference.name, reference.key);
            if let Some(invalid) = validate::refuse_password(given.as_deref(), &field) {
                return Err(Error::Invalid(vec![invalid]));
            }
        }
        notices.extend(steps.iter().filter_map(|step| rotation(step, user.authentication)));
        object = act(context, &cluster, &object, &user, &steps, given).await?;
    }
    let state = State::reconciling(Reason::Applying, "the user is being changed");
    Ok(Look { learned: Learned { drift: found, ..Learned::default() }, state, notices, requeue: Requeue::After(LOOK_SOON) })
}

/// Does the steps and waits until the metadata tells of them; gives the object as it is then.
async fn act(
    context: &Context,
    cluster: &Cluster,
    object: &Arc<User>,
    user: &validate::ValidUser,
    steps: &[Step],
    given: Option<String>,
) -> Result<Arc<User>, Error> {
    let mut object = Arc::clone(object);
    // The finalizer comes before anything that it guards.
    for step in steps.iter().filter(|step| **step == Step::AddFinalizer) {
        let scope = Scope { context, admin: &cluster.admin, object: &object, user, cluster: &cluster.facts, given: None };
        if let Some(changed) = apply::apply(&scope, step).await?.object {
            object = Arc::new(changed);
        }
    }
    // Rights are taken away before others are given; credential and quotas depend on neither.
    let scope = Scope { context, admin: &cluster.admin, object: &object, user, cluster: &cluster.facts, given };
    let is_acl = |step: &&Step| matches!(step, Step::DeleteAcls(_) | Step::CreateAcls(_));
    let acls = async {
        for step in steps.iter().filter(is_acl) {
            apply::apply(&scope, step).await?;
        }
        Ok::<_, Error>(())
    };
    let others = steps.iter().filter(|step| !is_acl(step) && **step != Step::AddFinalizer).map(|step| apply::apply(&scope, step));
    let ((), done) = futures::try_join!(acls, futures::future::try_join_all(others))?;
    steps.iter().for_each(|step| tracing::debug!(user = user.name, %step, "step"));
    let scram = done.into_iter().find_map(|done| done.scram);
    let wanted = desired::acls(&object, &user.name);
    let seen = |image: &MetadataImage| {
        let Some(principal) = image.principal(&user.name) else { return wanted.is_empty() && user.quotas.is_empty() && scram.is_none() };
        let acls: Vec<_> = principal.acls().cloned().collect();
        let keeps_scram = user.authentication == UserAuthenticationType::ScramSha512;
        acl::changes(&wanted, &acls).is_empty()
            && principal.quotas == user.quotas
            && scram.is_none_or(|scram| principal.scram == Some(scram))
            && (keeps_scram || principal.scram.is_none())
    };
    cluster.mirror.wait(SEEN_LIMIT, seen).await;
    Ok(object)
}

/// What the brokers would refuse and the status does not say yet.
fn newly_refused(object: &User, refusals: &[String]) -> Option<Notice> {
    let known = object.status.as_ref().map(|status| status.would_be_refused.as_slice()).unwrap_or_default();
    let new: Vec<_> = refusals.iter().filter(|one| !known.contains(one)).cloned().collect();
    let message = format!("without shadow mode it would be refused: {}", new.join("; "));
    (!new.is_empty()).then_some(Notice { reason: Reason::WouldBeRefused, message })
}

/// What a rotation means for clients.
fn rotation(step: &Step, authentication: UserAuthenticationType) -> Option<Notice> {
    let Step::WriteCredential(written) = step else { return None };
    let message = match authentication {
        _ if written.why != Why::Rotated => return None,
        UserAuthenticationType::ScramSha512 => {
            "the password was replaced; Kafka keeps one SCRAM-SHA-512 credential of a user, so that the old password opens no new connection; connections that are open stay"
        }
        UserAuthenticationType::MutualTls => "a new certificate was issued; the old one stays valid until its end",
        UserAuthenticationType::ExternalTls => return None,
    };
    Some(Notice { reason: Reason::Rotated, message: message.into() })
}

/// `None`: the finalizer is gone.
async fn end(object: &User, context: &Context, now: Timestamp) -> Result<Option<Look<Learned>>, Error> {
    if !kube_io::has_finalizer(object) {
        return Ok(None);
    }
    context.ensure_current(object).await?;
    match observe::observe(context, object).await? {
        Err(dependence) if dependence.strands_nothing(context).await? => {}
        Err(dependence) => return Ok(Some(waiting(dependence.state()))),
        // The name is another User's: its rights stay.
        Ok((observed, _)) if observed.older.is_some() => {}
        Ok((observed, cluster)) => {
            let name = principal_name(object).to_owned();
            let acls: Vec<_> = observed.principal.acls().cloned().collect();
            let quotas: std::collections::BTreeMap<_, _> = observed.principal.quotas.keys().map(|key| (key.clone(), None)).collect();
            if !acls.is_empty() {
                cluster.admin.delete_acls(acls).await?;
            }
            if observed.principal.scram.is_some() {
                cluster.admin.alter_scram(ScramChange::Delete { user: name.clone() }).await?;
            }
            if !quotas.is_empty() {
                cluster.admin.alter_quotas(QuotaChange { user: name.clone(), quotas }).await?;
            }
            if !cluster.mirror.wait(SEEN_LIMIT, |image| image.principal(&name).is_none()).await {
                return Ok(Some(waiting(State::reconciling(Reason::Deleting, "waiting for Kafka to tell that the rights are gone"))));
            }
            let conditions = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            // Its end is a generation of its own.
            let before = object.metadata.generation.map(|generation| generation - 1);
            if let Some(left) = look::late(&object.metadata, now).filter(|_| !drift::was_settled(conditions, before)) {
                let late = waiting(State::reconciling(Reason::Deleting, look::LATE_WORDS));
                return Ok(Some(Look { requeue: Requeue::After(left), ..late }));
            }
        }
    }
    kube_io::set_finalizer(&context.client, object, false).await?;
    Ok(None)
}
