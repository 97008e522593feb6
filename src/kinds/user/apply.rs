//! Does a User's steps. Writes only.

use super::api::User;
use super::desired::{self, Credential};
use super::plan::{CERTIFICATE_DAYS, Step};
use super::reconcile::Error;
use super::validate::ValidUser;
use crate::certificates::{self, Purpose};
use crate::kafka::scram;
use crate::kafka_admin::{Admin, AdminError, ScramUpsertion};
use crate::runtime::clusters::ClusterFacts;
use crate::{kube_io, labels};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use rand::distr::{Alphanumeric, SampleString};

/// 190 bits.
const PASSWORD_CHARS: usize = 32;
const SALT_BYTES: usize = 32;

/// What steps are done for and with.
pub struct Scope<'a> {
    pub client: &'a Client,
    pub admin: &'a dyn Admin,
    pub object: &'a User,
    pub user: &'a ValidUser,
    pub cluster: &'a ClusterFacts,
}

pub async fn apply(scope: &Scope<'_>, step: &Step) -> Result<(), Error> {
    match step {
        Step::AddFinalizer => kube_io::set_finalizer(scope.client, scope.object, true).await?,
        Step::CreatePassword => {
            let password = Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_CHARS);
            set_password(scope, password.clone()).await?;
            write_secret(scope, &Credential::Password(password)).await?;
        }
        Step::SetPassword(password) => set_password(scope, password.clone()).await?,
        Step::DeletePassword => scope.admin.delete_scram(&scope.user.name).await?,
        Step::IssueCertificate => {
            let ca = &scope.cluster.clients_ca;
            let issued = certificates::issue(ca, None, &scope.user.name, &Purpose::Client, Timestamp::now(), CERTIFICATE_DAYS)?;
            write_secret(scope, &Credential::Certificate(issued)).await?;
        }
        Step::WriteSecret(object) => put(scope, object).await?,
        Step::CreateAcls(acls) => scope.admin.create_acls(acls).await?,
        Step::DeleteAcls(acls) => scope.admin.delete_acls(acls).await?,
    }
    Ok(())
}

async fn put(scope: &Scope<'_>, object: &kube_io::Object) -> Result<(), Error> {
    let namespace = scope.object.metadata.namespace.clone().unwrap_or_default();
    Ok(kube_io::apply(scope.client, &namespace, object, labels::USER).await?)
}

async fn write_secret(scope: &Scope<'_>, credential: &Credential) -> Result<(), Error> {
    put(scope, &desired::secret(scope.object, scope.user, scope.cluster, credential)).await
}

/// Kafka is sent the salted password, never the password (KIP-554). Salting takes milliseconds: off the async threads.
async fn set_password(scope: &Scope<'_>, password: String) -> Result<(), Error> {
    let salt: [u8; SALT_BYTES] = rand::random();
    let salted = tokio::task::spawn_blocking(move || scram::salted_password(&password, &salt, scram::ITERATIONS))
        .await
        .map_err(|error| AdminError::Protocol(error.to_string()))?;
    let upsertion = ScramUpsertion {
        user: scope.user.name.clone(),
        iterations: i32::try_from(scram::ITERATIONS).unwrap_or(i32::MAX),
        salt: salt.to_vec(),
        salted_password: salted.to_vec(),
    };
    Ok(scope.admin.upsert_scram(&upsertion).await?)
}
