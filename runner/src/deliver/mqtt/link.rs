//! A connection that publishes messages of all partitions, and tells of each what the broker says.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use freehold_pipeline::endpoint::MqttVersion;
use freehold_pipeline::sink::MqttSink;
use tokio::sync::{mpsc, oneshot};
use tokio::time::interval;

use crate::mqtt::client::{Client, Who};
use crate::mqtt::packet::{DISCONNECT, PING, Publish, RECEIVE_MAX, Session, publish};
use crate::mqtt::reader::Packet;
use crate::mqtt::reason::reason;
use crate::mqtt::{PING_EVERY, SILENCE_MAX};

/// Messages that wait to be sent; those who publish wait when it is full.
const WAITING_MAX: usize = 32;
/// Bytes that are sent at once. Larger payloads are sent by themselves, without a copy.
const PIECE_BYTES: usize = 16 << 10;
/// An acknowledgement that takes longer never comes: MQTT asks again only on another connection.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// How often the connection looks whether the broker is still there.
const TICK: Duration = Duration::from_millis(500);

/// A message, and where its answer goes.
struct Order {
    key: String,
    payload: Bytes,
    answer: oneshot::Sender<u8>,
}

/// A message without an acknowledgement.
struct Flying {
    since: Instant,
    answer: oneshot::Sender<u8>,
}

/// A connection. It ends when this is dropped.
pub struct Link {
    orders: mpsc::Sender<Order>,
    topic: String,
    version: MqttVersion,
    packet_bytes_max: Option<u32>,
    ended: Arc<OnceLock<String>>,
}

/// A message on its way.
pub enum Way {
    /// The broker will answer with a code, or the connection ends.
    Sent(oneshot::Receiver<u8>),
    /// It is larger than a packet may be.
    TooLarge(String),
}

impl Link {
    /// Connects.
    ///
    /// # Errors
    /// Why there is no connection, without a secret.
    pub async fn open(sink: &MqttSink, client_id: &str, secrets: &Path) -> Result<Self, String> {
        let who = Who {
            client_id,
            // What is not acknowledged is published again: the broker need keep nothing.
            session: Session::New,
            secrets,
        };
        let client = Client::open(&sink.broker, &who, 0).await?;
        let granted = client.granted;
        if granted.qos_max == 0 {
            return Err("the broker takes messages at QoS 0 only, and QoS 1 is needed".to_owned());
        }
        let (orders, waiting) = mpsc::channel(WAITING_MAX);
        let ended = Arc::new(OnceLock::new());
        let mut work = Work {
            client,
            waiting,
            topic: sink.topic.clone(),
            version: sink.broker.version,
            window: usize::from(granted.receive_max.min(RECEIVE_MAX)),
            flying: HashMap::new(),
            last_id: 0,
        };
        let why = Arc::clone(&ended);
        tokio::spawn(async move {
            let end = work.run().await;
            if let Err(end) = end {
                tracing::warn!(end, "the connection to the broker has ended");
                // Known before those who wait for answers learn that there are none.
                let _ = why.set(end);
            }
        });
        Ok(Self {
            orders,
            topic: sink.topic.clone(),
            version: sink.broker.version,
            packet_bytes_max: granted.packet_bytes_max,
            ended,
        })
    }

    /// Whether it still publishes.
    pub fn is_open(&self) -> bool {
        !self.orders.is_closed()
    }

    /// Why it has ended.
    pub fn why(&self) -> String {
        let why = self.ended.get().cloned();
        why.unwrap_or_else(|| "the connection to the broker has ended".to_owned())
    }

    /// Publishes a message, in the order of the calls. Without a connection it has no answer.
    pub async fn publish(&self, key: String, payload: Bytes) -> Way {
        if let Some(max) = self.packet_bytes_max {
            let message = Publish {
                topic: &self.topic,
                key: &key,
                payload_bytes: payload.len(),
            };
            let bytes = publish(self.version, 0, &message).len() + payload.len();
            if bytes > max as usize {
                let why = format!("larger than the broker's largest packet, {max} bytes");
                return Way::TooLarge(why);
            }
        }
        let (answer, answered) = oneshot::channel();
        let order = Order {
            key,
            payload,
            answer,
        };
        // What is not sent is dropped, and its answer with it.
        let _ = self.orders.send(order).await;
        Way::Sent(answered)
    }
}

/// What the connection's task has.
struct Work {
    client: Client,
    waiting: mpsc::Receiver<Order>,
    topic: String,
    version: MqttVersion,
    /// Messages without an acknowledgement, at most.
    window: usize,
    flying: HashMap<u16, Flying>,
    last_id: u16,
}

impl Work {
    /// Publishes until nobody asks for it, which is no error, or the connection ends.
    async fn run(&mut self) -> Result<(), String> {
        let (mut pings, mut ticks) = (interval(PING_EVERY), interval(TICK));
        let mut heard = Instant::now();
        loop {
            let has_room = self.flying.len() < self.window;
            tokio::select! {
                packet = self.client.reader.next() => {
                    heard = Instant::now();
                    self.handle(packet.map_err(|error| error.to_string())?)?;
                }
                order = self.waiting.recv(), if has_room => {
                    let Some(order) = order else {
                        return self.client.send(&DISCONNECT).await;
                    };
                    self.send(order).await?;
                    // What came while it was sent is not read yet.
                    heard = Instant::now();
                }
                _ = pings.tick() => self.client.send(&PING).await?,
                _ = ticks.tick() => self.check(heard)?,
            }
        }
    }

    fn check(&self, heard: Instant) -> Result<(), String> {
        if heard.elapsed() > SILENCE_MAX {
            return Err("the broker does not answer pings".to_owned());
        }
        let oldest = self.flying.values().map(|flying| flying.since).min();
        match oldest {
            Some(since) if since.elapsed() > ANSWER_PATIENCE => Err(format!(
                "the broker has not acknowledged a message for {} s",
                ANSWER_PATIENCE.as_secs()
            )),
            _ => Ok(()),
        }
    }

    fn handle(&mut self, packet: Packet) -> Result<(), String> {
        match packet {
            Packet::Acknowledged { id, code } => {
                if let Some(flying) = self.flying.remove(&id) {
                    // Whoever does not wait any more has given the partition up.
                    let _ = flying.answer.send(code);
                }
                Ok(())
            }
            Packet::Pong => Ok(()),
            Packet::Disconnect { code } => Err(format!(
                "the broker has ended the connection: {}",
                reason(code)
            )),
            Packet::Message(_)
            | Packet::Subscribed { .. }
            | Packet::Unsubscribed { .. }
            | Packet::Connected { .. } => Err("the broker sends what was not asked for".to_owned()),
        }
    }

    /// Sends a message, and those that wait behind it, as far as they fit into one piece.
    async fn send(&mut self, first: Order) -> Result<(), String> {
        let (mut piece, mut next) = (BytesMut::new(), Some(first));
        while let Some(order) = next {
            let id = self.new_id();
            let message = Publish {
                topic: &self.topic,
                key: &order.key,
                payload_bytes: order.payload.len(),
            };
            piece.extend_from_slice(&publish(self.version, id, &message));
            let flying = Flying {
                since: Instant::now(),
                answer: order.answer,
            };
            self.flying.insert(id, flying);
            if order.payload.len() > PIECE_BYTES {
                self.client.send(&piece).await?;
                self.client.send(&order.payload).await?;
                // On a slow line the last byte leaves long after the first.
                if let Some(flying) = self.flying.get_mut(&id) {
                    flying.since = Instant::now();
                }
                return Ok(());
            }
            piece.extend_from_slice(&order.payload);
            let has_room = self.flying.len() < self.window && piece.len() < PIECE_BYTES;
            next = match has_room {
                true => self.waiting.try_recv().ok(),
                false => None,
            };
        }
        self.client.send(&piece).await
    }

    /// An id that no message has that is not acknowledged; never 0.
    fn new_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.flying.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }
}
