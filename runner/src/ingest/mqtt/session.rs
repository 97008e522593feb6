//! One connection to the broker: from its login to its end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use freehold_pipeline::mqtt::matches;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::time::{interval, timeout};

use super::Reading;
use crate::ingest::refusals::NotTaken;
use crate::ingest::writer::{NewRecord, WriteError};
use crate::mqtt::client::{Client, Who};
use crate::mqtt::packet::{
    DISCONNECT, PING, RECEIVE_MAX, Session as Kept, acknowledge, subscribe, unsubscribe,
};
use crate::mqtt::reader::{Message, Packet, ReadError};
use crate::mqtt::reason::reason;
use crate::mqtt::{PING_EVERY, SILENCE_MAX};

/// The code of a subscription that is granted: QoS 1.
const GRANTED: u8 = 1;
/// Bytes of messages that are not acknowledged; the last one may exceed it.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// How long the records that are under way may take when the stage ends.
const DRAIN_PATIENCE: Duration = Duration::from_secs(12);
/// How often the stage looks whether it is to end.
const TICK: Duration = Duration::from_millis(200);
/// The id of the only SUBSCRIBE of a connection.
const SUBSCRIBE_ID: u16 = 1;
/// The id of the UNSUBSCRIBE from what an earlier revision subscribed to in another way.
const CHANGE_ID: u16 = 2;
/// The id of the UNSUBSCRIBE at the end.
const LEAVE_ID: u16 = 3;
/// What to do where the broker has no shared subscriptions.
const NOT_SHARED: &str = "; remove shared: true, then the first replica reads alone";

/// Why a connection has ended.
pub enum Ended {
    /// The process was asked to end.
    Drained,
    /// The stage must not go on, for this reason.
    Stopped(String),
    /// The source does not work.
    Broken(String),
    /// Kafka did not take a message: the broker sends it again on the next connection.
    NotTaken,
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<NotTaken> for Ended {
    fn from(why: NotTaken) -> Self {
        match why {
            NotTaken::Stopped(error) => Self::Stopped(error),
            NotTaken::Broken(why) => Self::Broken(why),
            NotTaken::Later => Self::NotTaken,
        }
    }
}

/// A message on its way to Kafka.
struct Settled {
    id: Option<u16>,
    bytes: usize,
    outcome: Result<(), Ended>,
}

type Pending = FuturesOrdered<Pin<Box<dyn Future<Output = Settled> + Send>>>;

/// A connection to the broker.
pub struct Session {
    reading: Arc<Reading>,
    client: Client,
    pending: Pending,
    pending_bytes: usize,
    /// Pings without an answer.
    pings: usize,
}

impl Session {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// Why the source does not work.
    pub async fn open(reading: Arc<Reading>) -> Result<Self, Ended> {
        let settings = &reading.settings;
        let who = Who {
            client_id: &reading.client_id,
            session: Kept::Kept,
            secrets: &reading.shared.process.secrets,
        };
        let bytes_max = reading.shared.writer.record_bytes_max();
        // The topic is part of the record.
        let bytes_max = bytes_max.saturating_sub(64 << 10);
        let client = Client::open(&settings.broker, &who, bytes_max).await;
        let mut session = Self {
            client: client.map_err(Ended::Broken)?,
            pending: FuturesOrdered::new(),
            pending_bytes: 0,
            pings: 0,
            reading: Arc::clone(&reading),
        };
        if settings.shared && !session.client.granted.shares {
            let why = "the broker has no shared subscriptions";
            return Err(Ended::Broken(format!("{why}{NOT_SHARED}")));
        }
        let filters = reading.filters(settings.shared);
        let subscribe = subscribe(settings.broker.version, SUBSCRIBE_ID, &filters);
        session.send(&subscribe).await?;
        Ok(session)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        self.client.send(bytes).await.map_err(Ended::Broken)
    }

    async fn ping(&mut self) -> Result<(), Ended> {
        self.pings += 1;
        self.send(&PING).await
    }

    async fn unsubscribe(&mut self, id: u16, shared: bool) -> Result<(), Ended> {
        let filters = self.reading.filters(shared);
        let version = self.reading.settings.broker.version;
        self.send(&unsubscribe(version, id, &filters)).await
    }

    fn has_room(&self) -> bool {
        self.pending.len() < usize::from(RECEIVE_MAX) && self.pending_bytes < PENDING_BYTES_MAX
    }

    /// Takes messages until the connection ends.
    pub async fn run(&mut self) -> Ended {
        match self.take().await {
            Ok(()) => self.drain().await,
            Err(ended) => ended,
        }
    }

    async fn take(&mut self) -> Result<(), Ended> {
        let (mut pings, mut ticks) = (interval(PING_EVERY), interval(TICK));
        let mut heard = Instant::now();
        while self.reading.shared.goes_on() {
            let has_room = self.has_room();
            tokio::select! {
                packet = self.client.reader.next(), if has_room => {
                    heard = Instant::now();
                    self.handle(packet?).await?;
                }
                Some(settled) = self.pending.next() => self.settle(settled).await?,
                _ = pings.tick() => self.ping().await?,
                _ = ticks.tick() => {
                    // What is not read cannot be heard.
                    if !has_room {
                        heard = Instant::now();
                    }
                    if heard.elapsed() > SILENCE_MAX {
                        let why = "the broker does not answer pings";
                        return Err(Ended::Broken(why.to_owned()));
                    }
                }
            }
        }
        Ok(())
    }

    async fn drain(&mut self) -> Ended {
        let drained = async {
            if self.reading.leaves {
                self.leave().await?;
            }
            while let Some(settled) = self.pending.next().await {
                self.settle(settled).await?;
            }
            self.send(&DISCONNECT).await
        };
        match timeout(DRAIN_PATIENCE, drained).await {
            Ok(Err(Ended::Stopped(why))) => Ended::Stopped(why),
            _ => Ended::Drained,
        }
    }

    /// Leaves the shared subscription, and takes what the broker has for this session already.
    async fn leave(&mut self) -> Result<(), Ended> {
        self.unsubscribe(LEAVE_ID, true).await?;
        let (mut is_left, mut has_asked) = (false, false);
        loop {
            if is_left && self.pending.is_empty() && !has_asked {
                self.ping().await?;
                has_asked = true;
            }
            let has_room = self.has_room();
            tokio::select! {
                packet = self.client.reader.next(), if has_room => match packet? {
                    Packet::Unsubscribed { id: LEAVE_ID } => is_left = true,
                    Packet::Pong => {
                        self.pings = self.pings.saturating_sub(1);
                        // The broker answers in order: it has nothing more for this session.
                        if has_asked && self.pings == 0 {
                            return Ok(());
                        }
                    }
                    packet => {
                        has_asked = false;
                        self.handle(packet).await?;
                    }
                },
                Some(settled) = self.pending.next() => self.settle(settled).await?,
            }
        }
    }

    async fn handle(&mut self, packet: Packet) -> Result<(), Ended> {
        match packet {
            Packet::Message(message) => self.accept(message).await,
            Packet::Subscribed {
                id: SUBSCRIBE_ID,
                codes,
            } => self.subscribed(&codes).await,
            Packet::Disconnect { code } => {
                let why = format!("the broker has ended the connection: {}", reason(code));
                Err(Ended::Broken(why))
            }
            Packet::Pong => {
                self.pings = self.pings.saturating_sub(1);
                Ok(())
            }
            Packet::Unsubscribed { .. } => Ok(()),
            Packet::Subscribed { .. } | Packet::Connected { .. } | Packet::Acknowledged { .. } => {
                let why = "the broker answers what was not asked";
                Err(Ended::Broken(why.to_owned()))
            }
        }
    }

    /// The broker has answered SUBSCRIBE.
    async fn subscribed(&mut self, codes: &[u8]) -> Result<(), Ended> {
        let Reading {
            settings, shared, ..
        } = &*self.reading;
        match codes.iter().position(|code| *code != GRANTED) {
            Some(at) if codes[at] < 0x80 => {
                let why = format!("the broker grants QoS {}, and QoS 1 is needed", codes[at]);
                Err(Ended::Broken(why))
            }
            Some(at) => {
                let filter = settings.topics.get(at).map_or("", String::as_str);
                let why = format!("the broker refuses the subscription to {filter:?}");
                let way_out = if settings.shared { NOT_SHARED } else { "" };
                let why = format!("{why}: {}{way_out}", reason(codes[at]));
                Err(Ended::Broken(why))
            }
            None => {
                let (was_shared, shared) = (!settings.shared, shared.clone());
                // The session may have the other kind of subscription, from before a change. It is
                // left before the stage is ready: what comes then is given once.
                if self.client.is_known && self.client.granted.shares {
                    self.unsubscribe(CHANGE_ID, was_shared).await?;
                }
                shared.source_problem(None);
                shared.ready();
                Ok(())
            }
        }
    }

    /// Hands a message to Kafka's client, in the order in which messages come.
    async fn accept(&mut self, message: Message) -> Result<(), Ended> {
        let reading = Arc::clone(&self.reading);
        let filters = &reading.settings.topics;
        // The session still has the subscriptions of former revisions.
        if !filters.iter().any(|filter| matches(filter, &message.topic)) {
            let Message { id, .. } = message;
            let settled = Settled {
                id,
                bytes: 0,
                outcome: Ok(()),
            };
            self.pending
                .push_back(Box::pin(std::future::ready(settled)));
            return Ok(());
        }
        let bytes = message.topic.len() + message.payload.as_ref().map_or(0, Bytes::len);
        self.pending_bytes += bytes;
        let handed = match &message.payload {
            None => Err(WriteError::TooLarge {
                place: 0,
                why: "larger than the stage takes".to_owned(),
            }),
            Some(payload) => {
                let writer = &reading.shared.writer;
                let record = record(&message.topic, payload);
                writer.hand_over(&[record], None).await
            }
        };
        self.pending.push_back(Box::pin(async move {
            let Message { id, topic, payload } = message;
            let payload = payload.unwrap_or_default();
            let written = match handed {
                Ok(handed) => {
                    let record = record(&topic, &payload);
                    reading.shared.writer.finish(handed, &[record]).await
                }
                Err(error) => Err(error),
            };
            let outcome = match written {
                Ok(()) => {
                    reading.shared.taken(1, payload.len() as u64);
                    Ok(())
                }
                Err(WriteError::TooLarge { why, .. }) => {
                    let error = format!("a message is {why}");
                    let refused = reading
                        .refusals
                        .refuse(&reading.shared, Some(&topic), error);
                    refused.await.map_err(Ended::from)
                }
                Err(WriteError::Busy | WriteError::Away(_)) => Err(Ended::NotTaken),
            };
            Settled { id, bytes, outcome }
        }));
        Ok(())
    }

    /// Acknowledges a message that Kafka has.
    async fn settle(&mut self, settled: Settled) -> Result<(), Ended> {
        settled.outcome?;
        self.pending_bytes -= settled.bytes;
        match settled.id {
            Some(id) => self.send(&acknowledge(id)).await,
            None => Ok(()),
        }
    }
}

fn record<'a>(topic: &'a [u8], payload: &'a [u8]) -> NewRecord<'a> {
    NewRecord {
        key: Some(topic),
        value: payload,
    }
}

impl Reading {
    /// The topic filters as they are subscribed to (MQTT 5.0, section 4.8.2).
    fn filters(&self, shared: bool) -> Vec<String> {
        let topics = self.settings.topics.iter();
        topics
            .map(|topic| match shared {
                true => format!("$share/{}/{topic}", self.group),
                false => topic.clone(),
            })
            .collect()
    }
}
