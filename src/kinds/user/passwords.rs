//! Derives a user's password from the cluster's password key, the User and the time since which the
//! password is in force. Pure.
//!
//! The password is derived, not random: a deleted Secret is created again with the same password,
//! and the password is never read back from anywhere. The owner of the key can derive every
//! password, so the key can be rotated separately.

use hmac::{Hmac, Mac};
use k8s_openapi::jiff::Timestamp;
use sha2::Sha512;

/// The length of a password, which gives 190 bits.
const CHARS: usize = 32;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&u64::try_from(part.len()).unwrap_or(0).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

/// The password for one usage (`scram`, `pkcs12`) of the User with this uid.
pub fn derive(password_key: &str, usage: &str, uid: &str, since: Timestamp) -> String {
    let key = hmac(password_key.as_bytes(), &[b"freehold passwords 1"]);
    let mut password = String::with_capacity(CHARS);
    for block in 0_u8..=255 {
        let bytes = hmac(
            &key,
            &[
                usage.as_bytes(),
                uid.as_bytes(),
                since.to_string().as_bytes(),
                &[block],
            ],
        );
        // Only bytes below the largest multiple of 62 are used, so that every character is equally
        // likely.
        let fair = bytes
            .into_iter()
            .filter(|byte| *byte < 248)
            .map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        password.extend(fair.take(CHARS - password.len()));
        if password.len() == CHARS {
            break;
        }
    }
    password
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_derived_again_and_anything_else_is_another() {
        let later = Timestamp::from_second(1).unwrap();
        let first = derive("k", "scram", "u", Timestamp::UNIX_EPOCH);
        assert_eq!(first.len(), CHARS);
        assert_eq!(first, derive("k", "scram", "u", Timestamp::UNIX_EPOCH));
        let others = [
            derive("l", "scram", "u", Timestamp::UNIX_EPOCH),
            derive("k", "pkcs12", "u", Timestamp::UNIX_EPOCH),
            derive("k", "scram", "v", Timestamp::UNIX_EPOCH),
            derive("k", "scram", "u", later),
        ];
        assert!(others.iter().all(|other| *other != first));
    }
}
