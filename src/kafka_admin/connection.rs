//! One connection to one broker: frames, correlation, version negotiation, authentication.
//!
//! Requests are pipelined: each waits for the answer with its own correlation id. The first thing that cannot be
//! read ends the connection and fails all that wait on it. Frames are bounded; peers are authenticated before any.

use super::sasl::{self, ScramLogin};
use super::tls::{Stream, TlsSettings};
use super::{AdminError, AdminResult};
use crate::fault;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes, VersionRange};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::timeout;

/// No answer that Freehold asks for is larger: 100 000 partitions' metadata are about 10 MiB.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CLIENT_ID: &str = "freehold";

/// Where a broker is, and the name that its certificate must carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub node_id: i32,
    pub address: SocketAddr,
    pub server_name: String,
}

type Waiting = Arc<Mutex<Option<HashMap<i32, oneshot::Sender<Bytes>>>>>;

/// An open, authenticated connection.
pub struct Connection {
    writer: AsyncMutex<WriteHalf<Stream>>,
    waiting: Waiting,
    correlation: AtomicI32,
    versions: HashMap<i16, VersionRange>,
}

/// Reads one frame: a length of four bytes, then as many bytes.
///
/// # Errors
/// A length that is negative, zero or above [`FRAME_BYTES_MAX`] is a protocol error; so is an early end.
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R) -> AdminResult<Bytes> {
    let unreadable = |error: std::io::Error| AdminError::Unavailable(error.to_string());
    let length = reader.read_i32().await.map_err(unreadable)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if !(4..=FRAME_BYTES_MAX).contains(&length) {
        return Err(AdminError::Protocol(format!("a frame of {length} bytes")));
    }
    // Grows with what really arrives: a peer cannot make us reserve what it never sends.
    let mut body = Vec::with_capacity(length.min(64 * 1024));
    let read = reader.take(length as u64).read_to_end(&mut body).await.map_err(unreadable)?;
    if read < length {
        return Err(AdminError::Unavailable("the connection ended inside a frame".into()));
    }
    Ok(Bytes::from(body))
}

impl Connection {
    /// Connects, verifies the broker's certificate, negotiates versions and logs in where the listener asks for it.
    pub async fn open(endpoint: &Endpoint, tls: &TlsSettings, login: Option<&ScramLogin>) -> AdminResult<Self> {
        let stream = timeout(CONNECT_TIMEOUT, tls.connect(endpoint))
            .await
            .map_err(|_| AdminError::Unavailable(format!("{} did not answer", endpoint.server_name)))?
            .map_err(|error| AdminError::Unavailable(format!("{}: {error}", endpoint.server_name)))?;
        let (reader, writer) = split(stream);
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        tokio::spawn(dispatch(reader, Arc::clone(&waiting)));
        let mut connection = Self { writer: AsyncMutex::new(writer), waiting, correlation: AtomicI32::new(0), versions: HashMap::new() };
        connection.negotiate().await?;
        if let Some(login) = login {
            sasl::authenticate(&connection, login).await?;
        }
        Ok(connection)
    }

    /// False once anything went wrong on it.
    pub fn is_open(&self) -> bool {
        self.waiting.lock().is_ok_and(|waiting| waiting.is_some())
    }

    async fn negotiate(&mut self) -> AdminResult<()> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let response = self.send_version(&request, 3, CONNECT_TIMEOUT).await?;
        self.versions =
            response.api_keys.iter().map(|api| (api.api_key, VersionRange { min: api.min_version, max: api.max_version })).collect();
        Ok(())
    }

    /// Sends in the newest version that both sides know, at most `version_max`.
    pub async fn send<R: Request>(&self, request: &R, version_max: i16, limit: Duration) -> AdminResult<R::Response> {
        let ours = R::VERSIONS.intersect(&<R::Response as Message>::VERSIONS);
        let theirs = self.versions.get(&R::KEY).copied().unwrap_or(VersionRange { min: 0, max: -1 });
        let shared = ours.intersect(&theirs);
        let version = shared.max.min(version_max);
        if shared.is_empty() || version < shared.min {
            return Err(AdminError::Protocol(format!("no shared version of API {}: ours {ours}, the broker's {theirs}", R::KEY)));
        }
        self.send_version(request, version, limit).await
    }

    async fn send_version<R: Request>(&self, request: &R, version: i16, limit: Duration) -> AdminResult<R::Response> {
        let id = self.correlation.fetch_add(1, Ordering::Relaxed);
        let frame = encode(request, version, id).map_err(|error| AdminError::Protocol(error.to_string()))?;
        let closed = || AdminError::Unavailable("the connection was closed".into());
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().map_err(|_| closed())?.as_mut().ok_or_else(closed)?.insert(id, sender);
        let exchange = async {
            self.writer.lock().await.write_all(&frame).await.map_err(|error| AdminError::Unavailable(error.to_string()))?;
            receiver.await.map_err(|_| closed())
        };
        let mut body = match timeout(limit, exchange).await {
            Ok(body) => body?,
            Err(_) => {
                self.close();
                return Err(AdminError::Deadline(limit.as_secs()));
            }
        };
        fault::asked_kafka(R::KEY);
        decode::<R>(&mut body, version)
    }

    fn close(&self) {
        if let Ok(mut waiting) = self.waiting.lock() {
            *waiting = None;
        }
    }
}

fn encode<R: Request>(request: &R, version: i16, correlation: i32) -> Result<BytesMut, Box<dyn std::error::Error + Send + Sync>> {
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
        return Err(AdminError::Protocol(format!("{} bytes after the answer of API {}", body.remaining(), R::KEY)));
    }
    Ok(response)
}

/// kafka-protocol's errors are `anyhow::Error`; only their text is of use here.
mod kafka_protocol_error {
    pub use anyhow::Error;
}

/// Hands each frame to whoever waits for its correlation id.
async fn dispatch(mut reader: ReadHalf<Stream>, waiting: Waiting) {
    while let Ok(frame) = read_frame(&mut reader).await {
        let id = (&frame[..4]).get_i32();
        let Ok(mut waiting) = waiting.lock() else { return };
        match waiting.as_mut().and_then(|waiting| waiting.remove(&id)) {
            Some(sender) => drop(sender.send(frame)),
            // An answer that nobody asked for: the stream cannot be trusted any more.
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
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { read_frame(&mut &bytes[..]).await })
    }

    #[test]
    fn a_frame_of_hostile_length_is_refused_without_reading_on() {
        for length in [-1_i32, 0, 3, i32::MIN, i32::MAX, FRAME_BYTES_MAX as i32 + 1] {
            let error = read(&length.to_be_bytes()).unwrap_err();
            assert!(matches!(error, AdminError::Protocol(_)), "{length}: {error}");
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
            // Error code 0, then an array whose count is at most what 64 bytes can hold: see ADR 2 on hostile counts.
            let mut body = BytesMut::new();
            body.put_i32(7);
            body.put_i16(0);
            body.put_u8(bytes[0] % 16);
            body.extend_from_slice(&bytes[1..]);
            let _ = decode::<ApiVersionsRequest>(&mut body.freeze(), 3);
        }
    }
}
