//! Reads what a User's reconcile needs, nearly all of it from memory. It never writes.

use crate::api::user::principal;
use crate::api::user::{AuthorizationMode, User};
use crate::clusters::{Cluster, ClusterFacts};
use crate::kinds::dependent::lookup;
use crate::kinds::dependent::lookup::Dependence;
use crate::kinds::dependent::standings;
use crate::kinds::error::Error;
use crate::kinds::user::context::Context;
use crate::kinds::user::secrets::{SecretFacts, texts};
use crate::kubernetes::KubeError;
use crate::tenancy::claims::Claim;
use crate::tenancy::ownership;
use crate::tenancy::ownership::{Ownership, last_certificate};
use crate::tenancy::rights::Standings;
use crate::tenancy::tenants::Tenant;
use freehold_kafka::grants;
use freehold_kafka::metadata_image::PrincipalImage;
use freehold_kafka::ownership::{Owned, Owner};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use std::sync::Arc;

/// The observed state of a User, as plain data.
#[derive(Clone)]
pub struct Observed {
    pub now: Timestamp,
    pub cluster: Arc<ClusterFacts>,
    /// True if the object is in the cluster's own namespace.
    pub at_home: bool,
    pub secret: Option<SecretFacts>,
    /// The User's Secret under a former name.
    pub former_secret: Option<(String, SecretFacts)>,
    /// The Secret that `passwordSecretRef` names, if it may be read.
    pub given: Option<SecretFacts>,
    /// What Kafka has for the principal.
    pub principal: PrincipalImage,
    /// The end of the last certificate in its name that was issued to a User of this namespace.
    pub certified_until: Option<Timestamp>,
    /// Who owns the topics that it names.
    pub standings: Standings,
    /// Who owns the principal.
    pub ownership: Ownership,
}

/// Reads the observed state; `Err(Dependence)` while the cluster cannot be used.
pub async fn observe(
    context: &Context,
    object: &User,
) -> Result<Result<(Observed, Cluster), Dependence>, Error> {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let claim = object.claim();
    let cluster = match lookup::cluster(context, &claim.cluster, &namespace).await? {
        Ok(cluster) => cluster,
        Err(dependence) => return Ok(Err(dependence)),
    };
    // The Secret of a User that is being deleted is garbage-collected through its owner reference,
    // so the cache is not needed.
    if object.metadata.deletion_timestamp.is_none() && !context.secrets.knows(&namespace) {
        return Ok(Err(Dependence::NotReady(claim.cluster)));
    }
    let ownership = ownership::of(
        context,
        &context.users,
        &cluster,
        Owned::Principal,
        &claim,
        object,
        cluster.facts.access.principal_names.as_ref(),
    )
    .await?;
    let Some(standings) = standings(context, &cluster, &claim, object).await? else {
        return Ok(Err(Dependence::NotReady(claim.cluster)));
    };
    let certificate = last_certificate(&cluster.mirror.read(), &claim.name, |owner| {
        owner.namespace == namespace
    });
    let name = object.metadata.name.clone().unwrap_or_default();
    let former = object
        .status
        .as_ref()
        .and_then(|status| status.secret.clone())
        .filter(|former| *former != object.secret_name());
    let given = object.spec.authentication.password_secret_ref.as_ref();
    let observed = Observed {
        now: Timestamp::now(),
        cluster: Arc::clone(&cluster.facts),
        at_home: claim.cluster.namespace == namespace,
        secret: context.secrets.get(&namespace, &object.secret_name()),
        former_secret: former.and_then(|former| {
            let facts = context
                .secrets
                .get(&namespace, &former)
                .filter(|facts| facts.managed && facts.user == name)?;
            Some((former, facts))
        }),
        given: given.and_then(|given| context.secrets.get(&namespace, &given.name)),
        principal: cluster
            .mirror
            .read()
            .principal(&claim.name)
            .cloned()
            .unwrap_or_default(),
        certified_until: certificate.map(|(until, _)| until),
        standings,
        ownership,
    };
    Ok(Ok((observed, cluster)))
}

/// The standings of the topics that a User names; `None` while a Topic that shares one of them may
/// not be in the cache yet. A Topic in a namespace that the cluster does not allow shares nothing.
///
/// # Errors
/// Fails if a namespace's labels cannot be read.
pub async fn standings(
    context: &Context,
    cluster: &Cluster,
    claim: &Claim,
    object: &User,
) -> Result<Option<Standings>, Error> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let is_there = |owner: &Owner| context.topics.is_there(context, &claim.cluster, owner);
    let mut all =
        context
            .sharing
            .standings(object, &claim.cluster, &cluster.mirror.read(), is_there);
    let key = &claim.cluster;
    let unknown = standings::complete(context, cluster, key, namespace, &mut all).await?;
    let may_be_listed_yet = |topic: &String| {
        let owner = all[topic].owner.as_ref();
        owner.is_some_and(|(_, of)| context.watches(of)) && !context.topics.are_ready()
    };
    if unknown.iter().any(may_be_listed_yet) {
        return Ok(None);
    }
    Ok(Some(all))
}

/// The maximum number of refusals in the status, because people read it.
const REFUSALS_MAX: usize = 50;

/// The requests that the brokers allowed only because of shadow mode, in words; empty for a user
/// that is not in shadow mode.
pub async fn would_be_refused(
    object: &User,
    cluster: &Cluster,
    name: &str,
) -> Result<Vec<String>, Error> {
    if object.spec.authorization.mode == AuthorizationMode::Enforce {
        return Ok(Vec::new());
    }
    let refusals = cluster
        .admin
        .direct()
        .would_be_refused(&principal(name))
        .await?;
    Ok(grants::refusals(&refusals)
        .into_iter()
        .take(REFUSALS_MAX)
        .collect())
}

/// The password from the user's own Secret. It is read only when it is about to be set in Kafka.
pub async fn given_password(context: &Context, object: &User) -> Result<Option<String>, Error> {
    let Some(given) = &object.spec.authentication.password_secret_ref else {
        return Ok(None);
    };
    let api: Api<Secret> = Api::namespaced(
        context.client.clone(),
        object.metadata.namespace.as_deref().unwrap_or_default(),
    );
    let secret =
        api.get_opt(&given.name)
            .await
            .map_err(KubeError::request("get", "Secret", &given.name))?;
    Ok(secret.and_then(|secret| texts(&secret).remove(&given.key)))
}
