//! Tests of the sink by MQTT, with a broker of a few lines.

use super::*;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

/// What a broker on loopback does with the messages of one connection.
struct Script {
    /// The answer to CONNECT.
    connack: &'static [u8],
    /// The code for a payload; `None`: the connection closes.
    code: fn(&str) -> Option<u8>,
}

const TAKES: Script = Script {
    connack: b"\x20\x03\0\0\0",
    code: |_| Some(0),
};

/// The first byte and the body of a packet; `None`: the connection has ended.
fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    let (first, mut length, mut shift) = (byte[0], 0, 0);
    loop {
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first, body))
}

/// Follows the scripts, one for each connection. Returns the URL, and what gives each payload with
/// the number of its connection.
fn broker(scripts: Vec<Script>) -> (String, mpsc::Receiver<(usize, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt://{}", listener.local_addr().unwrap());
    let (got, gets) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, script) in scripts.into_iter().enumerate() {
            let (mut stream, _) = listener.accept().unwrap();
            while let Some((first, body)) = packet(&mut stream) {
                if first == 0x10 {
                    stream.write_all(script.connack).unwrap();
                }
                if first != 0x32 {
                    continue;
                }
                // The topic is t, the id follows, then the properties with their length.
                assert_eq!(body[..3], *b"\0\x01t");
                let payload = String::from_utf8(body[6 + usize::from(body[5])..].to_vec()).unwrap();
                let Some(code) = (script.code)(&payload) else {
                    break;
                };
                got.send((number, payload)).unwrap();
                let answer = [0x40, 4, body[3], body[4], code, 0];
                stream.write_all(&answer).unwrap();
            }
        }
    });
    (url, gets)
}

fn sink(url: &str) -> Mqtt {
    let text = format!(r#"{{"url": "{url}", "topic": "t"}}"#);
    Mqtt::new(
        serde_json::from_str(&text).unwrap(),
        "c".to_owned(),
        "/".as_ref(),
    )
}

/// A parcel of these values, from offset 5.
fn parcel(mqtt: &Mqtt, values: &[&str]) -> Parcel<Messages> {
    let mut parcel = Parcel::new(&"k".into(), 2, 5, mqtt.open());
    for (offset, value) in (5..).zip(values) {
        let record = Record {
            value: Some(value.as_bytes()),
            ..Record::at("k", 2, offset, 0)
        };
        mqtt.add(&mut parcel.package, &record).unwrap();
        parcel.next = offset + 1;
    }
    parcel
}

#[tokio::test]
async fn what_was_not_acknowledged_is_published_again_on_another_connection() {
    let closes = Script {
        code: |payload| (payload != "3").then_some(0x10),
        ..TAKES
    };
    let (url, got) = broker(vec![closes, TAKES]);
    let mqtt = sink(&url);
    let values = ["1", "2", "3", "4"];
    let parcel = parcel(&mqtt, &values);
    let Then::Retry { why, .. } = mqtt.deliver(&parcel).await else {
        panic!("the connection has ended");
    };
    assert!(why.starts_with(&url[7..]), "{why}");
    // The last acknowledgements can be lost with the connection.
    let done = parcel.done();
    assert!(done <= 2, "{done}");
    assert_eq!(mqtt.deliver(&parcel).await, Then::Done);
    assert_eq!((parcel.done(), mqtt.reached(&parcel, 4)), (4, 9));
    let first = values[..2].iter().map(|value| (0, *value));
    let again = values[done..].iter().map(|value| (1, *value));
    let expected: Vec<_> = first
        .chain(again)
        .map(|(at, value)| (at, value.to_owned()))
        .collect();
    assert_eq!(got.try_iter().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_record_that_the_broker_refuses_is_told_from_a_topic_that_it_refuses() {
    let (url, _got) = broker(vec![Script {
        code: |payload| match payload {
            "content" => Some(0x99),
            "right" => Some(0x87),
            _ => Some(0),
        },
        ..TAKES
    }]);
    let mqtt = sink(&url);
    let content = parcel(&mqtt, &["1", "content", "right", "2"]);
    let place = &url[7..];
    let why = format!("{place} refuses the record: the content is not as it wants");
    assert_eq!(mqtt.deliver(&content).await, Then::Refused { why });
    assert_eq!(content.done(), 1);
    // The stage handles the refused record, and goes on behind it.
    content.set_done(2);
    let not_authorized = Then::retry(format!("{place}: topic t: not authorized"));
    assert_eq!(mqtt.deliver(&content).await, not_authorized);
    assert_eq!(content.done(), 2);
}

#[tokio::test]
async fn after_a_refusal_no_record_goes_before_another_one() {
    let (url, got) = broker(vec![Script {
        code: |payload| Some(if payload == "2" { 0x97 } else { 0 }),
        ..TAKES
    }]);
    let mqtt = sink(&url);
    let parcel = parcel(&mqtt, &["1", "2", "3"]);
    let quota = Then::retry(format!("{}: topic t: a quota is exceeded", &url[7..]));
    assert_eq!(mqtt.deliver(&parcel).await, quota);
    assert_eq!(mqtt.deliver(&parcel).await, quota);
    let all: Vec<_> = got.try_iter().collect();
    let values: Vec<_> = all.iter().map(|(_, value)| &**value).collect();
    assert_eq!(values, ["1", "2", "3", "2"]);
}

#[tokio::test]
async fn a_record_above_the_largest_packet_is_refused_and_nothing_behind_it_is_published() {
    let (url, got) = broker(vec![Script {
        connack: b"\x20\x08\0\0\x05\x27\0\0\0\x40",
        ..TAKES
    }]);
    let mqtt = sink(&url);
    let large = "x".repeat(64);
    let parcel = parcel(&mqtt, &["1", &large, "2"]);
    let why = "larger than the broker's largest packet, 64 bytes".to_owned();
    assert_eq!(mqtt.deliver(&parcel).await, Then::Refused { why });
    assert_eq!(parcel.done(), 1);
    assert_eq!(got.try_iter().count(), 1);
}

#[tokio::test]
async fn a_broker_that_does_not_take_the_client_in_is_named() {
    let password = Script {
        connack: b"\x20\x03\0\x86\0",
        ..TAKES
    };
    let (url, _got) = broker(vec![
        password,
        Script {
            connack: b"\x20\x02\0\x01",
            ..TAKES
        },
        Script {
            connack: b"\x20\x05\0\0\x02\x24\0",
            ..TAKES
        },
    ]);
    let mqtt = sink(&url);
    let parcel = parcel(&mqtt, &["1"]);
    for why in [
        "the broker refuses the connection: user or password is wrong",
        "the broker refuses the connection: it does not speak this version of MQTT",
        "the broker takes messages at QoS 0 only, and QoS 1 is needed",
    ] {
        let then = Then::retry(format!("{}: {why}", &url[7..]));
        assert_eq!(mqtt.deliver(&parcel).await, then);
    }
    assert_eq!(parcel.done(), 0);
}
