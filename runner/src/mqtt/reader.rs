//! Reads the packets of MQTT 3.1.1 and 5.0 that a broker sends to a client at QoS 1.

use bytes::{Buf as _, Bytes, BytesMut};
use freehold_pipeline::endpoint::MqttVersion;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::granted::Granted;

/// What a packet has besides its payload: two strings of 64 KiB in a PUBLISH are too many already.
const OVERHEAD_BYTES: usize = 128 << 10;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `None`: it is not to be acknowledged.
    pub id: Option<u16>,
    pub topic: Bytes,
    /// `None`: it is larger than what the stage takes, and was not kept.
    pub payload: Option<Bytes>,
}

/// What a broker sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    Connected {
        code: u8,
        /// The broker has kept the session of an earlier connection.
        is_known: bool,
        granted: Granted,
    },
    /// A message that was published.
    Acknowledged {
        id: u16,
        code: u8,
    },
    Subscribed {
        id: u16,
        codes: Vec<u8>,
    },
    Unsubscribed {
        id: u16,
    },
    Message(Message),
    Pong,
    Disconnect {
        code: u8,
    },
}

/// Why no packet can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the broker has closed the connection")]
    Closed,
    #[error("the connection to the broker is broken: {0}")]
    Io(#[from] std::io::Error),
    #[error("the broker has sent what is not MQTT: {0}")]
    Malformed(&'static str),
}

/// Reads packets. A read that is given up loses nothing.
pub struct Reader<R> {
    stream: R,
    version: MqttVersion,
    payload_bytes_max: usize,
    buffer: BytesMut,
    /// Bytes of a large payload that are still to come.
    skip: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from a stream. Larger payloads are not kept.
    pub fn new(stream: R, version: MqttVersion, payload_bytes_max: usize) -> Self {
        Self {
            stream,
            version,
            payload_bytes_max,
            buffer: BytesMut::new(),
            skip: 0,
        }
    }

    /// The next packet.
    ///
    /// # Errors
    /// The connection has ended, or what came is not MQTT.
    pub async fn next(&mut self) -> Result<Packet, ReadError> {
        loop {
            let skipped = self.skip.min(self.buffer.len());
            self.buffer.advance(skipped);
            self.skip -= skipped;
            if self.skip == 0
                && let Some(packet) = self.parse()?
            {
                return Ok(packet);
            }
            self.buffer.reserve(8 << 10);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(ReadError::Closed);
            }
        }
    }

    /// The packet at the beginning of the buffer, if all that is needed of it is there.
    fn parse(&mut self) -> Result<Option<Packet>, ReadError> {
        let Some((length, head)) = length(self.buffer.get(1..).unwrap_or_default())? else {
            return Ok(None);
        };
        let (first, head) = (self.buffer[0], head + 1);
        if length > self.payload_bytes_max + OVERHEAD_BYTES {
            return self.parse_large(first, head, length);
        }
        if self.buffer.len() < head + length {
            return Ok(None);
        }
        self.buffer.advance(head);
        let body = self.buffer.split_to(length).freeze();
        decode(self.version, first, body, self.payload_bytes_max).map(Some)
    }

    /// A message that is too large: its topic and its id, when they are there.
    fn parse_large(
        &mut self,
        first: u8,
        head: usize,
        length: usize,
    ) -> Result<Option<Packet>, ReadError> {
        if first >> 4 != 3 {
            return Err(ReadError::Malformed("a packet is too large"));
        }
        // No topic is longer, and no id follows it later.
        let begin = self.buffer.len().min(head + (64 << 10) + 4);
        let mut body = Bytes::copy_from_slice(&self.buffer[head.min(begin)..begin]);
        let before = body.len();
        let Ok((topic, id)) = head_of_message(first, &mut body) else {
            let is_there = begin == head + (64 << 10) + 4;
            return match is_there {
                true => Err(ReadError::Malformed("the topic of a message")),
                false => Ok(None),
            };
        };
        let used = before - body.len();
        self.buffer.advance(head + used);
        self.skip = length - used;
        Ok(Some(Packet::Message(Message {
            id,
            topic,
            payload: None,
        })))
    }
}

/// A length and the number of its bytes, if all are there.
fn length(bytes: &[u8]) -> Result<Option<(usize, usize)>, ReadError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    match bytes.len() {
        0..4 => Ok(None),
        _ => Err(ReadError::Malformed("a length")),
    }
}

fn decode(
    version: MqttVersion,
    first: u8,
    mut body: Bytes,
    payload_bytes_max: usize,
) -> Result<Packet, ReadError> {
    let malformed = || ReadError::Malformed("a packet is too short");
    match first >> 4 {
        2 => {
            let is_known = body.try_get_u8().map_err(|_| malformed())? & 1 == 1;
            let code = body.try_get_u8().map_err(|_| malformed())?;
            let granted = Granted::of(properties(version, &mut body)?)?;
            Ok(Packet::Connected {
                code,
                is_known,
                granted,
            })
        }
        3 => {
            let (topic, id) = head_of_message(first, &mut body)?;
            properties(version, &mut body)?;
            let payload = (body.len() <= payload_bytes_max).then_some(body);
            Ok(Packet::Message(Message { id, topic, payload }))
        }
        4 => {
            let id = body.try_get_u16().map_err(|_| malformed())?;
            let code = body.first().copied().unwrap_or_default();
            Ok(Packet::Acknowledged { id, code })
        }
        9 => {
            let id = body.try_get_u16().map_err(|_| malformed())?;
            properties(version, &mut body)?;
            let codes = body.to_vec();
            Ok(Packet::Subscribed { id, codes })
        }
        11 => Ok(Packet::Unsubscribed {
            id: body.try_get_u16().map_err(|_| malformed())?,
        }),
        13 => Ok(Packet::Pong),
        14 => Ok(Packet::Disconnect {
            code: body.first().copied().unwrap_or_default(),
        }),
        _ => Err(ReadError::Malformed("a packet of an unknown type")),
    }
}

/// Topic and id at the beginning of a PUBLISH.
fn head_of_message(first: u8, body: &mut Bytes) -> Result<(Bytes, Option<u16>), ReadError> {
    let malformed = |_| ReadError::Malformed("the topic of a message");
    let length = usize::from(body.try_get_u16().map_err(malformed)?);
    if length > body.len() || length == 0 {
        return Err(ReadError::Malformed("the topic of a message"));
    }
    let topic = body.split_to(length);
    match (first >> 1) & 3 {
        0 => Ok((topic, None)),
        1 => Ok((topic, Some(body.try_get_u16().map_err(malformed)?))),
        _ => Err(ReadError::Malformed("a message that is not at QoS 0 or 1")),
    }
}

/// Takes the properties off, which only version 5 has.
fn properties(version: MqttVersion, body: &mut Bytes) -> Result<Bytes, ReadError> {
    // A broker of version 3.1.1 refuses version 5 in its own words, without properties.
    if version == MqttVersion::V311 || body.is_empty() {
        return Ok(Bytes::new());
    }
    match length(body)? {
        Some((properties, head)) if head + properties <= body.len() => {
            body.advance(head);
            Ok(body.split_to(properties))
        }
        _ => Err(ReadError::Malformed("properties")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::packet::{packet, string};
    use bytes::BufMut as _;
    use proptest::prelude::*;

    fn message(qos: u8, id: &[u8], properties: &[u8], payload: &[u8]) -> BytesMut {
        let mut body = BytesMut::new();
        string(&mut body, b"a/b");
        body.put_slice(id);
        body.put_slice(properties);
        body.put_slice(payload);
        packet(0x30 | qos << 1, &body)
    }

    async fn read(version: MqttVersion, bytes: &[u8], max: usize) -> Vec<Result<Packet, String>> {
        let (mut write, stream) = tokio::io::duplex(7);
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut write, &bytes)
                .await
                .unwrap();
        });
        let mut reader = Reader::new(stream, version, max);
        let mut all = Vec::new();
        loop {
            match reader.next().await {
                Ok(packet) => all.push(Ok(packet)),
                Err(ReadError::Closed) => return all,
                Err(error) => {
                    all.push(Err(error.to_string()));
                    return all;
                }
            }
        }
    }

    fn kept(id: Option<u16>, payload: Option<&'static [u8]>) -> Result<Packet, String> {
        Ok(Packet::Message(Message {
            id,
            topic: Bytes::from_static(b"a/b"),
            payload: payload.map(Bytes::from_static),
        }))
    }

    proptest! {
        /// What is no packet ends the reading with an error; no payload is larger than allowed.
        #[test]
        fn any_bytes_end_in_an_error_or_at_their_end(
            first in prop_oneof![Just(0x32_u8), Just(0x30), Just(0x90), Just(0x20), Just(0x40), any::<u8>()],
            body in proptest::collection::vec(any::<u8>(), 0..60),
            rest in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut bytes = packet(first, &body);
            bytes.put_slice(&rest);
            for version in [MqttVersion::V311, MqttVersion::V5] {
                for found in runtime.block_on(read(version, &bytes, 16)).into_iter().flatten() {
                    if let Packet::Message(Message { payload: Some(payload), .. }) = found {
                        prop_assert!(payload.len() <= 16);
                    }
                }
            }
        }

        #[test]
        fn a_message_is_read_as_it_was_written(
            id in 1_u16..,
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let bytes = message(1, &id.to_be_bytes(), &[], &payload);
            let all = runtime.block_on(read(MqttVersion::V311, &bytes, 300));
            let expected = Packet::Message(Message {
                id: Some(id),
                topic: Bytes::from_static(b"a/b"),
                payload: Some(payload.into()),
            });
            prop_assert_eq!(all, vec![Ok(expected)]);
        }
    }

    #[tokio::test]
    async fn packets_are_read_in_pieces() {
        let mut bytes = BytesMut::new();
        bytes.put_slice(&[0x20, 3, 1, 0, 0]);
        bytes.put_slice(&[0x40, 2, 1, 2, 0x40, 4, 1, 3, 0x87, 0]);
        bytes.put_slice(&[0x90, 5, 0, 7, 0, 1, 0x87]);
        bytes.put_slice(&message(1, &[0, 9], &[2, 1, 1], b"x"));
        bytes.put_slice(&message(0, &[], &[0], b""));
        bytes.put_slice(&[0xb0, 4, 0, 2, 0, 0x11]);
        bytes.put_slice(&[0xd0, 0, 0xe0, 1, 0x8e]);
        let id = 7;
        let codes = vec![1, 0x87];
        assert_eq!(
            read(MqttVersion::V5, &bytes, 100).await,
            [
                Ok(Packet::Connected {
                    code: 0,
                    is_known: true,
                    granted: Granted::default()
                }),
                Ok(Packet::Acknowledged { id: 258, code: 0 }),
                Ok(Packet::Acknowledged {
                    id: 259,
                    code: 0x87
                }),
                Ok(Packet::Subscribed { id, codes }),
                kept(Some(9), Some(b"x")),
                kept(None, Some(b"")),
                Ok(Packet::Unsubscribed { id: 2 }),
                Ok(Packet::Pong),
                Ok(Packet::Disconnect { code: 0x8e }),
            ]
        );
        let old = message(1, &[0, 9], &[], b"xy");
        let got = read(MqttVersion::V311, &old, 100).await;
        assert_eq!(got, [kept(Some(9), Some(b"xy"))]);
    }

    #[tokio::test]
    async fn a_large_payload_is_left_out_and_what_follows_is_read() {
        let mut bytes = message(1, &[1, 2], &[], &[7; 300_000]);
        bytes.put_slice(&message(1, &[0, 3], &[], &[7; 11]));
        bytes.put_slice(&message(1, &[0, 4], &[], &[7; 10]));
        let got = read(MqttVersion::V311, &bytes, 10).await;
        assert_eq!(got[..2], [kept(Some(258), None), kept(Some(3), None)]);
        assert_eq!(got[2], kept(Some(4), Some(&[7; 10])));
        assert_eq!(got.len(), 3);
    }

    #[tokio::test]
    async fn what_is_not_mqtt_ends_the_connection() {
        let cases: [&[u8]; 7] = [
            &[0x50, 2, 0, 1],
            &[0x20, 0xff, 0xff, 0xff, 0xff],
            &[0x20, 1, 0],
            &[0x30, 3, 0, 9, b'a'],
            &[0x34, 5, 0, 1, b'a', 0, 1],
            &[0x90, 1, 0],
            &[0x82, 0xff, 0xff, 0xff, 0x7f],
        ];
        for bytes in cases {
            let got = read(MqttVersion::V311, bytes, 10).await;
            assert!(matches!(&got[..], [Err(_)]), "{bytes:?}: {got:?}");
        }
        let got = read(MqttVersion::V5, &message(0, &[], &[9, 0], b""), 10).await;
        assert!(matches!(&got[..], [Err(_)]), "{got:?}");
    }
}
