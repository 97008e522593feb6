//! Runs the steps of a User's reconcile: observe, validate, desired, plan, apply, status. Also
//! handles its deletion.

use crate::api::conditions::{Condition, Reason, State};
use crate::api::reference::ClusterKey;
use crate::api::user::{
    AuthorizationMode, CredentialStatus, User, UserAuthenticationType, UserStatus,
};
use crate::clusters::Cluster;
use crate::kinds::context::Context as Shared;
use crate::kinds::dependent::events;
use crate::kinds::dependent::events::Dependent;
use crate::kinds::dependent::lookup::{Dependence, cluster_that_refuses};
use crate::kinds::dependent::outcome;
use crate::kinds::dependent::outcome::{REQUEUE_SOON, ROUNDS_MAX, Reconciled};
use crate::kinds::dependent::rounds::{Found, Round, give_way};
use crate::kinds::drift;
use crate::kinds::error::Error;
use crate::kinds::user::apply;
use crate::kinds::user::apply::Scope;
use crate::kinds::user::context::Context;
use crate::kinds::user::deletion::{end, has, revoke, revoked, waiting};
use crate::kinds::user::observe::Observed;
use crate::kinds::user::plan::{Plan, Step, Why};
use crate::kinds::user::status::Learned;
use crate::kinds::user::validate::ValidUser;
use crate::kinds::user::{observe, plan, secrets, status, validate};
use crate::runtime::kind::{Failure, Kind, Notice, Outcome, Requeue, Requeued};
use crate::runtime::unread_names::UnreadNames;
use crate::tenancy::claims::Claim;
use crate::tenancy::ownership;
use crate::tenancy::ownership::{Other, Ownership, owner_of};
use crate::tenancy::revocation;
use crate::tenancy::revocation::SEEN_LIMIT;
use crate::tenancy::rights;
use crate::tenancy::rights::Standings;
use crate::tenancy::tenants::{Tenant, Tenants};
use freehold_kafka::acl;
use freehold_kafka::acl::{ALLOW, AclBinding};
use freehold_kafka::metadata_image::{Concerned, MetadataImage};
use freehold_kafka::metadata_record::Fingerprint;
use freehold_kafka::ownership::{Owned, Owner};
use futures::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::{ObjectRef, Store};
use std::sync::Arc;
use std::time::Duration;

/// The time until the next reconcile in shadow mode: brokers send no event about requests that
/// shadow mode allows.
const REQUEUE_IN_SHADOW: Duration = Duration::from_secs(10);

/// The User kind, for the driver.
pub struct UserKind;

impl Kind for UserKind {
    type Object = User;
    type Status = UserStatus;
    type Context = Context;
    type Group = ClusterKey;

    const CONCURRENCY: u16 = 128;
    const DEBOUNCE: Duration = Duration::from_millis(1);

    fn status(object: &User) -> Option<&UserStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &UserStatus) -> &[Condition] {
        &status.conditions
    }
    fn group(object: &User) -> Option<ClusterKey> {
        Some(object.claim().cluster)
    }
    fn triggers(
        context: &Arc<Context>,
        namespace: Option<&str>,
    ) -> Vec<BoxStream<'static, Requeued<User, ClusterKey>>> {
        vec![
            events::trigger::<Self>(context),
            secrets::watch(&context.client, Arc::clone(&context.secrets), namespace),
        ]
    }
    fn remember(context: &Context, namespace: Option<&str>, store: &Store<User>) {
        context.users.add(namespace, store.clone());
    }
    fn remember_unread(context: &Context, names: &Arc<UnreadNames>) {
        context.users.add_unread(names);
    }
    fn noted(context: &Context, object: &User) {
        events::noted::<Self>(context, object);
    }
    fn gone(context: &Context, object: &User) {
        context.sharing.forget(object);
        events::gone::<Self>(context, object);
    }

    async fn reconcile(object: Arc<User>, context: Arc<Context>) -> Outcome<UserStatus> {
        let now = Time(Timestamp::now());
        let deleting = object.metadata.deletion_timestamp.is_some();
        let result = if deleting {
            let ended = end(&object, &context, now.0).await;
            outcome::end(&context, &*object, ended, now.0).await
        } else {
            run(&object, &context).await.map(Some)
        };
        outcome::outcome(result, |learned, state| {
            status::status(&object, learned, state, &now)
        })
    }
}

impl Dependent for UserKind {
    fn tenants(context: &Shared) -> &Tenants<User> {
        &context.users
    }
    fn name_of(change: &Concerned) -> Option<&str> {
        match change {
            Concerned::Principal(name) => Some(name),
            Concerned::Topic(_) => None,
        }
    }
    fn change_of(name: &str) -> Concerned {
        Concerned::Principal(name.into())
    }
    fn dependents(context: &Shared, topic: &Claim) -> Vec<ObjectRef<User>> {
        context.sharing.dependents(topic)
    }
}

async fn run(object: &Arc<User>, context: &Context) -> Result<Reconciled<Learned>, Error> {
    let mut object = Arc::clone(object);
    let mut found = Found::default();
    for _ in 0..ROUNDS_MAX {
        match round(&object, context, &mut found).await? {
            Round::Continue(changed) => object = changed,
            Round::Break(done) => return Ok(done),
        }
    }
    Ok(Reconciled {
        learned: Learned {
            drift: found.drift,
            ..Learned::default()
        },
        state: State::reconciling(Reason::Applying, "the user is being changed"),
        notices: found.notices,
        requeue: Requeue::After(REQUEUE_SOON),
    })
}

/// One round: observe, validate, plan, apply.
async fn round(
    object: &Arc<User>,
    context: &Context,
    found: &mut Found,
) -> Result<Round<User, Learned>, Error> {
    let (observed, cluster) = match observe::observe(context, object).await? {
        Ok(observed) => observed,
        Err(dependence) => {
            let done = not_admitted(&dependence, object, context).await?;
            return Ok(Round::Break(done));
        }
    };
    if let Some(done) = refused_principal(object, context, &observed, &cluster).await? {
        return Ok(Round::Break(done));
    }
    let user = match validate::validate(object, &observed) {
        Ok(user) => user,
        Err(invalids) => {
            reduce(object, context, &observed, &cluster).await?;
            return Err(Error::Invalid(invalids));
        }
    };
    if !observed.ownership.former.is_empty() {
        revoke_former(object, context, &user, &observed, &cluster).await?;
        return Ok(Round::Continue(Arc::clone(object)));
    }
    let Plan {
        steps,
        drift,
        adopts,
    } = plan::plan(object, &user, &observed).map_err(|invalid| Error::Invalid(vec![invalid]))?;
    found.add_drift(drift);
    if steps.is_empty() {
        let found = std::mem::take(found);
        let done = settled(object, user, observed, &cluster, found).await?;
        return Ok(Round::Break(done));
    }
    context.ensure_current(&**object).await?;
    let given = given_password(object, context, &steps).await?;
    found.notices.extend(adopts.then(|| {
        let message =
            format!("principal User:{} existed and was taken over: its ACLs, credential and quotas are what this spec says", user.name);
        Notice { reason: Reason::Adopted, message }
    }));
    found.notices.extend(
        steps
            .iter()
            .filter_map(|step| rotation(step, user.authentication)),
    );
    let changed = act(context, &cluster, object, &user, &steps, given).await?;
    Ok(Round::Continue(changed))
}

/// The result for a User that may not have its principal, or not yet.
///
/// # Errors
/// The spec names a principal that it may not have, and the User has nothing in Kafka.
async fn refused_principal(
    object: &User,
    context: &Context,
    observed: &Observed,
    cluster: &Cluster,
) -> Result<Option<Reconciled<Learned>>, Error> {
    let known = plan::is_known(object, &observed.cluster);
    if let Some(invalid) = validate::refuse_principal(object, &observed.cluster, observed.at_home) {
        if !observed.ownership.is_proven(known) {
            return Err(Error::Invalid(vec![invalid]));
        }
        let state = State::stalled(invalid.reason, invalid.to_string());
        return revoke(object, context, cluster, state).await.map(Some);
    }
    match &observed.ownership.other {
        Some(other @ (Other::Revoked(_) | Other::Gone(_))) if !observed.ownership.mine => {
            let words = ownership::words::<User>(other, "principal");
            Ok(Some(waiting(State::reconciling(Reason::Applying, words))))
        }
        _ => Ok(None),
    }
}

/// Reduces what a User with an invalid spec has in Kafka to what it may still have.
async fn reduce(
    object: &User,
    context: &Context,
    observed: &Observed,
    cluster: &Cluster,
) -> Result<(), Error> {
    let name = object.principal_name();
    let ownership = &observed.ownership;
    if !give_way(object, cluster, Owned::Principal, name, ownership).await? && ownership.mine {
        withdraw(object, context, cluster, &observed.standings).await?;
    }
    Ok(())
}

/// An earlier User with this name was deleted without its clean-up. What it had is revoked, not
/// adopted.
async fn revoke_former(
    object: &User,
    context: &Context,
    user: &ValidUser,
    observed: &Observed,
    cluster: &Cluster,
) -> Result<(), Error> {
    context.ensure_current(object).await?;
    let Ownership { mine, former, .. } = &observed.ownership;
    if *mine || revocation::revoke(cluster, &user.name).await? {
        revocation::disown(cluster, Owned::Principal, &user.name, former).await?;
    }
    Ok(())
}

/// The result when nothing is left to do.
async fn settled(
    object: &User,
    user: ValidUser,
    observed: Observed,
    cluster: &Cluster,
    found: Found,
) -> Result<Reconciled<Learned>, Error> {
    let Found { drift, mut notices } = found;
    notices.extend(drift::notices(&drift));
    let imposed = observed.secret.as_ref().filter(|secret| secret.imposed).map(|_| {
        format!("Secret {} is not as it was written: a policy of the API server (a mutating webhook) changes its data", user.secret)
    });
    let credential = observed.secret.and_then(|secret| {
        let not_after = secret.marks.not_after.map(Time);
        Some(CredentialStatus {
            since: Time(secret.marks.since?),
            not_after,
            rotated: secret.marks.rotated,
        })
    });
    let would_be_refused = observe::would_be_refused(object, cluster, &user.name).await?;
    notices.extend(newly_refused(object, &would_be_refused));
    let requeue = if object.spec.authorization.mode == AuthorizationMode::Shadow {
        Requeue::After(REQUEUE_IN_SHADOW)
    } else {
        Requeue::OnChange
    };
    let state = match Error::Invalid(user.refused.clone()) {
        _ if user.refused.is_empty() => State::Ready,
        refused => State::stalled(refused.reason(), refused.words()),
    };
    let cluster_id = Some(observed.cluster.cluster_id.clone()).filter(|id| !id.is_empty());
    let warnings = validate::warnings(object).into_iter().chain(imposed);
    let learned = Learned {
        acls: Some(user.acls),
        cluster_id,
        credential,
        would_be_refused: Some(would_be_refused),
        drift,
        warnings: Some(warnings.collect()),
        revoked: false,
    };
    Ok(Reconciled {
        learned,
        state,
        notices,
        requeue,
    })
}

/// The password from the user's own Secret, if one of the steps sets it.
///
/// # Errors
/// Kafka cannot use that password.
async fn given_password(
    object: &User,
    context: &Context,
    steps: &[Step],
) -> Result<Option<String>, Error> {
    let writes = |step: &Step| matches!(step, Step::WriteCredential(_));
    if !steps.iter().any(writes) {
        return Ok(None);
    }
    let given = observe::given_password(context, object).await?;
    if let Some(reference) = &object.spec.authentication.password_secret_ref {
        let field = format!(
            "spec.authentication.passwordSecretRef (Secret {}, key {})",
            reference.name, reference.key
        );
        if let Some(invalid) = validate::refuse_password(given.as_deref(), &field) {
            return Err(Error::Invalid(vec![invalid]));
        }
    }
    Ok(given)
}

/// Executes the steps and waits until the metadata log shows them. Returns the object after that.
async fn act(
    context: &Context,
    cluster: &Cluster,
    object: &Arc<User>,
    user: &ValidUser,
    steps: &[Step],
    given: Option<String>,
) -> Result<Arc<User>, Error> {
    let mut object = Arc::clone(object);
    // The finalizer comes before everything that it protects, and the record of the owner before
    // everything that is owned.
    let first = |step: &Step| matches!(step, Step::AddFinalizer | Step::RecordOwner);
    for step in steps.iter().filter(|step| first(step)) {
        let scope = Scope {
            context,
            admin: &cluster.admin,
            object: &object,
            user,
            cluster: &cluster.facts,
            given: None,
        };
        if let Some(changed) = apply::apply(&scope, step).await?.object {
            object = Arc::new(changed);
        }
    }
    // The steps for ACLs run in the order of the plan. Credential and quotas do not depend on them,
    // so they run at the same time.
    let scope = Scope {
        context,
        admin: &cluster.admin,
        object: &object,
        user,
        cluster: &cluster.facts,
        given,
    };
    let is_acl = |step: &&Step| matches!(step, Step::DeleteAcls(_) | Step::CreateAcls(_));
    let acls = async {
        let mut result = Ok::<_, Error>(());
        for step in steps.iter().filter(is_acl) {
            // A right that is no longer allowed goes also where another one cannot be given. What
            // depends on a Deny waits for it.
            if result.is_err() && !takes_a_right(step) {
                continue;
            }
            let applied = apply::apply(&scope, step).await;
            result = result.and(applied.map(drop));
        }
        result
    };
    let others = steps
        .iter()
        .filter(|step| !is_acl(step) && !first(step))
        .map(|step| apply::apply(&scope, step));
    // A refused ACL must not stop the credential or the quotas, nor the other way round.
    let (acls, others) = futures::join!(acls, futures::future::join_all(others));
    acls?;
    let done = others.into_iter().collect::<Result<Vec<_>, _>>()?;
    steps
        .iter()
        .for_each(|step| tracing::debug!(user = user.name, %step, "step"));
    let scram = done.into_iter().find_map(|done| done.scram);
    let own = owner_of(&*object);
    let seen = |image: &MetadataImage| is_seen(image, user, &own, scram);
    cluster.mirror.wait(SEEN_LIMIT, seen).await;
    Ok(object)
}

/// True if the step deletes ACLs that allow something, and no others.
fn takes_a_right(step: &Step) -> bool {
    let allows = |acl: &AclBinding| acl.permission == ALLOW;
    matches!(step, Step::DeleteAcls(acls) if acls.iter().all(allows))
}

/// True if the metadata show the principal as it should be. `scram`: the credential that was set.
fn is_seen(
    image: &MetadataImage,
    user: &ValidUser,
    own: &Owner,
    scram: Option<Fingerprint>,
) -> bool {
    let owners = image.owners(Owned::Principal, &user.name);
    if !owners.iter().any(|owner| **owner == *own) {
        return false;
    }
    let Some(principal) = image.principal(&user.name) else {
        return user.acls.is_empty() && user.quotas.is_empty() && scram.is_none();
    };
    let acls: Vec<_> = principal.acls().cloned().collect();
    let keeps_scram = user.authentication == UserAuthenticationType::ScramSha512;
    acl::changes(&user.acls, &acls).is_empty()
        && principal.quotas == user.quotas
        && scram.is_none_or(|scram| principal.scram == Some(scram))
        && (keeps_scram || principal.scram.is_none())
}

/// The event for requests that the brokers would refuse and that are not in the status yet.
fn newly_refused(object: &User, refusals: &[String]) -> Option<Notice> {
    let known = object
        .status
        .as_ref()
        .map(|status| status.would_be_refused.as_slice())
        .unwrap_or_default();
    let new: Vec<_> = refusals
        .iter()
        .filter(|one| !known.contains(one))
        .cloned()
        .collect();
    let message = format!(
        "without shadow mode it would be refused: {}",
        new.join("; ")
    );
    (!new.is_empty()).then_some(Notice {
        reason: Reason::WouldBeRefused,
        message,
    })
}

/// The event that says what a rotation means for clients.
fn rotation(step: &Step, authentication: UserAuthenticationType) -> Option<Notice> {
    let Step::WriteCredential(written) = step else {
        return None;
    };
    let message = match authentication {
        _ if written.why != Why::Rotated => return None,
        UserAuthenticationType::ScramSha512 => {
            "the password was replaced; Kafka keeps one SCRAM-SHA-512 credential of a user, so that the old password opens no new connection; connections that are open stay"
        }
        UserAuthenticationType::MutualTls => {
            "a new certificate was issued; the old one stays valid until its end"
        }
        UserAuthenticationType::ExternalTls => return None,
    };
    Some(Notice {
        reason: Reason::Rotated,
        message: message.into(),
    })
}

/// Deletes ACLs that the cluster no longer allows, for a User that is not changed otherwise because
/// its spec is not valid or the cluster is Paused.
async fn withdraw(
    object: &User,
    context: &Context,
    cluster: &Cluster,
    standings: &Standings,
) -> Result<(), Error> {
    let name = object.principal_name();
    let found: Vec<_> = cluster
        .mirror
        .read()
        .principal(name)
        .map(|principal| principal.acls().cloned().collect())
        .unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let gone = rights::withdrawn(
        &found,
        namespace,
        &cluster.facts.access,
        cluster.facts.shadow,
        &object.claim().cluster,
        standings,
    );
    if !gone.is_empty() {
        context.ensure_current(object).await?;
        revocation::withdraw(cluster, &gone).await?;
    }
    Ok(())
}

/// The result for a User whose cluster does not answer, is Paused, or does not admit it. A User
/// that was admitted before and is no longer admitted loses everything that it has in Kafka.
async fn not_admitted(
    dependence: &Dependence,
    object: &User,
    context: &Context,
) -> Result<Reconciled<Learned>, Error> {
    let name = object.principal_name();
    if let Dependence::Paused(key) = dependence
        && let Some(cluster) = context.clusters.get(key)
        && let Some(done) = reduce_paused(object, context, &cluster).await?
    {
        return Ok(done);
    }
    match cluster_that_refuses(context, dependence) {
        Some(cluster) if has(object, &cluster, name) => {
            revoke(object, context, &cluster, dependence.state()).await
        }
        // The clean-up of the cluster has already revoked it.
        Some(cluster) if plan::is_known(object, &cluster.facts) => {
            Ok(revoked(object, dependence.state()))
        }
        _ => Ok(dependence.reconciled::<UserKind, _>(object, context)),
    }
}

/// Takes from a User of a Paused cluster what the cluster no longer allows: rights, or everything
/// if it may no longer have its principal. The result in the second case.
///
/// # Errors
/// The spec names a principal that it may not have, and the User has nothing in Kafka.
async fn reduce_paused(
    object: &User,
    context: &Context,
    cluster: &Cluster,
) -> Result<Option<Reconciled<Learned>>, Error> {
    let claim = object.claim();
    let at_home = object.metadata.namespace.as_ref() == Some(&claim.cluster.namespace);
    let has = has(object, cluster, &claim.name);
    if let Some(invalid) = validate::refuse_principal(object, &cluster.facts, at_home) {
        let state = State::stalled(invalid.reason, invalid.to_string());
        if has {
            return revoke(object, context, cluster, state).await.map(Some);
        }
        // The clean-up of the cluster may have revoked it already.
        return if plan::is_known(object, &cluster.facts) {
            Ok(Some(revoked(object, state)))
        } else {
            Err(Error::Invalid(vec![invalid]))
        };
    }
    if has && let Some(standings) = observe::standings(context, cluster, &claim, object).await? {
        withdraw(object, context, cluster, &standings).await?;
    }
    Ok(None)
}
