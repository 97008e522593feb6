//! TLS for the webhook: each connection with the certificate that is current.

use super::certificate::ServingCertificate;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Who does not shake hands by then is let go.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
const CONNECTIONS_MAX: usize = 64;

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// Connections whose handshake is done.
pub struct TlsListener {
    accepted: mpsc::Receiver<Accepted>,
    address: SocketAddr,
}

impl TlsListener {
    pub async fn bind(address: SocketAddr, certificate: ServingCertificate) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(CONNECTIONS_MAX);
        tokio::spawn(async move {
            loop {
                let Ok((stream, from)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let Some(config) = certificate.current() else { continue };
                let sender = sender.clone();
                tokio::spawn(async move {
                    let handshake = TlsAcceptor::from(config).accept(stream);
                    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
                        // Nobody receives any more when the process ends.
                        let _ = sender.send((stream, from)).await;
                    }
                });
            }
        });
        Ok(Self { accepted, address })
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
