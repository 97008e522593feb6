//! SCRAM-SHA-512 (RFC 5802 with SHA-512, KIP-84): the salted password, the client's proof and the
//! server's signature. Pure.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha512};

/// Kafka's own minimum is 4096.
pub const ITERATIONS: u32 = 4096;

/// Bytes of a SHA-512 hash.
pub const HASH_BYTES: usize = 64;

/// A SHA-512 hash or HMAC.
pub type Hash = [u8; HASH_BYTES];

/// `Hi(password, salt, iterations)` of RFC 5802: PBKDF2 with HMAC-SHA-512.
pub fn salted_password(password: &str, salt: &[u8], iterations: u32) -> Hash {
    let mut out = [0; HASH_BYTES];
    pbkdf2::pbkdf2_hmac::<Sha512>(password.as_bytes(), salt, iterations, &mut out);
    out
}

fn hmac(key: &[u8], text: &[u8]) -> Hash {
    let mut mac = Hmac::<Sha512>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// `StoredKey` of RFC 5802: what the server stores to verify a client.
pub fn stored_key(salted: &[u8]) -> Hash {
    Sha512::digest(hmac(salted, b"Client Key")).into()
}

/// `ClientProof` of RFC 5802.
pub fn client_proof(salted: &Hash, auth_message: &str) -> Hash {
    let client_key = hmac(salted, b"Client Key");
    let stored_key = stored_key(salted);
    let mut proof = hmac(&stored_key, auth_message.as_bytes());
    proof
        .iter_mut()
        .zip(client_key)
        .for_each(|(byte, key)| *byte ^= key);
    proof
}

/// `ServerSignature` of RFC 5802.
pub fn server_signature(salted: &Hash, auth_message: &str) -> Hash {
    hmac(&hmac(salted, b"Server Key"), auth_message.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_hides_a_client_key_whose_hash_the_server_stores() {
        let salted = salted_password("pencil", b"salt", ITERATIONS);
        let message = "n=user,r=abc,r=abcdef,s=c2FsdA==,i=4096,c=biws,r=abcdef";
        let stored: Hash = Sha512::digest(hmac(&salted, b"Client Key")).into();
        let mut key = client_proof(&salted, message);
        key.iter_mut()
            .zip(hmac(&stored, message.as_bytes()))
            .for_each(|(byte, other)| *byte ^= other);
        assert_eq!(
            Hash::from(Sha512::digest(key)),
            stored,
            "the server verifies so (RFC 5802, section 3)"
        );
    }
}
