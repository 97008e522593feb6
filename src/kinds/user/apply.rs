//! Does a User's steps. Writes only.

use super::api::{User, UserAuthenticationType};
use super::desired::{self, Credential, Pkcs12};
use super::plan::{self, CERTIFICATE_DAYS, Step, Written};
use super::validate::ValidUser;
use super::{passwords, pkcs12};
use crate::certificates::{self, Purpose};
use crate::kafka::metadata_record::Fingerprint;
use crate::kafka::scram;
use crate::kafka_admin::batch::BatchedAdmin;
use crate::kafka_admin::{AdminError, QuotaChange, ScramChange};
use crate::kinds::error::Error;
use crate::kube_io::{self, KubeError};
use crate::runtime::clusters::ClusterFacts;
use crate::runtime::context::Context;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

const SALT_BYTES: usize = 32;

/// What steps are done for and with.
pub struct Scope<'a> {
    pub context: &'a Context,
    pub admin: &'a BatchedAdmin,
    pub object: &'a User,
    pub user: &'a ValidUser,
    pub cluster: &'a ClusterFacts,
    /// The password that somebody gave, where the plan writes one.
    pub given: Option<String>,
}

/// What a step did.
#[derive(Default)]
pub struct Done {
    /// The object, after a step that changed it.
    pub object: Option<User>,
    /// The credential that Kafka holds now.
    pub scram: Option<Fingerprint>,
}

pub async fn apply(scope: &Scope<'_>, step: &Step) -> Result<Done, Error> {
    let name = scope.user.name.clone();
    match step {
        Step::AddFinalizer => {
            return Ok(Done { object: kube_io::set_finalizer(&scope.context.client, scope.object, true).await?, scram: None });
        }
        Step::CreateAcls(acls) => scope.admin.create_acls(acls.clone()).await?,
        Step::DeleteAcls(acls) => scope.admin.delete_acls(acls.clone()).await?,
        Step::AlterQuotas(quotas) => scope.admin.alter_quotas(QuotaChange { user: name, quotas: quotas.clone() }).await?,
        Step::DeletePassword => scope.admin.alter_scram(ScramChange::Delete { user: name }).await?,
        Step::DeleteSecret { name, uid, version } => delete_secret(scope, name, uid, version).await?,
        Step::WriteCredential(written) => return write_credential(scope, written).await,
    }
    Ok(Done::default())
}

async fn write_credential(scope: &Scope<'_>, written: &Written) -> Result<Done, Error> {
    let uid = scope.object.metadata.uid.as_deref().unwrap_or_default();
    let derive = |usage: &str| passwords::derive(&scope.cluster.password_key, usage, uid, written.since);
    let mut marks = plan::marks(written);
    let mut done = Done::default();
    let credential = match scope.user.authentication {
        UserAuthenticationType::ScramSha512 => {
            let password = scope.given.clone().unwrap_or_else(|| derive("scram"));
            let fingerprint = set_password(scope, password.clone()).await?;
            marks.credential = fingerprint.to_string();
            done.scram = Some(fingerprint);
            Credential::Password(password)
        }
        UserAuthenticationType::MutualTls => {
            let ca = &scope.cluster.clients_ca;
            let issued = certificates::issue(ca, None, &scope.user.name, &Purpose::Client, Timestamp::now(), CERTIFICATE_DAYS)?;
            marks.not_after = Some(certificates::facts(&issued.certificate)?.not_after);
            Credential::Certificate(issued)
        }
        UserAuthenticationType::ExternalTls => Credential::External,
    };
    let stores = if scope.object.spec.secret.pkcs12 {
        let password = derive("pkcs12");
        let keyed = if let Credential::Certificate(issued) = &credential { Some(issued) } else { None };
        let truststore = pkcs12::truststore(&scope.cluster.trust_bundle, &password)?;
        let keystore = keyed.map(|issued| pkcs12::keystore(issued, &scope.cluster.clients_ca.certificate, &password)).transpose()?;
        Some(Pkcs12 { truststore, keystore, password })
    } else {
        None
    };
    let secret = desired::secret(scope.object, scope.user, scope.cluster, &credential, stores.as_ref(), marks);
    write_secret(scope, secret, written.replaces.clone()).await?;
    Ok(done)
}

/// Creates the Secret, or replaces the version that was seen.
async fn write_secret(scope: &Scope<'_>, mut secret: Secret, replaces: Option<String>) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(scope.context.client.clone(), scope.object.metadata.namespace.as_deref().unwrap_or_default());
    let name = scope.user.secret.clone();
    let result = match replaces {
        Some(version) => {
            secret.metadata.resource_version = Some(version);
            api.replace(&name, &PostParams::default(), &secret).await
        }
        None => match api.create(&PostParams::default(), &secret).await {
            // One without our label is somebody else's; one with it the watch has yet to tell of.
            Err(kube::Error::Api(status)) if status.code == 409 && !is_users(&api, &name).await? => {
                return Err(KubeError::NotOurs { kind: "Secret".into(), name }.into());
            }
            other => other,
        },
    };
    let written = result.map_err(KubeError::request("write", "Secret", &name))?;
    scope.context.user_secrets.put(&written);
    Ok(())
}

/// Deletes exactly the Secret that was seen.
async fn delete_secret(scope: &Scope<'_>, name: &str, uid: &str, version: &str) -> Result<(), Error> {
    let namespace = scope.object.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(scope.context.client.clone(), namespace);
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: Some(version.to_owned()) };
    match api.delete(name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other.map_err(KubeError::request("delete", "Secret", name))?),
    }
    scope.context.user_secrets.remove(namespace, name);
    Ok(())
}

async fn is_users(api: &Api<Secret>, name: &str) -> Result<bool, KubeError> {
    let found = api.get_metadata_opt(name).await.map_err(KubeError::request("get", "Secret", name))?;
    Ok(found.is_none_or(|found| found.metadata.labels.unwrap_or_default().contains_key(crate::labels::USER)))
}

/// Kafka is sent the salted password, never the password (KIP-554). Salting takes milliseconds: off the async threads.
async fn set_password(scope: &Scope<'_>, password: String) -> Result<Fingerprint, Error> {
    let salt: [u8; SALT_BYTES] = rand::random();
    let salted = tokio::task::spawn_blocking(move || scram::salted_password(&password, &salt, scram::ITERATIONS))
        .await
        .map_err(|error| AdminError::Protocol(error.to_string()))?;
    let change = ScramChange::Upsert {
        user: scope.user.name.clone(),
        iterations: scram::ITERATIONS,
        salt: salt.to_vec(),
        salted_password: salted.to_vec(),
    };
    scope.admin.alter_scram(change).await?;
    Ok(Fingerprint::of(&scram::stored_key(&salted)))
}
