//! One connection to one broker: frames, correlation ids, version negotiation and authentication.
//!
//! Requests are pipelined: each one waits for the answer with its own correlation id. The
//! connection is closed, and all requests that wait on it fail, as soon as it receives something
//! that it cannot read or could not write a frame completely. The size of frames is limited. The
//! broker is authenticated before the first frame.

use super::sasl::{self, ScramLogin};
use super::tls::{Stream, TlsSettings};
use super::{AdminError, AdminResult};
#[cfg(feature = "fault-injection")]
use crate::fault;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Message, Request, StrBytes, VersionRange,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// No answer to a request of Freehold is larger: the metadata of 100 000 partitions are about 10
/// MiB.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time for the TCP connection, the TLS handshake and the version negotiation together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is not used again when a caller gave up a request after this time and the broker
/// had sent nothing at all since.
const SILENT_AFTER: Duration = Duration::from_millis(500);
const CLIENT_ID: &str = "freehold";

/// The address of a broker, and the name that its certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub node_id: i32,
    pub address: SocketAddr,
    pub server_name: String,
}

/// The requests that wait for an answer, and when the broker last sent one. `None` once the
/// connection is closed.
type Waiting = Arc<Mutex<Option<Exchanges>>>;

struct Exchanges {
    /// By correlation id: when the request was sent, and where its answer goes. A request that its
    /// caller has given up stays here until its answer arrives.
    pending: HashMap<i32, (Instant, oneshot::Sender<Bytes>)>,
    heard: Instant,
}

impl Exchanges {
    /// True when a caller has given up a request and the broker has sent nothing at all since that
    /// request.
    fn is_silent(&self) -> bool {
        let is_lost = |(sent, sender): &(Instant, oneshot::Sender<Bytes>)| {
            sender.is_closed() && *sent > self.heard && sent.elapsed() > SILENT_AFTER
        };
        self.pending.values().any(is_lost)
    }
}

/// An open, authenticated connection.
pub struct Connection {
    writer: AsyncMutex<WriteHalf<Stream>>,
    waiting: Waiting,
    correlation: AtomicI32,
    versions: HashMap<i16, VersionRange>,
    reader: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Closes the connection unless a frame was written completely: the broker would read the next
/// frame as the rest of the incomplete one.
struct HalfWritten<'a>(Option<&'a Connection>);

impl Drop for HalfWritten<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|connection| connection.close());
    }
}

/// Asks one endpoint after the other. The next one is asked as soon as one fails, or when those
/// already asked have not answered within `pause`. The first result counts; the other calls are
/// cancelled.
///
/// # Errors
/// The last error, if all endpoints fail.
pub async fn first_of<'a, T, F: Future<Output = AdminResult<T>>>(
    endpoints: &[&'a Endpoint],
    pause: Duration,
    ask: impl Fn(&'a Endpoint) -> F,
) -> AdminResult<(&'a Endpoint, T)> {
    let mut left = endpoints.iter().copied();
    let mut asked = FuturesUnordered::new();
    let mut last = AdminError::Unavailable("no broker has an address yet".into());
    loop {
        match left.next() {
            Some(endpoint) => {
                let answer = ask(endpoint);
                asked.push(async move { (endpoint, answer.await) });
            }
            None if asked.is_empty() => return Err(last),
            None => {}
        }
        // After the pause or a failure, the next endpoint is asked in addition.
        let answer = if left.len() > 0 {
            timeout(pause, asked.next()).await.ok().flatten()
        } else {
            asked.next().await
        };
        match answer {
            Some((endpoint, Ok(result))) => return Ok((endpoint, result)),
            Some((_, Err(error))) => last = error,
            None => {}
        }
    }
}

/// Reads one frame: a length of four bytes, then that many bytes.
///
/// # Errors
/// A length that is negative, zero or above [`FRAME_BYTES_MAX`] is a protocol error. An early end
/// of the stream is an error too.
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> AdminResult<Bytes> {
    let unreadable = |error: std::io::Error| AdminError::Unavailable(error.to_string());
    let length = reader.read_i32().await.map_err(unreadable)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(4..=FRAME_BYTES_MAX).contains(&length) {
        return Err(AdminError::Protocol(format!("a frame of {length} bytes")));
    }
    // The buffer grows with the bytes that arrive, so that a peer cannot make the client allocate
    // memory for data that it never sends.
    let mut body = Vec::with_capacity(length.min(64 * 1024));
    let read = reader
        .take(length as u64)
        .read_to_end(&mut body)
        .await
        .map_err(unreadable)?;
    if read < length {
        return Err(AdminError::Unavailable(
            "the connection ended inside a frame".into(),
        ));
    }
    Ok(Bytes::from(body))
}

impl Connection {
    /// Connects, verifies the broker's certificate, negotiates versions, and logs in if there is a
    /// login.
    pub async fn open(
        endpoint: &Endpoint,
        tls: &TlsSettings,
        login: Option<&ScramLogin>,
    ) -> AdminResult<Self> {
        let silent =
            |_| AdminError::Unavailable(format!("{} did not answer", endpoint.server_name));
        let connection = timeout(CONNECT_TIMEOUT, Self::negotiated(endpoint, tls))
            .await
            .map_err(silent)??;
        if let Some(login) = login {
            sasl::authenticate(&connection, login).await?;
        }
        Ok(connection)
    }

    async fn negotiated(endpoint: &Endpoint, tls: &TlsSettings) -> AdminResult<Self> {
        let failed = |error| AdminError::Unavailable(format!("{}: {error}", endpoint.server_name));
        let (reader, writer) = split(tls.connect(endpoint).await.map_err(failed)?);
        let waiting: Waiting = Arc::new(Mutex::new(Some(Exchanges {
            pending: HashMap::new(),
            heard: Instant::now(),
        })));
        let reader = tokio::spawn(dispatch(reader, Arc::clone(&waiting))).abort_handle();
        let mut connection = Self {
            writer: AsyncMutex::new(writer),
            waiting,
            correlation: AtomicI32::new(0),
            versions: HashMap::new(),
            reader,
        };
        connection.negotiate().await?;
        Ok(connection)
    }

    /// False after any error on the connection, and while the broker owes an answer for which a
    /// caller has given up waiting.
    pub fn is_open(&self) -> bool {
        self.waiting.lock().is_ok_and(|waiting| {
            waiting
                .as_ref()
                .is_some_and(|exchanges| !exchanges.is_silent())
        })
    }

    async fn negotiate(&mut self) -> AdminResult<()> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let response = self.send_version(&request, 3, CONNECT_TIMEOUT).await?;
        self.versions = response
            .api_keys
            .iter()
            .map(|api| {
                (
                    api.api_key,
                    VersionRange {
                        min: api.min_version,
                        max: api.max_version,
                    },
                )
            })
            .collect();
        Ok(())
    }

    /// Sends a request in the newest version that both sides know, at most `version_max`.
    pub async fn send<R: Request>(
        &self,
        request: &R,
        version_max: i16,
        limit: Duration,
    ) -> AdminResult<R::Response> {
        let ours = R::VERSIONS.intersect(&<R::Response as Message>::VERSIONS);
        let theirs = self
            .versions
            .get(&R::KEY)
            .copied()
            .unwrap_or(VersionRange { min: 0, max: -1 });
        let shared = ours.intersect(&theirs);
        let version = shared.max.min(version_max);
        if shared.is_empty() || version < shared.min {
            return Err(AdminError::Protocol(format!(
                "no shared version of API {}: ours {ours}, the broker's {theirs}",
                R::KEY
            )));
        }
        self.send_version(request, version, limit).await
    }

    async fn send_version<R: Request>(
        &self,
        request: &R,
        version: i16,
        limit: Duration,
    ) -> AdminResult<R::Response> {
        let id = self.correlation.fetch_add(1, Ordering::Relaxed);
        let frame = encode(request, version, id)
            .map_err(|error| AdminError::Protocol(error.to_string()))?;
        let closed = || AdminError::Unavailable("the connection was closed".into());
        let (sender, receiver) = oneshot::channel();
        let exchange = async {
            let mut writer = self.writer.lock().await;
            self.waiting
                .lock()
                .map_err(|_| closed())?
                .as_mut()
                .ok_or_else(closed)?
                .pending
                .insert(id, (Instant::now(), sender));
            let mut half = HalfWritten(Some(self));
            let unwritable = |error: std::io::Error| AdminError::Unavailable(error.to_string());
            writer.write_all(&frame).await.map_err(unwritable)?;
            writer.flush().await.map_err(unwritable)?;
            half.0 = None;
            drop(writer);
            receiver.await.map_err(|_| closed())
        };
        let mut body = match timeout(limit, exchange).await {
            Ok(body) => body?,
            Err(_) => {
                self.close();
                return Err(AdminError::Deadline(limit.as_secs()));
            }
        };
        #[cfg(feature = "fault-injection")]
        fault::asked_kafka(R::KEY);
        decode::<R>(&mut body, version)
    }

    fn close(&self) {
        if let Ok(mut waiting) = self.waiting.lock() {
            *waiting = None;
        }
        self.reader.abort();
    }
}

fn encode<R: Request>(
    request: &R,
    version: i16,
    correlation: i32,
) -> Result<BytesMut, Box<dyn std::error::Error + Send + Sync>> {
    let mut frame = BytesMut::with_capacity(512);
    frame.put_i32(0);
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
    header.encode(&mut frame, R::header_version(version))?;
    request.encode(&mut frame, version)?;
    let length = i32::try_from(frame.len() - 4)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

fn decode<R: Request>(body: &mut Bytes, version: i16) -> AdminResult<R::Response> {
    let unreadable = |error: kafka_protocol_error::Error| AdminError::Protocol(error.to_string());
    ResponseHeader::decode(body, R::Response::header_version(version)).map_err(unreadable)?;
    let response = R::Response::decode(body, version).map_err(unreadable)?;
    if body.has_remaining() {
        return Err(AdminError::Protocol(format!(
            "{} bytes after the answer of API {}",
            body.remaining(),
            R::KEY
        )));
    }
    Ok(response)
}

/// The error type of kafka-protocol is `anyhow::Error`; only its text is used here.
mod kafka_protocol_error {
    pub use anyhow::Error;
}

/// Passes each frame to the caller that waits for its correlation id.
async fn dispatch(mut reader: ReadHalf<Stream>, waiting: Waiting) {
    while let Ok(frame) = read_frame(&mut reader).await {
        let id = (&frame[..4]).get_i32();
        let Ok(mut waiting) = waiting.lock() else {
            return;
        };
        let found = waiting.as_mut().and_then(|exchanges| {
            exchanges.heard = Instant::now();
            exchanges.pending.remove(&id)
        });
        match found {
            Some((_, sender)) => drop(sender.send(frame)),
            // This is an answer to a request that was never sent: the stream can no longer be
            // trusted.
            None => break,
        }
    }
    if let Ok(mut waiting) = waiting.lock() {
        *waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> AdminResult<Bytes> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async { read_frame(&mut &bytes[..]).await })
    }

    #[test]
    fn a_frame_of_hostile_length_is_refused_without_reading_on() {
        for length in [-1_i32, 0, 3, i32::MIN, i32::MAX, FRAME_BYTES_MAX as i32 + 1] {
            let error = read(&length.to_be_bytes()).unwrap_err();
            assert!(
                matches!(error, AdminError::Protocol(_)),
                "{length}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_frame_or_an_error_and_never_more_than_was_sent(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(frame) = read(&bytes) {
                prop_assert_eq!(&frame[..], &bytes[4..4 + frame.len()]);
            }
        }

        #[test]
        fn a_hostile_api_versions_answer_is_an_answer_or_an_error(bytes in prop::collection::vec(any::<u8>(), 4..64)) {
            // Error code 0, then an array whose count is at most what 64 bytes can hold: see ADR 2
            // on hostile counts.
            let mut body = BytesMut::new();
            body.put_i32(7);
            body.put_i16(0);
            body.put_u8(bytes[0] % 16);
            body.extend_from_slice(&bytes[1..]);
            let _ = decode::<ApiVersionsRequest>(&mut body.freeze(), 3);
        }
    }
}
