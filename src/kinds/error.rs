//! Errors of a kind's reconcile.

use crate::api::conditions::Reason;
pub use crate::api::invalid::Invalid;
use crate::certificates::CertificateError;
use crate::kubernetes::KubeError;
use crate::runtime::kind::Failure;
use crate::words;
use freehold_kafka_client::AdminError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kube(#[from] KubeError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("{}", words::listed(.0.iter().map(ToString::to_string)))]
    Invalid(Vec<Invalid>),
    /// Nothing was done: the API server has a newer version of the object
    /// ([`crate::kinds::context::Context::ensure_current`]).
    #[error("it was known from a list that is old")]
    Old,
    /// Nothing was done: objects that it depends on have not been listed since the start.
    #[error("what it depends on has not been listed yet")]
    Unlisted,
}

impl Failure for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Kube(KubeError::NotOurs { .. }) => Reason::NotOurs,
            Self::Kube(KubeError::Unreadable { .. }) => Reason::Unreadable,
            Self::Kube(error) if error.is_transient() => Reason::KubernetesUnavailable,
            Self::Kube(_) => Reason::KubernetesRefused,
            Self::Admin(AdminError::Unavailable(_) | AdminError::Deadline(_)) => {
                Reason::KafkaUnavailable
            }
            Self::Admin(_) => Reason::KafkaRefused,
            Self::Certificate(CertificateError::Lost) => Reason::WaitingForCluster,
            Self::Certificate(_) => Reason::InternalError,
            Self::Old | Self::Unlisted => Reason::Applying,
            Self::Invalid(all) => all
                .iter()
                .map(|invalid| invalid.reason)
                .find(|reason| *reason != Reason::InvalidSpec)
                .unwrap_or(Reason::InvalidSpec),
        }
    }
    fn is_transient(&self) -> bool {
        match self {
            Self::Kube(error) => error.is_transient(),
            Self::Admin(error) => error.is_transient(),
            Self::Old | Self::Unlisted | Self::Certificate(CertificateError::Lost) => true,
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
