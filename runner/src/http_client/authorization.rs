//! The header that says who the client is.

use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use freehold_pipeline::endpoint::HttpAuthentication;
use hyper::header::HeaderValue;

use super::secrets::{Kept, Secrets};

/// Makes `Authorization` from Secrets.
pub struct Authorization {
    given: Option<HttpAuthentication>,
    secrets: Secrets,
    kept: Mutex<Kept<Option<HeaderValue>>>,
}

impl Authorization {
    /// From what a block says.
    pub fn new(given: Option<HttpAuthentication>, secrets: &Secrets) -> Self {
        Self {
            given,
            secrets: secrets.clone(),
            kept: Mutex::default(),
        }
    }

    /// The value; `None`: the block names no Secret.
    ///
    /// # Errors
    /// Which Secret cannot be used; never what is in it.
    pub fn header(&self) -> Result<Option<HeaderValue>, String> {
        let Some(HttpAuthentication { token, basic }) = &self.given else {
            return Ok(None);
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(|_| {
            let text = match (token, basic) {
                (Some(token), _) => {
                    format!("Bearer {}", self.secrets.text(&token.name, &token.key)?)
                }
                (None, Some(basic)) => {
                    let user = self.secrets.text(&basic.name, "username")?;
                    let password = self.secrets.text(&basic.name, "password")?;
                    format!(
                        "Basic {}",
                        BASE64_STANDARD.encode(format!("{user}:{password}"))
                    )
                }
                (None, None) => return Ok(None),
            };
            let value = HeaderValue::from_str(&text);
            let mut value = value.map_err(|_| "the token has letters that no header can have")?;
            value.set_sensitive(true);
            Ok(Some(value))
        })
    }

    /// It was refused: it is read again at its next use.
    pub fn forget(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.forget();
    }
}
