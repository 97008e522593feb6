//! Connects to the broker.

use std::path::Path;
use std::sync::Arc;

use freehold_pipeline::endpoint::{MqttBroker, SecretKey, host_and_port};
use freehold_pipeline::mqtt::SCHEMES;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::PATIENCE;
use crate::process::secret;

/// A connection with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Opens a connection to the broker. The CA is read from its file.
///
/// # Errors
/// Why there is none, in words, without a secret.
pub async fn open(broker: &MqttBroker, secrets: &Path) -> Result<Box<dyn Stream>, String> {
    let (host, port) = host_and_port(&broker.url, &SCHEMES)?;
    let late = |_| format!("{host}:{port}: no answer in {} s", PATIENCE.as_secs());
    let failed = |error: std::io::Error| format!("{host}:{port}: {error}");
    let tcp = timeout(PATIENCE, TcpStream::connect((host.as_str(), port)));
    let tcp = tcp.await.map_err(late)?.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    if broker.url.starts_with("mqtt://") {
        return Ok(Box::new(tcp));
    }
    let connector = connector(broker.ca.as_ref(), secrets)?;
    let name = ServerName::try_from(host.clone()).map_err(|error| format!("{host}: {error}"))?;
    let tls = timeout(PATIENCE, connector.connect(name, tcp));
    Ok(Box::new(tls.await.map_err(late)?.map_err(failed)?))
}

fn connector(ca: Option<&SecretKey>, secrets: &Path) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(SecretKey { name, key }) => {
            let none = || format!("Secret {name}, key {key}: no certificate in PEM");
            let pem = secret(secrets, name, key)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|_| none())?;
                roots.add(certificate).map_err(|_| none())?;
            }
            if roots.is_empty() {
                return Err(none());
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
