//! Executes a User's steps. It only writes.

use crate::api::user::{User, UserAuthenticationType};
use crate::certificates;
use crate::certificates::{CertificateError, Purpose};
use crate::clusters::ClusterFacts;
use crate::kinds::error::Error;
use crate::kinds::user::context::Context;
use crate::kinds::user::desired;
use crate::kinds::user::desired::{Credential, Pkcs12};
use crate::kinds::user::plan;
use crate::kinds::user::plan::{CERTIFICATE_DAYS, Step, Why, Written};
use crate::kinds::user::validate::ValidUser;
use crate::kinds::user::{passwords, pkcs12};
use crate::kubernetes;
use crate::kubernetes::KubeError;
use crate::tenancy::ownership::owner_of;
use freehold_kafka::metadata_record::Fingerprint;
use freehold_kafka::ownership::{Owned, Owner, mark};
use freehold_kafka::scram;
use freehold_kafka_client::batch::BatchedAdmin;
use freehold_kafka_client::{AdminError, QuotaChange, ScramChange};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{Timestamp, Unit};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

/// Bytes of a salt where the cluster has no key to derive one from.
const SALT_BYTES: usize = 32;

/// What all steps of a plan need for their execution.
pub struct Scope<'a> {
    pub context: &'a Context,
    pub admin: &'a BatchedAdmin,
    pub object: &'a User,
    pub user: &'a ValidUser,
    pub cluster: &'a ClusterFacts,
    /// The password from the user's own Secret, if the plan writes one.
    pub given: Option<String>,
}

/// The result of a step.
#[derive(Default)]
pub struct Done {
    /// The new object, after a step that changed it.
    pub object: Option<User>,
    /// The credential that Kafka holds now.
    pub scram: Option<Fingerprint>,
}

/// Executes one step.
pub async fn apply(scope: &Scope<'_>, step: &Step) -> Result<Done, Error> {
    let name = scope.user.name.clone();
    match step {
        Step::AddFinalizer => {
            return Ok(Done {
                object: kubernetes::set_finalizer(&scope.context.client, scope.object, true)
                    .await?,
                scram: None,
            });
        }
        Step::RecordOwner => {
            scope
                .admin
                .create_acls(vec![mark(Owned::Principal, &name, &owner_of(scope.object))])
                .await?
        }
        Step::RecordCertificate(until) => record_certificate(scope, *until).await?,
        Step::CreateAcls(acls) => scope.admin.create_acls(acls.clone()).await?,
        Step::DeleteAcls(acls) => scope.admin.delete_acls(acls.clone()).await?,
        Step::AlterQuotas(quotas) => {
            scope
                .admin
                .alter_quotas(QuotaChange {
                    user: name,
                    quotas: quotas.clone(),
                })
                .await?
        }
        Step::DeletePassword => {
            scope
                .admin
                .alter_scram(ScramChange::Delete { user: name })
                .await?
        }
        Step::DeleteSecret { name, uid, version } => {
            delete_secret(scope, name, uid, version).await?
        }
        Step::WriteCredential(written) => return write_credential(scope, written).await,
    }
    Ok(Done::default())
}

/// Writes a credential in Kafka and in the Secret.
///
/// A Secret never has another password in the place of one that is in force before Kafka takes it.
/// A new one is written before: an operator that dies between the two finds in it what Kafka is to
/// have.
async fn write_credential(scope: &Scope<'_>, written: &Written) -> Result<Done, Error> {
    let mut marks = plan::marks(written);
    let (mut done, mut change) = (Done::default(), None);
    let credential = match scope.user.authentication {
        UserAuthenticationType::ScramSha512 => {
            let derived = || derive(scope, "scram", written);
            let password = scope.given.clone().map_or_else(derived, Ok)?;
            let (salted, fingerprint) = salt(scope, password.clone(), written).await?;
            marks.credential = fingerprint.to_string();
            done.scram = Some(fingerprint);
            change = Some(salted);
            Credential::Password(password)
        }
        UserAuthenticationType::MutualTls => {
            let ca = &scope.cluster.clients_ca;
            // Rounded to whole hours, so that several certificates of one hour share one record.
            let until = Timestamp::now() + plan::days(i64::from(CERTIFICATE_DAYS) + 1);
            record_certificate(scope, until.round(Unit::Hour).unwrap_or(until)).await?;
            let issued = certificates::issue(
                ca,
                None,
                &scope.user.name,
                &Purpose::Client,
                Timestamp::now(),
                CERTIFICATE_DAYS,
            )?;
            marks.not_after = Some(certificates::facts(&issued.certificate)?.not_after);
            Credential::Certificate(issued)
        }
        UserAuthenticationType::ExternalTls => Credential::External,
    };
    let stores = stores(scope, &credential, written)?;
    let secret = desired::secret(
        scope.object,
        scope.user,
        scope.cluster,
        &credential,
        stores.as_ref(),
        marks,
    );
    let replaces = written.replaces.clone();
    match change {
        Some(change) if written.why == Why::New => {
            write_secret(scope, secret, replaces).await?;
            scope.admin.alter_scram(change).await?;
        }
        Some(change) => {
            scope.admin.alter_scram(change).await?;
            write_secret(scope, secret, replaces).await?;
        }
        None => write_secret(scope, secret, replaces).await?,
    }
    Ok(done)
}

/// A text for one usage that is derived from the cluster's password key.
fn derive(scope: &Scope<'_>, usage: &str, written: &Written) -> Result<String, CertificateError> {
    let uid = scope.object.metadata.uid.as_deref().unwrap_or_default();
    match scope.cluster.password_key.key.as_str() {
        "" => Err(CertificateError::Lost),
        key => Ok(passwords::derive(key, usage, uid, written.since)),
    }
}

/// The PKCS#12 stores, where the spec asks for them.
fn stores(
    scope: &Scope<'_>,
    credential: &Credential,
    written: &Written,
) -> Result<Option<Pkcs12>, Error> {
    if !scope.object.spec.secret.pkcs12 {
        return Ok(None);
    }
    let password = derive(scope, "pkcs12", written)?;
    let truststore = pkcs12::truststore(&scope.cluster.trust_bundle, &password)?;
    let keystore = match credential {
        Credential::Certificate(issued) => {
            let ca = &scope.cluster.clients_ca.certificate;
            Some(pkcs12::keystore(issued, ca, &password)?)
        }
        Credential::Password(_) | Credential::External => None,
    };
    Ok(Some(Pkcs12 {
        truststore,
        keystore,
        password,
    }))
}

/// Records the end of a certificate in Kafka: until then no User of another namespace may have the
/// name.
async fn record_certificate(scope: &Scope<'_>, until: Timestamp) -> Result<(), Error> {
    let holder = Owner {
        uid: until.as_second().to_string(),
        ..owner_of(scope.object)
    };
    Ok(scope
        .admin
        .create_acls(vec![mark(Owned::Certificate, &scope.user.name, &holder)])
        .await?)
}

/// Creates the Secret, or replaces the version that was observed.
async fn write_secret(
    scope: &Scope<'_>,
    mut secret: Secret,
    replaces: Option<String>,
) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(
        scope.context.client.clone(),
        scope
            .object
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default(),
    );
    let name = scope.user.secret.clone();
    let result = match replaces {
        Some(version) => {
            secret.metadata.resource_version = Some(version);
            api.replace(&name, &PostParams::default(), &secret).await
        }
        None => match api.create(&PostParams::default(), &secret).await {
            // A Secret without our label belongs to somebody else. One with the label is ours, and
            // the watch has not delivered it yet.
            Err(kube::Error::Api(status))
                if status.code == 409 && !is_users(&api, &name).await? =>
            {
                return Err(KubeError::NotOurs {
                    kind: "Secret".into(),
                    name,
                }
                .into());
            }
            other => other,
        },
    };
    let written = result.map_err(KubeError::request("write", "Secret", &name))?;
    scope.context.secrets.put_written(&written);
    Ok(())
}

/// Deletes exactly the Secret that was observed.
async fn delete_secret(
    scope: &Scope<'_>,
    name: &str,
    uid: &str,
    version: &str,
) -> Result<(), Error> {
    let namespace = scope
        .object
        .metadata
        .namespace
        .as_deref()
        .unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(scope.context.client.clone(), namespace);
    let preconditions = Preconditions {
        uid: Some(uid.to_owned()),
        resource_version: Some(version.to_owned()),
    };
    match api
        .delete(
            name,
            &DeleteParams {
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            },
        )
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other.map_err(KubeError::request("delete", "Secret", name))?),
    }
    scope.context.secrets.remove(namespace, name);
    Ok(())
}

async fn is_users(api: &Api<Secret>, name: &str) -> Result<bool, KubeError> {
    let found = api
        .get_metadata_opt(name)
        .await
        .map_err(KubeError::request("get", "Secret", name))?;
    Ok(found.is_none_or(|found| {
        found
            .metadata
            .labels
            .unwrap_or_default()
            .contains_key(crate::kubernetes::labels::USER)
    }))
}

/// The salted password, which is all that Kafka gets (KIP-554), and how it is known again. The salt
/// is derived like the password: the same password is salted in the same way. Salting takes
/// milliseconds, so it runs outside the async threads.
async fn salt(
    scope: &Scope<'_>,
    password: String,
    written: &Written,
) -> Result<(ScramChange, Fingerprint), Error> {
    let drawn = |_| rand::random::<[u8; SALT_BYTES]>().to_vec();
    let salt = derive(scope, "salt", written).map_or_else(drawn, String::into_bytes);
    let used = salt.clone();
    let salted = tokio::task::spawn_blocking(move || {
        scram::salted_password(&password, &used, scram::ITERATIONS)
    })
    .await
    .map_err(|error| AdminError::Protocol(error.to_string()))?;
    let change = ScramChange::Upsert {
        user: scope.user.name.clone(),
        iterations: scram::ITERATIONS,
        salt,
        salted_password: salted.to_vec(),
    };
    Ok((change, Fingerprint::of(&scram::stored_key(&salted))))
}
