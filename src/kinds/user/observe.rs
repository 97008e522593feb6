//! Reads what a User's reconcile needs to know. Reads only, and nearly all of it from memory.

use super::api::{AuthorizationMode, User};
use super::secrets::{SecretFacts, texts};
use super::validate::{principal, principal_name, secret_name};
use crate::kafka::grants;
use crate::kafka::metadata_image::PrincipalImage;
use crate::kinds::dependence::{self, Dependence};
use crate::kinds::error::Error;
use crate::kube_io::KubeError;
use crate::runtime::claims::Claim;
use crate::runtime::clusters::{Cluster, ClusterFacts};
use crate::runtime::context::Context;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use std::sync::Arc;

/// Everything that was seen, as plain data.
#[derive(Clone)]
pub struct Observed {
    pub now: Timestamp,
    pub cluster: Arc<ClusterFacts>,
    /// The object is in the cluster's own namespace.
    pub at_home: bool,
    pub secret: Option<SecretFacts>,
    /// The User's Secret of an earlier name.
    pub former_secret: Option<(String, SecretFacts)>,
    /// The Secret that `passwordSecretRef` names, where it may be read.
    pub given: Option<SecretFacts>,
    /// What Kafka holds of the principal.
    pub principal: PrincipalImage,
    /// Another User, older, of the same cluster and principal.
    pub older: Option<String>,
}

/// What an object claims.
pub fn claim(object: &User) -> Claim {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    Claim { cluster: object.spec.cluster_ref.key(namespace), name: principal_name(object).to_owned() }
}

/// Reads; `Err(Dependence)` while the cluster cannot be asked.
pub async fn observe(context: &Context, object: &User) -> Result<Result<(Observed, Cluster), Dependence>, Error> {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let claim = claim(object);
    let cluster = match dependence::cluster(context, &claim.cluster, &namespace).await? {
        Ok(cluster) => cluster,
        Err(dependence) => return Ok(Err(dependence)),
    };
    if !context.user_secrets.knows(&namespace) {
        return Ok(Err(Dependence::NotReady(claim.cluster)));
    }
    let name = object.metadata.name.clone().unwrap_or_default();
    let former = object.status.as_ref().and_then(|status| status.secret.clone()).filter(|former| *former != secret_name(object));
    let given = object.spec.authentication.password_secret_ref.as_ref();
    let observed = Observed {
        now: Timestamp::now(),
        cluster: Arc::clone(&cluster.facts),
        at_home: claim.cluster.namespace == namespace,
        secret: context.user_secrets.get(&namespace, &secret_name(object)),
        former_secret: former.and_then(|former| {
            let facts = context.user_secrets.get(&namespace, &former).filter(|facts| facts.managed && facts.user == name)?;
            Some((former, facts))
        }),
        given: given.and_then(|given| context.user_secrets.get(&namespace, &given.name)),
        principal: cluster.mirror.read().principal(&claim.name).cloned().unwrap_or_default(),
        older: context.users.held_by_other(&claim, object),
    };
    Ok(Ok((observed, cluster)))
}

/// Refusals that are listed: a status is read by people.
const REFUSALS_MAX: usize = 50;

/// What the brokers let through because of shadow mode, in words; nothing of a user that is not in it.
pub async fn would_be_refused(object: &User, cluster: &Cluster, name: &str) -> Result<Vec<String>, Error> {
    if object.spec.authorization.mode == AuthorizationMode::Enforce {
        return Ok(Vec::new());
    }
    let refusals = cluster.admin.direct().would_be_refused(&principal(name)).await?;
    Ok(grants::refusals(&refusals).into_iter().take(REFUSALS_MAX).collect())
}

/// The password that a Secret gives; only asked for when it is set in Kafka.
pub async fn given_password(context: &Context, object: &User) -> Result<Option<String>, Error> {
    let Some(given) = &object.spec.authentication.password_secret_ref else { return Ok(None) };
    let api: Api<Secret> = Api::namespaced(context.client.clone(), object.metadata.namespace.as_deref().unwrap_or_default());
    let secret = api.get_opt(&given.name).await.map_err(KubeError::request("get", "Secret", &given.name))?;
    Ok(secret.and_then(|secret| texts(&secret).remove(&given.key)))
}
