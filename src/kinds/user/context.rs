//! The state that all reconciles of Users share: the context of all kinds, and the cache of the
//! Users' Secrets.

use crate::kinds::context::Context as Shared;
use crate::kinds::user::secrets::UserSecrets;
use crate::runtime::services::Services;
use std::ops::Deref;
use std::sync::Arc;

/// The context of User reconciles. Dereferences to the context of all kinds.
pub struct Context {
    shared: Arc<Shared>,
    pub secrets: Arc<UserSecrets>,
}

impl Context {
    /// Creates the context of Users on top of the shared one.
    pub fn of(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            secrets: Arc::default(),
        }
    }
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl AsRef<Services> for Context {
    fn as_ref(&self) -> &Services {
        (*self.shared).as_ref()
    }
}

impl AsRef<Shared> for Context {
    fn as_ref(&self) -> &Shared {
        &self.shared
    }
}
