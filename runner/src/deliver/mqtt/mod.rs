//! Publishes records to a topic of an MQTT broker, each partition in its order.
//!
//! All partitions share one connection. A partition has up to [`WINDOW`] records under way; after a
//! connection that broke, those that the broker has not acknowledged are published again, in order.
//! A record without a value is left out, as in the sink of HTTP.

mod link;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use freehold_pipeline::endpoint::host_and_port;
use freehold_pipeline::mqtt::SCHEMES;
use freehold_pipeline::sink::MqttSink;
use tokio::sync::Mutex;

use crate::deliver::package::Package;
use crate::deliver::sink::{OwnedRecord, Parcel, Sink, Then};
use crate::mqtt::reason::reason;
use crate::record::Record;
use link::{Link, Way};

/// Records of a package.
const PACKAGE_RECORDS: usize = 500;
/// Records of a partition that are under way: enough for a broker that is far away.
const WINDOW: usize = 100;

/// Records of one partition.
#[derive(Debug, Default)]
pub struct Messages {
    package: Package,
    /// The broker did not take one of them: from then on each is published alone, so that none goes
    /// before one that is published again.
    alone: AtomicBool,
}

/// The sink.
pub struct Mqtt {
    sink: MqttSink,
    client_id: String,
    secrets: PathBuf,
    /// `host:port`: what problems name.
    place: String,
    state: Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    None,
    Open(Arc<Link>),
    /// The last try to connect has failed then.
    Failed(Instant, String),
}

/// What a code of PUBACK means (MQTT 5.0, section 3.4.2.1).
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    /// The record is at fault: its size, or its content.
    Refused,
    /// The topic, the user, or the moment is.
    Again,
}

impl Answer {
    fn of(code: u8) -> Self {
        match code {
            // Taken, and taken although nobody subscribes.
            0x00 | 0x10 => Self::Taken,
            0x83 | 0x95 | 0x99 => Self::Refused,
            _ => Self::Again,
        }
    }
}

impl Mqtt {
    /// A sink that connects as this client.
    pub fn new(sink: MqttSink, client_id: String, secrets: &Path) -> Self {
        let (host, port) = host_and_port(&sink.broker.url, &SCHEMES).unwrap_or_default();
        Self {
            sink,
            client_id,
            secrets: secrets.to_owned(),
            place: format!("{host}:{port}"),
            state: Mutex::default(),
        }
    }

    /// The connection. Partitions that wait for it together try once.
    async fn link(&self) -> Result<Arc<Link>, String> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        match &*state {
            State::Open(link) if link.is_open() => return Ok(Arc::clone(link)),
            State::Failed(at, why) if *at > asked => return Err(why.clone()),
            _ => {}
        }
        match Link::open(&self.sink, &self.client_id, &self.secrets).await {
            Ok(link) => {
                let link = Arc::new(link);
                *state = State::Open(Arc::clone(&link));
                Ok(link)
            }
            Err(why) => {
                *state = State::Failed(Instant::now(), why.clone());
                Err(why)
            }
        }
    }

    /// Waits for what became of a record: `None`, it is taken.
    async fn answer(&self, link: &Link, way: Way, alone: &AtomicBool) -> Option<Then> {
        let answered = match way {
            Way::TooLarge(why) => return Some(Then::Refused { why }),
            Way::Sent(answered) => answered.await,
        };
        let Ok(code) = answered else {
            return Some(self.retry(&link.why()));
        };
        let answer = Answer::of(code);
        if answer != Answer::Taken {
            alone.store(true, Ordering::Relaxed);
        }
        match answer {
            Answer::Taken => None,
            Answer::Refused => Some(Then::Refused {
                why: format!("{} refuses the record: {}", self.place, reason(code)),
            }),
            Answer::Again => {
                let topic = &self.sink.topic;
                Some(self.retry(&format!("topic {topic}: {}", reason(code))))
            }
        }
    }

    fn retry(&self, why: &str) -> Then {
        match why.starts_with(&self.place) {
            true => Then::retry(why),
            false => Then::retry(format!("{}: {why}", self.place)),
        }
    }
}

impl Sink for Mqtt {
    type Package = Messages;
    const FLUSHES: bool = false;

    fn open(&self) -> Messages {
        Messages::default()
    }

    fn add(&self, messages: &mut Messages, record: &Record<'_>) -> Result<(), String> {
        messages.package.push(OwnedRecord::of(record));
        Ok(())
    }

    fn held(&self, messages: &Messages) -> usize {
        messages.package.bytes
    }

    fn is_full(&self, messages: &Messages) -> bool {
        messages.package.is_full(PACKAGE_RECORDS)
    }

    fn is_due(&self, _: Duration) -> bool {
        true
    }

    fn seal(&self, _: &mut Messages) {}

    async fn deliver(&self, parcel: &Parcel<Messages>) -> Then {
        let link = match self.link().await {
            Ok(link) => link,
            Err(why) => return self.retry(&why),
        };
        let Messages { package, alone } = &parcel.package;
        let window = match alone.load(Ordering::Relaxed) {
            true => 1,
            false => WINDOW,
        };
        let mut ways = VecDeque::new();
        loop {
            let sent = parcel.done() + ways.len();
            let has_room = ways.len() < window && !matches!(ways.back(), Some(Way::TooLarge(_)));
            if let Some(record) = package.records.get(sent)
                && has_room
                && !parcel.is_halted()
            {
                let key = format!("{}/{}/{}", parcel.topic, parcel.partition, record.offset);
                let value = record.value.clone().unwrap_or_default();
                ways.push_back(link.publish(key, value).await);
                continue;
            }
            let Some(way) = ways.pop_front() else {
                return Then::Done;
            };
            if let Some(then) = self.answer(&link, way, alone).await {
                return then;
            }
            parcel.set_done(parcel.done() + 1);
        }
    }

    fn record<'p>(&self, messages: &'p Messages, place: usize) -> Option<&'p OwnedRecord> {
        messages.package.records.get(place)
    }

    fn reached(&self, parcel: &Parcel<Messages>, done: usize) -> i64 {
        parcel.package.package.reached(parcel, done)
    }
}
