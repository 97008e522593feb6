//! What pods need before any of them starts: the Topics of isolated blocks, the User and its
//! credential.

use crate::api::conditions::State;
use crate::clusters::Cluster;
use crate::kinds::attempts;
use crate::kinds::error::{Error, Invalid};
use crate::kinds::pipeline::desired::USER_FOLDER;
use crate::kinds::pipeline::observe::Credential;
use crate::kinds::pipeline::plan::Applied;
use crate::kinds::pipeline::replay::Decision;
use crate::kinds::pipeline::scope::Scope;
use crate::kinds::pipeline::{apply, observe, pods, replay, tenants};
use crate::kubernetes;
use crate::runtime::kind::Failure;
use freehold_pipeline::rights::Rights;
use kube::ResourceExt;
use serde_json::Value;

/// What the pods connect with.
pub struct Means {
    pub credential: Credential,
    pub client: Value,
    /// What the stages cannot do.
    pub lacking: Option<State>,
    /// What a replay of dead letters cannot do.
    pub replay_lacks: Option<String>,
}

/// What the pods connect with, and whether the User has more rights than it needs; or what to wait for
/// before any pod starts. Whoever refuses it stops no stream that runs.
///
/// # Errors
/// The API server does not answer; a field cannot work.
pub async fn given(
    scope: &Scope<'_>,
    cluster: &Cluster,
    rights: &Rights,
    decision: &Decision,
    applied: &mut Applied,
) -> Result<Result<(bool, Means), State>, Error> {
    let has_more = match make(scope, cluster, rights, decision, applied).await {
        Ok(has_more) => has_more,
        Err(error) if is_refusal(&error) => return Ok(Err(error.state())),
        Err(error) => return Err(error),
    };
    let means = means(scope, cluster, rights, decision).await?;
    Ok(means.map(|means| (has_more, means)))
}

/// Whether somebody refuses an object of the Pipeline, and does answer.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Kube(_)) && !attempts::is_silent(error)
}

/// What the pods connect with, or what to wait for before any pod starts.
async fn means(
    scope: &Scope<'_>,
    cluster: &Cluster,
    rights: &Rights,
    decision: &Decision,
) -> Result<Result<Means, State>, Error> {
    let Scope {
        object,
        context,
        cut,
        ..
    } = scope;
    if let Some(state) = observe::waiting_topics(context, object, &cut.internal) {
        return Ok(Err(state));
    }
    let (user, credential) = match observe::user(context, object).await? {
        Ok(found) => found,
        Err(state) => return Ok(Err(state)),
    };
    let lacking = match observe::lacking(object, cluster, &user, cut, rights) {
        Some(lacking) => Some(lacking),
        None => observe::waiting_secret(context, object).await?,
    };
    if let Some(state) = &lacking {
        let pods = pods::list(&context.client, object).await?;
        if pods.iter().all(|pod| pod.replays) {
            return Ok(Err(state.clone()));
        }
    }
    let Some(client) = tenants::client_settings(&user, &cluster.facts, USER_FOLDER) else {
        let why = "the cluster has no listener for the authentication of this User; add one";
        return Err(Error::Invalid(vec![Invalid::new("spec.userRef", why)]));
    };
    let replay_lacks = match decision {
        Decision::Run(known, _) => {
            let groups = [replay::replay_group(object, known)];
            let lacks = observe::lacks(cluster, &user, &decision.needs(rights), &groups);
            let is_own = object.spec.user_ref.is_none();
            let given = || "its User is being given the right to read the dead letters".to_owned();
            lacks.map(|lacks| if is_own { given() } else { lacks })
        }
        _ => None,
    };
    Ok(Ok(Means {
        credential,
        client,
        lacking,
        replay_lacks,
    }))
}

/// Makes the Topics of isolated blocks, and the User. Until the last pod of the revision before is
/// replaced, the User has that one's rights too: then it returns true.
async fn make(
    scope: &Scope<'_>,
    cluster: &Cluster,
    rights: &Rights,
    decision: &Decision,
    applied: &mut Applied,
) -> Result<bool, Error> {
    let Scope {
        object,
        context,
        names,
        cut,
        ..
    } = scope;
    for internal in &cut.internal {
        let partitions = observe::partitions(context, object, names, internal, cluster);
        let topic = tenants::topic(object, internal, partitions);
        apply::one(context, object, &topic, applied).await?;
    }
    if object.spec.user_ref.is_some() {
        return Ok(false);
    }
    let needed = decision.needs(rights);
    let user = tenants::user(object, &cluster.facts, &needed);
    let namespace = object.namespace().unwrap_or_default();
    let found = kubernetes::get(&context.client, &namespace, &user.resource, user.name()).await?;
    let mut granted = match &found {
        Some(live) => tenants::with_granted(&needed, live),
        None => needed.clone(),
    };
    if let Some(topic) = decision.needs_no_more(rights, cut) {
        granted.read.remove(&topic);
    }
    let user = tenants::user(object, &cluster.facts, &granted);
    apply::found_as(context, object, &user, found.as_ref(), applied).await?;
    Ok(granted != needed)
}

/// Takes the rights back that only the revision before has needed.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn take_back(
    scope: &Scope<'_>,
    cluster: &Cluster,
    rights: &Rights,
    decision: &Decision,
    applied: &mut Applied,
) -> Result<(), Error> {
    let user = tenants::user(scope.object, &cluster.facts, &decision.needs(rights));
    apply::one(scope.context, scope.object, &user, applied).await
}
