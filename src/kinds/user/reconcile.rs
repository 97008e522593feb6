//! The sequence: observe, validate, desired, plan, apply, status; and the end of a User.

use super::api::{User, UserStatus};
use super::apply::{self, Scope};
use super::validate::principal;
use super::{desired, observe, plan, status, validate};
use crate::certificates::CertificateError;
use crate::conditions::{Condition, Reason, State};
use crate::kafka_admin::AdminError;
use crate::kinds::dependence::Dependence;
use crate::kinds::kafka_cluster::validate::Invalid;
use crate::kinds::reference::ClusterKey;
use crate::kube_io::{self, KubeError, resource};
use crate::labels;
use crate::runtime::context::Context;
use crate::runtime::kind::{Failure, Kind, Outcome, Requeue, Watch};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::Store;
use std::sync::Arc;
use std::time::Duration;

/// Drift is found by then.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kube(#[from] KubeError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Invalid>),
}

impl Failure for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Kube(KubeError::NotOurs { .. }) => Reason::NotOurs,
            Self::Kube(error) if error.is_transient() => Reason::KubernetesUnavailable,
            Self::Kube(_) => Reason::KubernetesRefused,
            Self::Admin(AdminError::Unavailable(_) | AdminError::Deadline(_)) => Reason::KafkaUnavailable,
            Self::Admin(_) => Reason::KafkaRefused,
            Self::Certificate(_) => Reason::InternalError,
            Self::Invalid(all) if all.iter().any(|invalid| invalid.field == "metadata.name") => Reason::NameTaken,
            Self::Invalid(_) => Reason::InvalidSpec,
        }
    }
    fn is_transient(&self) -> bool {
        match self {
            Self::Kube(error) => error.is_transient(),
            Self::Admin(error) => error.is_transient(),
            Self::Certificate(_) | Self::Invalid(_) => false,
        }
    }
    fn words(&self) -> String {
        match self {
            Self::Kube(error) => error.words(),
            other => other.to_string(),
        }
    }
}

/// The kind, for the driver.
pub struct UserKind;

impl Kind for UserKind {
    type Object = User;
    type Status = UserStatus;

    fn status(object: &User) -> Option<&UserStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &UserStatus) -> &[Condition] {
        &status.conditions
    }
    fn watches() -> Vec<Watch> {
        vec![Watch { resource: resource::<Secret>(), label: labels::USER }]
    }
    fn cluster(object: &User) -> Option<ClusterKey> {
        Some(object.spec.cluster_ref.key(object.metadata.namespace.as_deref().unwrap_or_default()))
    }
    fn remember(context: &Context, store: Store<User>) {
        context.users.add(store);
    }

    async fn reconcile(object: Arc<User>, context: Arc<Context>) -> Outcome<UserStatus> {
        let now = Time(Timestamp::now());
        let deleting = object.metadata.deletion_timestamp.is_some();
        let result = if deleting { end(&object, &context).await } else { look(&object, &context).await.map(Some) };
        match result {
            Ok(None) => Outcome { status: None, state: State::Ready, requeue: Requeue::After(LOOK_AGAIN) },
            Ok(Some((acls, state))) => {
                let status = status::status(&object, acls, &state, &now);
                Outcome { status: Some(status), state, requeue: Requeue::After(LOOK_AGAIN) }
            }
            Err(error) => {
                let state = error.state();
                let status = status::status(&object, None, &state, &now);
                let requeue = if error.is_transient() { Requeue::Backoff } else { Requeue::After(LOOK_AGAIN) };
                Outcome { status: Some(status), state, requeue }
            }
        }
    }
}

async fn look(object: &User, context: &Context) -> Result<(Option<usize>, State), Error> {
    let (observed, asked) = match observe::observe(context, object).await? {
        Ok(observed) => observed,
        Err(dependence) => return Ok((None, dependence.state_of::<UserKind>(object))),
    };
    let user = validate::validate(object, &observed).map_err(Error::Invalid)?;
    let scope = Scope { client: &context.client, admin: asked.admin.as_ref(), object, user: &user, cluster: &asked.facts };
    for step in &plan::plan(object, &user, &observed) {
        tracing::info!(user = user.name, %step, "step");
        apply::apply(&scope, step).await?;
    }
    // Kafka's controller answered each step: brokers follow within milliseconds.
    Ok((Some(desired::acls(object, &user.name).len()), State::Ready))
}

/// `None`: the finalizer is gone.
async fn end(object: &User, context: &Context) -> Result<Option<(Option<usize>, State)>, Error> {
    if !kube_io::has_finalizer(object) {
        return Ok(None);
    }
    let name = object.metadata.name.clone().unwrap_or_default();
    match observe::observe(context, object).await? {
        // What is gone, or never let us in, cannot strand its Users.
        Err(Dependence::Missing(_) | Dependence::Forbidden { .. }) => {}
        Err(waiting) => return Ok(Some((None, waiting.state()))),
        // The name is another User's: its rights stay.
        Ok((observed, _)) if observed.older.is_some() => {}
        Ok((_, asked)) => {
            asked.admin.delete_scram(&name).await?;
            let acls = asked.admin.acls_of(&principal(&name)).await?;
            if !acls.is_empty() {
                asked.admin.delete_acls(&acls).await?;
            }
        }
    }
    kube_io::set_finalizer(&context.client, object, false).await?;
    Ok(None)
}
