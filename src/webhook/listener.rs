//! TLS for the webhook: each new connection uses the current certificate.

use crate::runtime::sockets;
use crate::webhook::certificate::ServingCertificate;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A client that has not completed the handshake in this time is disconnected.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
const CONNECTIONS_MAX: usize = 64;

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// Connections that have completed the handshake.
pub struct TlsListener {
    accepted: mpsc::Receiver<Accepted>,
    address: SocketAddr,
}

impl TlsListener {
    pub async fn bind(
        address: SocketAddr,
        certificate: ServingCertificate,
    ) -> std::io::Result<Self> {
        let listener = sockets::bind(address).await?;
        let address = listener.local_addr()?;
        let (sender, accepted) = mpsc::channel(CONNECTIONS_MAX);
        tokio::spawn(async move {
            loop {
                let Ok((stream, from)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let Some(config) = certificate.current() else {
                    continue;
                };
                let sender = sender.clone();
                tokio::spawn(async move {
                    let handshake = TlsAcceptor::from(config).accept(stream);
                    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
                        // An error means that the process is ending and nobody receives
                        // connections.
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
