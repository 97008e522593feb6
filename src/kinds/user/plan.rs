//! Valid user and observed world -> the steps between them. Pure.

use super::api::{User, UserAuthenticationType};
use super::desired::{self, CERTIFICATE, Credential, KEY, PASSWORD};
use super::observe::Observed;
use super::validate::ValidUser;
use crate::certificates;
use crate::kafka::acl::{self, AclBinding};
use crate::kube_io::difference::differs;
use crate::kube_io::{self, Object};
use k8s_openapi::jiff::SignedDuration;
use std::fmt;

/// Days that a client's certificate is valid, and before its end that it is issued anew.
pub const CERTIFICATE_DAYS: u32 = 365;
const RENEW_BEFORE_DAYS: i64 = 60;

/// One write, or two that belong together. Its `Display` tells nothing secret.
pub enum Step {
    AddFinalizer,
    /// Draws a password, sets it in Kafka, then writes the Secret: a Secret that is there is in force.
    CreatePassword,
    /// Kafka lost the credential: sets it again from the Secret.
    SetPassword(String),
    DeletePassword,
    IssueCertificate,
    WriteSecret(Box<Object>),
    CreateAcls(Vec<AclBinding>),
    DeleteAcls(Vec<AclBinding>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => write!(f, "add the finalizer"),
            Self::CreatePassword => write!(f, "create a password"),
            Self::SetPassword(_) => write!(f, "set the password again"),
            Self::DeletePassword => write!(f, "delete the SCRAM credential"),
            Self::IssueCertificate => write!(f, "issue a certificate"),
            Self::WriteSecret(object) => write!(f, "write Secret {}", object.name()),
            Self::CreateAcls(acls) => write!(f, "create {} ACLs", acls.len()),
            Self::DeleteAcls(acls) => write!(f, "delete {} ACLs", acls.len()),
        }
    }
}

/// The credential that is in force, where the Secret has it.
fn credential(user: &ValidUser, observed: &Observed) -> Option<Credential> {
    let secret = observed.secret.as_ref()?;
    match user.authentication {
        UserAuthenticationType::ScramSha512 => secret.data.get(PASSWORD).cloned().map(Credential::Password),
        UserAuthenticationType::MutualTls => {
            let issued = secret.keyed(CERTIFICATE, KEY)?;
            let facts = certificates::facts(&issued.certificate).ok()?;
            let current = facts.not_after > observed.now + SignedDuration::from_hours(24 * RENEW_BEFORE_DAYS);
            let signed = certificates::signed_by(&issued.certificate, &observed.cluster.clients_ca.certificate);
            (current && signed).then_some(Credential::Certificate(issued))
        }
    }
}

/// Plans the next steps.
pub fn plan(object: &User, user: &ValidUser, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    if !kube_io::has_finalizer(object) {
        steps.push(Step::AddFinalizer);
    }
    // Rights are taken before they are given.
    let changes = acl::changes(&desired::acls(object, &user.name), &observed.acls);
    if !changes.delete.is_empty() {
        steps.push(Step::DeleteAcls(changes.delete));
    }
    if !changes.create.is_empty() {
        steps.push(Step::CreateAcls(changes.create));
    }
    let scram = user.authentication == UserAuthenticationType::ScramSha512;
    if observed.has_scram && !scram {
        steps.push(Step::DeletePassword);
    }
    match credential(user, observed) {
        None if scram => steps.push(Step::CreatePassword),
        None => steps.push(Step::IssueCertificate),
        Some(credential) => {
            if let (Credential::Password(password), false) = (&credential, observed.has_scram) {
                steps.push(Step::SetPassword(password.clone()));
            }
            let secret = desired::secret(object, user, &observed.cluster, &credential);
            if observed.secret.as_ref().is_none_or(|found| differs(&secret, &found.live)) {
                steps.push(Step::WriteSecret(Box::new(secret)));
            }
        }
    }
    steps
}
