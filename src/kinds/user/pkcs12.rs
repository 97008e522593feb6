//! Builds PKCS#12 stores for clients that cannot read PEM.

use crate::certificates::{CertificateError, KeyedCertificate};
use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, PrivateKey, PrivateKeyChain};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn bad(error: impl std::fmt::Display) -> CertificateError {
    CertificateError::Certificate(error.to_string())
}

fn certificates(pem: &str) -> Result<Vec<Certificate>, CertificateError> {
    let read = |der: CertificateDer<'_>| Certificate::from_der(&der).map_err(bad);
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| read(der.map_err(bad)?))
        .collect()
}

/// A truststore with the certificates that a client trusts.
///
/// # Errors
/// Fails if the PEM text cannot be parsed.
pub fn truststore(trusted: &str, password: &str) -> Result<Vec<u8>, CertificateError> {
    let mut store = KeyStore::new();
    for (index, certificate) in certificates(trusted)?.into_iter().enumerate() {
        store.add_entry(
            &format!("ca-{index}"),
            KeyStoreEntry::Certificate(certificate),
        );
    }
    store.writer(password).write().map_err(bad)
}

/// A keystore with a client's own certificate and key.
///
/// # Errors
/// Fails if the PEM text cannot be parsed.
pub fn keystore(
    own: &KeyedCertificate,
    authority: &str,
    password: &str,
) -> Result<Vec<u8>, CertificateError> {
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).map_err(bad)?;
    let private = PrivateKey::from_der(key.secret_der()).map_err(bad)?;
    let mut chain = certificates(&own.certificate)?;
    chain.extend(certificates(authority)?);
    let mut store = KeyStore::new();
    store.add_entry(
        "user",
        KeyStoreEntry::PrivateKeyChain(PrivateKeyChain::new("user", private, chain)),
    );
    store.writer(password).write().map_err(bad)
}
