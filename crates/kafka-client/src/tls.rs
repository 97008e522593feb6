//! TLS to a broker: rustls with the cluster's CA, and a client certificate if the listener requires
//! one.

use super::connection::Endpoint;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A TLS connection to a broker.
pub type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// The CAs to trust, and the client's own certificate.
#[derive(Clone)]
pub struct TlsSettings {
    config: Arc<ClientConfig>,
}

/// PEM that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{what} is not readable: {why}")]
    Pem { what: &'static str, why: String },
}

impl TlsSettings {
    /// Trusts the certificates in `ca_pem`. `identity` is the client's certificate chain and its
    /// PKCS#8 key, both PEM.
    ///
    /// # Errors
    /// The PEM holds no certificate, or the key does not match.
    pub fn new(ca_pem: &str, identity: Option<(&str, &str)>) -> Result<Self, TlsError> {
        let bad = |what| move |why: String| TlsError::Pem { what, why };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca_pem).map_err(bad("the CA"))? {
            roots
                .add(certificate)
                .map_err(|error| bad("the CA")(error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS")(error.to_string()))?
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                    .map_err(|error| bad("the key")(error.to_string()))?;
                builder
                    .with_client_auth_cert(
                        certificates(chain).map_err(bad("the certificate"))?,
                        key,
                    )
                    .map_err(|error| bad("the certificate")(error.to_string()))?
            }
        };
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// Connects and completes the handshake.
    ///
    /// # Errors
    /// The connection fails, another CA signed the certificate, or the certificate does not have
    /// the endpoint's name.
    pub async fn connect(&self, endpoint: &Endpoint) -> std::io::Result<Stream> {
        let tcp = TcpStream::connect(endpoint.address).await?;
        tcp.set_nodelay(true)?;
        let name =
            ServerName::try_from(endpoint.server_name.clone()).map_err(std::io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.config))
            .connect(name, tcp)
            .await
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let all = all.map_err(|error| error.to_string())?;
    if all.is_empty() {
        Err("no certificate in it".into())
    } else {
        Ok(all)
    }
}
