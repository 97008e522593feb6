//! Takes records by HTTPS.

mod answer;
mod auth;
mod certificate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use freehold_pipeline::source::HttpSource;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::Shared;
use crate::sockets;
use crate::stage_loop::{End, StageError};
use answer::Source;
use auth::Authenticator;
use certificate::Certificate;

/// Connections at a time: each takes some tens of KiB. Others wait to be accepted.
const CONNECTIONS_MAX: u32 = 256;
/// How long a client may take for its handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may take to send its headers, or keep a connection without a request.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// Largest headers, and what is read ahead of a body.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// How often the stage looks whether it is to end, and at its files.
const TICK: Duration = Duration::from_millis(200);
/// How long the requests that are under way may take when the stage ends.
const DRAIN_PATIENCE: Duration = Duration::from_secs(20);

/// Takes records until the process is asked to end.
///
/// # Errors
/// It cannot listen.
pub async fn run(settings: HttpSource, stage: Shared) -> Result<End, StageError> {
    let address = stage.process.http_source;
    let listener = listen(address).await?;
    let mut certificate = Certificate::new(stage.process.tls.clone());
    let folder = stage.process.secrets.clone();
    let source = Arc::new(Source {
        authenticator: Authenticator::new(folder, settings.authentication.clone()),
        settings,
        stage: stage.clone(),
    });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    let (ending, ends) = watch::channel(());
    while stage.goes_on() {
        let problem = certificate.refresh();
        stage.source_problem(problem.or(source.authenticator.expected().err()));
        let Some(acceptor) = certificate.acceptor() else {
            sleep(TICK).await;
            continue;
        };
        stage.ready();
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = match timeout(TICK, next).await {
            Ok((Ok(place), Ok((stream, _)))) => (place, stream),
            Ok((_, Err(error))) => {
                tracing::warn!(%error, "no connection was accepted");
                sleep(TICK).await;
                continue;
            }
            _ => continue,
        };
        let served = connection(stream, acceptor, Arc::clone(&source), ends.clone(), place);
        tokio::spawn(served);
    }
    drop((listener, ending));
    let ended = timeout(DRAIN_PATIENCE, places.acquire_many(CONNECTIONS_MAX)).await;
    if ended.is_err() {
        tracing::warn!("requests were given up");
    }
    Ok(End::Drained)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StageError> {
    let listener = sockets::bind(address).await;
    listener.map_err(|source| StageError::Listen { address, source })
}

/// Serves one connection until it ends, or, when the stage ends, until its request is answered.
async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    source: Arc<Source>,
    mut ends: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    let stream = match timeout(HANDSHAKE_PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake has failed"),
        Err(_) => return tracing::debug!("a TLS handshake took too long"),
    };
    let answers = service_fn(move |request| {
        let source = Arc::clone(&source);
        async move { source.answer(request).await }
    });
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(BUFFER_BYTES_MAX);
    let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), answers));
    let served = tokio::select! {
        served = &mut connection => served,
        _ = ends.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection has failed");
    }
}
