//! Who may send.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use freehold_pipeline::endpoint::HttpAuthentication;
use subtle::ConstantTimeEq as _;

use crate::process::secret;

/// A changed Secret is in force this soon.
const READ_EVERY: Duration = Duration::from_secs(5);

/// Why a request is not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// Its token or password is missing or wrong.
    Unauthorized,
    /// The Secret is not there, in words.
    NoSecret(String),
}

/// When the Secret was read, and what is expected, or why it cannot be read.
type Read = (Instant, Result<Vec<u8>, String>);

/// Checks requests against a Secret.
pub struct Authenticator {
    folder: PathBuf,
    authentication: HttpAuthentication,
    read: Mutex<Option<Read>>,
}

impl Authenticator {
    /// Checks against a Secret in the folder of secrets.
    #[must_use]
    pub fn new(folder: PathBuf, authentication: HttpAuthentication) -> Self {
        Self {
            folder,
            authentication,
            read: Mutex::default(),
        }
    }

    /// What WWW-Authenticate says.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self.authentication.token {
            Some(_) => "Bearer",
            None => "Basic realm=\"records\"",
        }
    }

    /// Checks the header Authorization.
    ///
    /// # Errors
    /// The request is not to be taken.
    pub fn check(&self, header: Option<&[u8]>) -> Result<(), Denied> {
        let expected = self.expected().map_err(Denied::NoSecret)?;
        let given = header.and_then(|header| self.given(header));
        let is_same = given.is_some_and(|given| bool::from(given.ct_eq(&expected)));
        is_same.then_some(()).ok_or(Denied::Unauthorized)
    }

    /// The secret in a header.
    fn given(&self, header: &[u8]) -> Option<Vec<u8>> {
        let space = header.iter().position(|byte| *byte == b' ')?;
        let (scheme, rest) = (&header[..space], header[space..].trim_ascii());
        match self.authentication.token {
            Some(_) if scheme.eq_ignore_ascii_case(b"bearer") => Some(rest.to_vec()),
            None if scheme.eq_ignore_ascii_case(b"basic") => STANDARD.decode(rest).ok(),
            _ => None,
        }
    }

    /// What is expected: the token, or `username:password`.
    ///
    /// # Errors
    /// Why the Secret cannot be read.
    pub fn expected(&self) -> Result<Vec<u8>, String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, known)) = &*read
            && at.elapsed() < READ_EVERY
        {
            return known.clone();
        }
        let HttpAuthentication { token, basic } = &self.authentication;
        let of = |name: &str, key: &str| secret(&self.folder, name, key);
        let value = match (token, basic) {
            (Some(token), _) => of(&token.name, &token.key),
            (None, Some(basic)) => of(&basic.name, "username").and_then(|mut both| {
                both.push(b':');
                both.extend(of(&basic.name, "password")?);
                Ok(both)
            }),
            (None, None) => Err("no authentication is given".to_owned()),
        };
        read.insert((Instant::now(), value)).1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_pipeline::endpoint::{SecretKey, SecretRef};

    fn folder(name: &str) -> PathBuf {
        let name = format!("runner-auth-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(folder.join("posted")).unwrap();
        folder
    }

    #[test]
    fn a_token_opens_and_nothing_else_does() {
        let folder = folder("token");
        let token = SecretKey {
            name: "posted".to_owned(),
            key: "token".to_owned(),
        };
        let authenticator = Authenticator::new(
            folder.clone(),
            HttpAuthentication {
                token: Some(token),
                basic: None,
            },
        );
        let missing = authenticator.check(Some(b"Bearer hush")).unwrap_err();
        let Denied::NoSecret(why) = missing else {
            panic!("{missing:?}");
        };
        assert_eq!(why, "Secret posted, key token: entity not found");
        std::fs::write(folder.join("posted/token"), "hush\n").unwrap();
        authenticator.read.lock().unwrap().take();
        for good in ["Bearer hush", "bearer  hush"] {
            assert_eq!(authenticator.check(Some(good.as_bytes())), Ok(()));
        }
        let bad = [
            "Bearer hus",
            "Bearer hushh",
            "Bearer ",
            "hush",
            "Basic aHVzaA==",
        ];
        for bad in bad
            .map(|bad| Some(bad.as_bytes()))
            .into_iter()
            .chain([None])
        {
            assert_eq!(authenticator.check(bad), Err(Denied::Unauthorized));
        }
        assert_eq!(authenticator.scheme(), "Bearer");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_user_and_its_password_open_and_an_empty_file_does_not() {
        let folder = folder("basic");
        std::fs::write(folder.join("posted/username"), "me").unwrap();
        std::fs::write(folder.join("posted/password"), "\n").unwrap();
        let basic = SecretRef {
            name: "posted".to_owned(),
        };
        let authenticator = Authenticator::new(
            folder.clone(),
            HttpAuthentication {
                token: None,
                basic: Some(basic),
            },
        );
        let header = |text: &str| format!("Basic {}", STANDARD.encode(text)).into_bytes();
        let check = |text: &str| authenticator.check(Some(&header(text)));
        assert!(matches!(check("me:"), Err(Denied::NoSecret(_))));
        std::fs::write(folder.join("posted/password"), "a:b").unwrap();
        authenticator.read.lock().unwrap().take();
        assert_eq!(check("me:a:b"), Ok(()));
        for bad in ["me:a", "you:a:b", "me", ":"] {
            assert_eq!(check(bad), Err(Denied::Unauthorized), "{bad}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
