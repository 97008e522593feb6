//! Reads what a User's reconcile needs to know. Reads only.

use super::api::User;
use super::reconcile::Error;
use super::validate::{principal, secret_name};
use crate::kafka::acl::AclBinding;
use crate::kinds::dependence::{self, Asked, Dependence};
use crate::kinds::kafka_cluster::observe::{SecretFacts, secret_facts};
use crate::kube_io::{self, resource};
use crate::runtime::clusters::ClusterFacts;
use crate::runtime::context::Context;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;

/// Everything that was seen, as plain data. No `Debug`: it holds credentials.
#[derive(Clone)]
pub struct Observed {
    pub now: Timestamp,
    pub cluster: Arc<ClusterFacts>,
    pub secret: Option<SecretFacts>,
    pub acls: Vec<AclBinding>,
    /// Kafka has a SCRAM-SHA-512 credential of the user.
    pub has_scram: bool,
    /// Another User, older, of the same cluster and name.
    pub older: Option<String>,
}

/// Reads; `Err(Dependence)` while the cluster cannot be asked.
pub async fn observe(context: &Context, object: &User) -> Result<Result<(Observed, Asked), Dependence>, Error> {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let key = object.spec.cluster_ref.key(&namespace);
    let asked = match dependence::cluster(context, &key, &namespace).await? {
        Ok(asked) => asked,
        Err(dependence) => return Ok(Err(dependence)),
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    let secret = kube_io::get(&context.client, &namespace, &resource::<Secret>(), &secret_name(object)).await?;
    let older = dependence::older(&context.users.all(), object, |other| {
        let other_key = other.spec.cluster_ref.key(other.metadata.namespace.as_deref().unwrap_or_default());
        other_key == key && other.metadata.name == object.metadata.name
    });
    let principal = principal(&name);
    let (acls, scram) = futures::try_join!(asked.admin.acls_of(&principal), asked.admin.scram_iterations(&name))?;
    let observed = Observed {
        now: Timestamp::now(),
        cluster: Arc::clone(&asked.facts),
        secret: secret.map(secret_facts),
        acls,
        has_scram: scram.is_some(),
        older,
    };
    Ok(Ok((observed, asked)))
}
