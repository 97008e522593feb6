//! The packets of MQTT 3.1.1 and 5.0 that a client at QoS 1 sends.

use bytes::{BufMut as _, BytesMut};
use freehold_pipeline::endpoint::MqttVersion;

/// How long the broker keeps the session of a client that is away: a week.
const SESSION_EXPIRY_SECS: u32 = 7 * 24 * 3600;
/// The broker ends a connection that is silent for one and a half of this.
const KEEP_ALIVE_SECS: u16 = 30;
/// Messages that the broker sends without an acknowledgement, at most (version 5).
pub const RECEIVE_MAX: u16 = 200;

/// What the broker keeps of a client that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Its subscriptions, and the messages for them.
    Kept,
    /// Nothing.
    New,
}

/// Who connects.
pub struct Login<'a> {
    pub client_id: &'a str,
    pub session: Session,
    pub basic: Option<(&'a [u8], &'a [u8])>,
}

pub(super) fn string(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.put_slice(&bytes[..usize::from(length)]);
}

/// A packet of this first byte.
pub(super) fn packet(first: u8, body: &[u8]) -> BytesMut {
    packet_before(first, body, 0)
}

/// A packet whose body goes on with so many bytes that are sent behind it.
fn packet_before(first: u8, body: &[u8], more: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(body.len() + 5);
    out.put_u8(first);
    length(&mut out, body.len() + more);
    out.put_slice(body);
    out
}

/// A number of bytes, in one to four bytes.
fn length(out: &mut BytesMut, mut rest: usize) {
    loop {
        let (low, high) = ((rest & 0x7f) as u8, rest >> 7);
        out.put_u8(if high > 0 { low | 0x80 } else { low });
        rest = high;
        if rest == 0 {
            break;
        }
    }
}

/// CONNECT.
pub fn connect(version: MqttVersion, login: &Login<'_>) -> BytesMut {
    let mut body = BytesMut::new();
    string(&mut body, b"MQTT");
    body.put_u8(match version {
        MqttVersion::V311 => 4,
        MqttVersion::V5 => 5,
    });
    let user = if login.basic.is_some() { 0xc0 } else { 0 };
    let clean = match login.session {
        Session::Kept => 0,
        Session::New => 0x02,
    };
    body.put_u8(user | clean);
    body.put_u16(KEEP_ALIVE_SECS);
    match (version, login.session) {
        (MqttVersion::V311, _) => {}
        // The session ends with the connection.
        (MqttVersion::V5, Session::New) => body.put_u8(0),
        (MqttVersion::V5, Session::Kept) => {
            body.put_u8(8);
            body.put_u8(0x11);
            body.put_u32(SESSION_EXPIRY_SECS);
            body.put_u8(0x21);
            body.put_u16(RECEIVE_MAX);
        }
    }
    string(&mut body, login.client_id.as_bytes());
    if let Some((user, password)) = login.basic {
        string(&mut body, user);
        string(&mut body, password);
    }
    packet(0x10, &body)
}

/// SUBSCRIBE at QoS 1. With version 5 retained messages come only with a new subscription.
pub fn subscribe(version: MqttVersion, id: u16, filters: &[String]) -> BytesMut {
    let mut body = numbered(version, id);
    for filter in filters {
        string(&mut body, filter.as_bytes());
        body.put_u8(match version {
            MqttVersion::V311 => 0x01,
            MqttVersion::V5 => 0x11,
        });
    }
    packet(0x82, &body)
}

/// UNSUBSCRIBE.
pub fn unsubscribe(version: MqttVersion, id: u16, filters: &[String]) -> BytesMut {
    let mut body = numbered(version, id);
    for filter in filters {
        string(&mut body, filter.as_bytes());
    }
    packet(0xa2, &body)
}

/// The head of a body: the packet's id, and with version 5 no properties.
fn numbered(version: MqttVersion, id: u16) -> BytesMut {
    let mut body = BytesMut::new();
    body.put_u16(id);
    if version == MqttVersion::V5 {
        body.put_u8(0);
    }
    body
}

/// A message to publish.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    pub topic: &'a str,
    /// The user property `idempotency-key`, which version 5 has.
    pub key: &'a str,
    pub payload_bytes: usize,
}

/// PUBLISH at QoS 1, without its payload, which is sent behind it.
pub fn publish(version: MqttVersion, id: u16, message: &Publish<'_>) -> BytesMut {
    let mut body = BytesMut::new();
    string(&mut body, message.topic.as_bytes());
    body.put_u16(id);
    if version == MqttVersion::V5 {
        let mut properties = BytesMut::new();
        properties.put_u8(0x26);
        string(&mut properties, b"idempotency-key");
        string(&mut properties, message.key.as_bytes());
        length(&mut body, properties.len());
        body.put_slice(&properties);
    }
    packet_before(0x32, &body, message.payload_bytes)
}

/// PUBACK.
pub fn acknowledge(id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [0x40, 2, high, low]
}

/// PINGREQ.
pub const PING: [u8; 2] = [0xc0, 0];

/// DISCONNECT: the session stays.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_the_standard_says() {
        let message = Publish {
            topic: "a/b",
            key: "t/0/7",
            payload_bytes: 300,
        };
        let old = publish(MqttVersion::V311, 258, &message);
        assert_eq!(old[..], *b"\x32\xb3\x02\0\x03a/b\x01\x02");
        let new = publish(MqttVersion::V5, 258, &message);
        let properties = b"\x19\x26\0\x0fidempotency-key\0\x05t/0/7";
        let expected = [b"\x32\xcd\x02\0\x03a/b\x01\x02", &properties[..]].concat();
        assert_eq!(new[..], expected);
    }

    #[test]
    fn what_is_sent_is_as_the_standard_says() {
        let login = Login {
            client_id: "c",
            session: Session::Kept,
            basic: Some((b"u", b"p")),
        };
        let old = connect(MqttVersion::V311, &login);
        assert_eq!(
            old[..],
            *b"\x10\x13\0\x04MQTT\x04\xc0\0\x1e\0\x01c\0\x01u\0\x01p"
        );
        let basic = None;
        let new = connect(MqttVersion::V5, &Login { basic, ..login });
        let properties = b"\x08\x11\0\x09\x3a\x80\x21\0\xc8";
        let expected = [
            b"\x10\x16\0\x04MQTT\x05\0\0\x1e",
            &properties[..],
            b"\0\x01c",
        ]
        .concat();
        assert_eq!(new[..], expected);
        let session = Session::New;
        let once = Login {
            client_id: "c",
            session,
            basic,
        };
        let new = connect(MqttVersion::V5, &once);
        assert_eq!(new[..], *b"\x10\x0e\0\x04MQTT\x05\x02\0\x1e\0\0\x01c");
        let filters = ["a/#".to_owned()];
        let old = subscribe(MqttVersion::V311, 1, &filters);
        assert_eq!(old[..], *b"\x82\x08\0\x01\0\x03a/#\x01");
        let new = subscribe(MqttVersion::V5, 1, &filters);
        assert_eq!(new[..], *b"\x82\x09\0\x01\0\0\x03a/#\x11");
        let old = unsubscribe(MqttVersion::V311, 2, &filters);
        assert_eq!(old[..], *b"\xa2\x07\0\x02\0\x03a/#");
        let new = unsubscribe(MqttVersion::V5, 2, &filters);
        assert_eq!(new[..], *b"\xa2\x08\0\x02\0\0\x03a/#");
        assert_eq!(packet(0x30, &[0; 200])[..3], [0x30, 0xc8, 0x01]);
        assert_eq!(acknowledge(258), [0x40, 2, 1, 2]);
    }
}
