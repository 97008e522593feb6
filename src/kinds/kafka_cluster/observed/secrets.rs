//! The Secrets of a cluster, decoded to text.

use crate::certificates::KeyedCertificate;
use crate::kubernetes::Live;
use base64::prelude::{BASE64_STANDARD, Engine};
use std::collections::BTreeMap;

/// The key in the Secret of the password key.
pub const PASSWORD_KEY: &str = "passwords.key";

/// The decoded data of a Secret. It has no `Debug`, because it contains keys.
#[derive(Clone)]
pub struct SecretFacts {
    pub live: Live,
    pub data: BTreeMap<String, String>,
}

impl SecretFacts {
    /// The certificate and its private key under these two keys of the Secret.
    pub fn keyed(&self, certificate: &str, key: &str) -> Option<KeyedCertificate> {
        Some(KeyedCertificate {
            certificate: self.data.get(certificate)?.clone(),
            key: self.data.get(key)?.clone(),
        })
    }

    /// True if the Secret contains what it is for: the certificate of a CA, or the password key.
    pub fn is_whole(&self) -> bool {
        self.data.contains_key("tls.crt") || self.data.contains_key(PASSWORD_KEY)
    }
}

/// Decodes a Secret; values that are not UTF-8 are left out.
pub fn secret_facts(live: Live) -> SecretFacts {
    let decode = |value: &serde_json::Value| {
        String::from_utf8(BASE64_STANDARD.decode(value.as_str()?).ok()?).ok()
    };
    let fields = live.value["data"].as_object();
    let data = fields
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), decode(value)?)))
        .collect();
    SecretFacts { live, data }
}
