//! The certificate of the source, read again when its files change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// A new certificate is in force this soon.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Files that cannot be used are read again this soon.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// `tls.crt` and `tls.key` of a folder.
pub struct Certificate {
    folder: PathBuf,
    /// The files from which the acceptor was made.
    files: (Vec<u8>, Vec<u8>),
    acceptor: Option<TlsAcceptor>,
    /// Why the files could not be used when they were last read.
    problem: Option<String>,
    next_check: Instant,
}

impl Certificate {
    /// Not read yet.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            files: Default::default(),
            acceptor: None,
            problem: None,
            next_check: Instant::now(),
        }
    }

    /// Reads the files if it is time, and says why they cannot be used; the certificate from before
    /// stays.
    pub fn refresh(&mut self) -> Option<String> {
        let now = Instant::now();
        if now >= self.next_check {
            self.problem = self.read().err();
            let is_good = self.problem.is_none();
            self.next_check = now + if is_good { CHECK_EVERY } else { RETRY_EVERY };
        }
        self.problem.clone()
    }

    fn read(&mut self) -> Result<(), String> {
        let read = |name: &str| {
            std::fs::read(self.folder.join(name)).map_err(|error| format!("{name}: {error}"))
        };
        let files = (read("tls.crt")?, read("tls.key")?);
        if self.acceptor.is_none() || files != self.files {
            self.acceptor = Some(acceptor(&files.0, &files.1)?);
            self.files = files;
            tracing::info!("the certificate was read");
        }
        Ok(())
    }

    /// What makes TLS connections; `None`: there was no certificate yet.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.acceptor.clone()
    }
}

fn acceptor(certificate: &[u8], key: &[u8]) -> Result<TlsAcceptor, String> {
    // Errors of the parser can hold what is in a file.
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| "tls.crt: no certificates in PEM")?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "tls.key: no private key in PEM")?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| format!("tls.crt and tls.key: {error}"))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
