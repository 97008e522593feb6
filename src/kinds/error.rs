//! What can go wrong in a kind's reconcile.

use crate::certificates::CertificateError;
use crate::conditions::Reason;
use crate::kafka_admin::AdminError;
use crate::kube_io::KubeError;
use crate::runtime::kind::Failure;
use std::fmt;

/// What is wrong with a spec, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub field: String,
    pub why: String,
    pub reason: Reason,
}

impl Invalid {
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into(), reason: Reason::InvalidSpec }
    }

    pub fn because(self, reason: Reason) -> Self {
        Self { reason, ..self }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

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
    /// Nothing was done: the object is another by now ([`crate::runtime::context::Context::ensure_current`]).
    #[error("it was known from a list that is old")]
    Old,
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
            Self::Old => Reason::Applying,
            Self::Invalid(all) => {
                all.iter().map(|invalid| invalid.reason).find(|reason| *reason != Reason::InvalidSpec).unwrap_or(Reason::InvalidSpec)
            }
        }
    }
    fn is_transient(&self) -> bool {
        match self {
            Self::Kube(error) => error.is_transient(),
            Self::Admin(error) => error.is_transient(),
            Self::Old => true,
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
