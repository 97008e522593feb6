//! Spec and observed world -> a valid user, or everything that is wrong. Pure.

use super::api::{AclResourceType, User, UserAuthenticationType};
use super::observe::Observed;
use crate::kinds::kafka_cluster::api::Authentication;
use crate::kinds::kafka_cluster::validate::Invalid;
use crate::names;
use crate::runtime::clusters::ClientListener;

/// A user that can be made.
#[derive(Clone, Debug)]
pub struct ValidUser {
    pub name: String,
    pub authentication: UserAuthenticationType,
    pub secret: String,
    pub listener: ClientListener,
}

/// The principal as Kafka writes it.
pub fn principal(name: &str) -> String {
    format!("User:{name}")
}

/// The Secret of the user's credentials.
pub fn secret_name(object: &User) -> String {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    object.spec.secret.name.clone().unwrap_or_else(|| names::user_secret(name))
}

/// Checks everything.
///
/// # Errors
/// All that is wrong, not only the first.
pub fn validate(object: &User, observed: &Observed) -> Result<ValidUser, Vec<Invalid>> {
    let mut invalids = Vec::new();
    let mut invalid = |field: String, why: String| invalids.push(Invalid { field, why });
    let wanted = match object.spec.authentication.kind {
        UserAuthenticationType::ScramSha512 => Authentication::ScramSha512,
        UserAuthenticationType::MutualTls => Authentication::MutualTls,
    };
    let listener = observed.cluster.listeners.iter().find(|listener| listener.authentication == wanted).cloned();
    if listener.is_none() {
        invalid(
            "spec.authentication.type".into(),
            format!("the cluster has no listener with authentication {wanted:?}; add one or choose the other type"),
        );
    }
    for (index, rule) in object.spec.acls.iter().enumerate() {
        let field = format!("spec.acls[{index}].resource.name");
        match (rule.resource.kind, &rule.resource.name) {
            (AclResourceType::Cluster, Some(_)) => invalid(field, "there is one Cluster, and it has no name; leave it out".into()),
            (AclResourceType::Cluster, None) | (_, Some(_)) => {}
            (_, None) => invalid(field, "missing; give a name, a prefix with pattern Prefixed, or *".into()),
        }
    }
    if let Some(older) = &observed.older {
        invalid(
            "metadata.name".into(),
            format!("User {older} is older and has this name in the cluster; take another name or delete one of the two"),
        );
    }
    match listener.filter(|_| invalids.is_empty()) {
        Some(listener) => Ok(ValidUser {
            name: object.metadata.name.clone().unwrap_or_default(),
            authentication: object.spec.authentication.kind,
            secret: secret_name(object),
            listener,
        }),
        None => Err(invalids),
    }
}
