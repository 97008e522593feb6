//! The User kind: a principal with its credential, its ACLs and quotas, and the Secret that clients
//! mount.

pub mod apply;
pub mod context;
pub mod deletion;
pub mod desired;
pub mod observe;
pub mod passwords;
pub mod pkcs12;
pub mod plan;
pub mod reconcile;
pub mod registration;
pub mod secrets;
pub mod status;
pub mod validate;

pub use reconcile::UserKind;
