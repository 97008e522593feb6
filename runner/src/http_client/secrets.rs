//! Files of Secrets. They are read anew, because the kubelet replaces them; what they hold is never
//! part of an error.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::process;

/// How long a secret is used before its file is read again.
pub const AGE_MAX: Duration = Duration::from_secs(5);

/// The folder that has a folder for each Secret.
#[derive(Clone, Debug)]
pub struct Secrets {
    folder: PathBuf,
}

impl Secrets {
    /// Secrets below a folder.
    pub fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// A key of a Secret.
    ///
    /// # Errors
    /// Which one cannot be read, or is empty.
    pub fn bytes(&self, secret: &str, key: &str) -> Result<Vec<u8>, String> {
        process::secret(&self.folder, secret, key)
    }

    /// A key of a Secret that is text.
    ///
    /// # Errors
    /// As [`Self::bytes`]; or it is not text.
    pub fn text(&self, secret: &str, key: &str) -> Result<String, String> {
        let text = String::from_utf8(self.bytes(secret, key)?);
        text.map_err(|_| format!("Secret {secret}, key {key}: it is not text"))
    }
}

/// A value that is made from secrets, kept for [`AGE_MAX`].
#[derive(Debug)]
pub struct Kept<T>(Option<(Instant, T)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Clone> Kept<T> {
    /// The value; made again if it is old or was forgotten. The one before is given to `make`.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn get(&mut self, make: impl FnOnce(Option<T>) -> Result<T, String>) -> Result<T, String> {
        if let Some((since, value)) = &self.0
            && since.elapsed() < AGE_MAX
        {
            return Ok(value.clone());
        }
        let value = make(self.0.take().map(|(_, value)| value))?;
        self.0 = Some((Instant::now(), value.clone()));
        Ok(value)
    }

    /// It is made again at its next use.
    pub fn forget(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_and_never_shown() {
        let folder = std::env::temp_dir().join(format!("runner-secrets-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("hook")).unwrap();
        let secrets = Secrets::of(&folder);
        let missing = secrets.text("hook", "token").unwrap_err();
        assert!(missing.starts_with("Secret hook, key token: "), "{missing}");
        std::fs::write(folder.join("hook/token"), b"hush\n").unwrap();
        assert_eq!(secrets.text("hook", "token").unwrap(), "hush");
        std::fs::write(folder.join("hook/token"), b"hush\xff").unwrap();
        assert!(!secrets.text("hook", "token").unwrap_err().contains("hush"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_value_is_kept_until_it_is_forgotten() {
        let mut kept = Kept::default();
        assert_eq!(kept.get(|_| Ok(1)), Ok(1));
        assert_eq!(kept.get(|_| Ok(2)), Ok(1));
        kept.forget();
        assert_eq!(kept.get(|_| Err("no".into())), Err("no".to_owned()));
        assert_eq!(kept.get(|_| Ok(3)), Ok(3));
    }
}
