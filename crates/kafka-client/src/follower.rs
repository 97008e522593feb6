//! Follows the cluster's metadata log like an observer, without being a replica: it sends Fetch and
//! FetchSnapshot (KIP-595, KIP-630) to the active controller on the controllers' listener. It
//! applies only committed records.
//!
//! The cost for the controller does not depend on the number of topics: one answer each half second
//! while nothing changes (`metadata.max.idle.interval.ms`), and the changes themselves.

use super::connection::{Connection, Endpoint, first_of};
use super::mirror::Mirror;
use super::tls::TlsSettings;
use super::{AdminError, AdminResult};
use bytes::{Buf, Bytes, BytesMut};
use freehold_kafka::metadata_image::MetadataImage;
use freehold_kafka::metadata_record::{self, MetadataRecord};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::RecordBatchDecoder;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// The topic of the metadata log has a fixed id (KIP-516) and one partition.
const METADATA_TOPIC: &str = "__cluster_metadata";
const METADATA_TOPIC_ID: Uuid = Uuid::from_u128(1);
const MAX_WAIT_MS: i32 = 500;
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// A leader answers a Fetch within [`MAX_WAIT_MS`]. A machine that has died does not answer; by
/// this time another controller leads.
const FETCH_LIMIT: Duration = Duration::from_secs(3);
/// Time to connect to the controller that was named as leader; then the follower asks the others.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// If a controller does not accept the connection within this time, the next one is tried as well.
const CONNECT_PAUSE: Duration = Duration::from_millis(250);
const FETCH_BYTES_MAX: i32 = 8 * 1024 * 1024;
const SNAPSHOT_BYTES_MAX: i32 = 2 * 1024 * 1024;
/// Pause after an error, before the next controller is tried.
const PAUSE: Duration = Duration::from_millis(250);
/// Pause when the follower received records that are not committed yet: they are committed within
/// milliseconds.
const COMMIT_PAUSE: Duration = Duration::from_millis(2);
/// Bytes of a record batch before the part that its length counts: the base offset and the length.
const BATCH_HEADER_BYTES: usize = 12;

/// The addresses of the controllers, and the TLS settings for them.
#[derive(Clone)]
pub struct Controllers {
    pub endpoints: Vec<Endpoint>,
    pub tls: TlsSettings,
}

/// The follower's position in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    next: i64,
    /// Leader epoch of the previous record.
    epoch: i32,
    high_watermark: i64,
}

impl Position {
    const START: Self = Self {
        next: 0,
        epoch: 0,
        high_watermark: -1,
    };
}

/// The result of a Fetch.
enum Fetched {
    Records {
        records: Bytes,
        high_watermark: i64,
    },
    /// The log starts later: the state up to this offset is in a snapshot.
    Snapshot {
        end: i64,
        epoch: i32,
    },
    /// The records that the follower has read are no longer part of the log.
    Diverged,
    /// Another controller leads, or the leader epoch has changed.
    Elsewhere {
        leader: i32,
        epoch: i32,
    },
}

/// Follows the log for ever. The caller aborts the task when the cluster is gone.
pub async fn follow(controllers: watch::Receiver<Controllers>, mirror: Arc<Mirror>) {
    Follower::new(controllers, mirror, Position::START)
        .run()
        .await;
}

/// The metadata as of now, and the position from which [`history`] returns the later changes.
///
/// # Errors
/// No controller was found to be the leader within the limit.
pub async fn now(
    controllers: Controllers,
    limit: Duration,
) -> AdminResult<(MetadataImage, Position)> {
    let (_sender, controllers) = watch::channel(controllers);
    let mirror = Arc::new(Mirror::default());
    let mut follower = Follower::new(controllers, Arc::clone(&mirror), Position::START);
    let is_loaded = tokio::select! {
        () = follower.run() => false,
        is_loaded = mirror.wait(limit, |_| mirror.is_loaded()) => is_loaded,
    };
    if !is_loaded {
        return Err(AdminError::Unavailable("no controller leads".into()));
    }
    let image = mirror.read().clone();
    Ok((image, follower.position))
}

/// Every committed record from a position up to the end of the log at the time of the call, with
/// its offset. For tests that check afterwards what happened.
///
/// # Errors
/// No controller is the leader, or the log starts after the position.
pub async fn history(
    controllers: Controllers,
    from: Position,
) -> AdminResult<Vec<(i64, MetadataRecord)>> {
    let endpoints = controllers.endpoints.clone();
    let (_sender, controllers) = watch::channel(controllers);
    let mut last = AdminError::Unavailable("no controller leads".into());
    for endpoint in &endpoints {
        let tls = controllers.borrow().tls.clone();
        let connection = match Connection::open(endpoint, &tls, None).await {
            Ok(connection) => connection,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let mut follower = Follower::new(
            controllers.clone(),
            Arc::default(),
            Position {
                high_watermark: -1,
                ..from
            },
        );
        match follower.read_all(&connection).await {
            Ok(records) => return Ok(records),
            // The error of the leader says more than the other controllers' answer that they do not
            // lead.
            Err(error @ AdminError::Protocol(_)) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects to the leader if it is known, else to any controller, starting with a different one
/// each time.
async fn connect<'a>(
    endpoints: &'a [Endpoint],
    leader: Option<&'a Endpoint>,
    tried: usize,
    tls: &TlsSettings,
) -> AdminResult<(&'a Endpoint, Connection)> {
    if let Some(leader) = leader {
        let silent = |_| AdminError::Unavailable(format!("{} did not answer", leader.server_name));
        let opened = tokio::time::timeout(CONNECT_LIMIT, Connection::open(leader, tls, None))
            .await
            .map_err(silent)?;
        return Ok((leader, opened?));
    }
    let mut order: Vec<&Endpoint> = endpoints.iter().collect();
    if order.is_empty() {
        return Err(AdminError::Unavailable(
            "no controller has an address yet".into(),
        ));
    }
    order.rotate_left(tried % endpoints.len());
    first_of(&order, CONNECT_PAUSE, |endpoint| {
        Connection::open(endpoint, tls, None)
    })
    .await
}

struct Follower {
    controllers: watch::Receiver<Controllers>,
    mirror: Arc<Mirror>,
    position: Position,
    leader: Option<i32>,
    leader_epoch: i32,
    tried: usize,
    /// The image of the first load, until it contains all that was committed when the load began;
    /// and the offset at which it does.
    loading: Option<(MetadataImage, i64)>,
}

impl Follower {
    fn new(
        controllers: watch::Receiver<Controllers>,
        mirror: Arc<Mirror>,
        position: Position,
    ) -> Self {
        // A Fetch must not name an older leader epoch than that of the previous record.
        Self {
            controllers,
            mirror,
            position,
            leader: None,
            leader_epoch: position.epoch,
            tried: 0,
            loading: None,
        }
    }

    /// Runs for ever.
    async fn run(&mut self) {
        loop {
            if let Err(error) = self.session().await {
                tracing::debug!(%error, "following the metadata log was interrupted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Follows one controller until an error, or until another one leads.
    async fn session(&mut self) -> AdminResult<()> {
        let Controllers { endpoints, tls } = self.controllers.borrow_and_update().clone();
        let leader = self
            .leader
            .take()
            .and_then(|leader| endpoints.iter().find(|endpoint| endpoint.node_id == leader));
        let (endpoint, connection) = connect(&endpoints, leader, self.tried, &tls).await?;
        self.tried += 1;
        if !self.mirror.is_loaded() && self.loading.is_none() {
            (self.position, self.loading) =
                (Position::START, Some((MetadataImage::default(), i64::MAX)));
        }
        loop {
            match self.fetch(&connection).await? {
                Fetched::Records {
                    records,
                    high_watermark,
                } => self.take(records, high_watermark).await?,
                Fetched::Snapshot { end, epoch } => self.load(&connection, end, epoch).await?,
                Fetched::Diverged => {
                    tracing::warn!(?self.position, "the metadata log diverged; it is read anew");
                    (self.position, self.loading) =
                        (Position::START, Some((MetadataImage::default(), i64::MAX)));
                }
                Fetched::Elsewhere { leader, epoch } => {
                    self.leader_epoch = epoch.max(self.leader_epoch);
                    if leader != endpoint.node_id {
                        self.leader = (leader >= 0).then_some(leader);
                        return if leader >= 0 {
                            Ok(())
                        } else {
                            Err(AdminError::Unavailable("no controller leads".into()))
                        };
                    }
                }
            }
        }
    }

    /// Reads from the position up to what was committed at the first answer.
    async fn read_all(
        &mut self,
        connection: &Connection,
    ) -> AdminResult<Vec<(i64, MetadataRecord)>> {
        let (mut all, mut goal) = (Vec::new(), None);
        while goal.is_none_or(|goal| self.position.next < goal) {
            match self.fetch(connection).await? {
                Fetched::Records {
                    records,
                    high_watermark,
                } => {
                    if high_watermark >= 0 {
                        goal.get_or_insert(high_watermark);
                    }
                    let mut records = BytesMut::from(records);
                    while let Some(batch) = next_batch(&mut records)? {
                        all.extend(
                            batch
                                .records
                                .into_iter()
                                .filter(|(offset, _)| *offset >= self.position.next),
                        );
                        (self.position.next, self.position.epoch) =
                            (batch.end.max(self.position.next), batch.epoch);
                    }
                }
                Fetched::Elsewhere { epoch, .. } if epoch > self.leader_epoch => {
                    self.leader_epoch = epoch
                }
                Fetched::Elsewhere { .. } => {
                    return Err(AdminError::Unavailable("another controller leads".into()));
                }
                Fetched::Snapshot { .. } | Fetched::Diverged => {
                    return Err(AdminError::Protocol("the log begins later".into()));
                }
            }
        }
        all.retain(|(offset, _)| goal.is_some_and(|goal| *offset < goal));
        Ok(all)
    }

    async fn fetch(&self, connection: &Connection) -> AdminResult<Fetched> {
        let partition = m::fetch_request::FetchPartition::default()
            .with_current_leader_epoch(self.leader_epoch)
            .with_fetch_offset(self.position.next)
            .with_last_fetched_epoch(self.position.epoch)
            .with_partition_max_bytes(FETCH_BYTES_MAX)
            .with_high_watermark(self.position.high_watermark);
        let topic = m::fetch_request::FetchTopic::default()
            .with_topic_id(METADATA_TOPIC_ID)
            .with_partitions(vec![partition]);
        let request = m::FetchRequest::default()
            .with_replica_id(m::BrokerId(-1))
            .with_max_wait_ms(MAX_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES_MAX)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let response = connection.send(&request, 18, FETCH_LIMIT).await?;
        refuse("Fetch", response.error_code)?;
        let partition = response
            .responses
            .into_iter()
            .flat_map(|topic| topic.partitions)
            .next();
        let partition =
            partition.ok_or_else(|| AdminError::Protocol("Fetch without a partition".into()))?;
        let elsewhere = Fetched::Elsewhere {
            leader: partition.current_leader.leader_id.0,
            epoch: partition.current_leader.leader_epoch,
        };
        match ResponseError::try_from_code(partition.error_code) {
            Some(
                ResponseError::NotLeaderOrFollower
                | ResponseError::FencedLeaderEpoch
                | ResponseError::UnknownLeaderEpoch,
            ) => {
                return Ok(elsewhere);
            }
            Some(ResponseError::OffsetOutOfRange) => return Ok(Fetched::Diverged),
            _ => refuse("Fetch", partition.error_code)?,
        }
        if partition.diverging_epoch.end_offset >= 0 {
            return Ok(Fetched::Diverged);
        }
        if partition.snapshot_id.end_offset >= 0 {
            return Ok(Fetched::Snapshot {
                end: partition.snapshot_id.end_offset,
                epoch: partition.snapshot_id.epoch,
            });
        }
        Ok(Fetched::Records {
            records: partition.records.unwrap_or_default(),
            high_watermark: partition.high_watermark,
        })
    }

    /// Applies those of these records that are committed.
    async fn take(&mut self, records: Bytes, high_watermark: i64) -> AdminResult<()> {
        let mut records = BytesMut::from(records);
        let waiting = !records.is_empty();
        let before = self.position.next;
        let mut taken = Vec::new();
        while let Some(batch) = next_batch(&mut records)? {
            if batch.end > high_watermark {
                break;
            }
            taken.extend(
                batch
                    .records
                    .into_iter()
                    .filter(|(offset, _)| *offset >= self.position.next)
                    .map(|(_, record)| record),
            );
            (self.position.next, self.position.epoch) =
                (batch.end.max(self.position.next), batch.epoch);
        }
        self.position.high_watermark = high_watermark;
        match &mut self.loading {
            Some((image, goal)) => {
                // The goal is what was committed at the first answer: after that point changes are
                // small.
                if high_watermark >= 0 {
                    *goal = (*goal).min(high_watermark);
                }
                let mut concerned = Vec::new();
                taken
                    .into_iter()
                    .for_each(|record| image.apply(record, &mut concerned));
                if self.position.next >= *goal
                    && let Some((image, _)) = self.loading.take()
                {
                    self.mirror.replace(image, self.position.next);
                }
            }
            None if self.position.next > before => self.mirror.advance(taken, self.position.next),
            None => {}
        }
        if waiting && self.position.next == before {
            tokio::time::sleep(COMMIT_PAUSE).await;
        }
        Ok(())
    }

    /// Loads a snapshot: every record that makes up the state before `end`.
    async fn load(&mut self, connection: &Connection, end: i64, epoch: i32) -> AdminResult<()> {
        let mut image = MetadataImage::default();
        let (mut at, mut concerned, mut unread) = (0, Vec::new(), BytesMut::new());
        loop {
            let (size, chunk) = self.snapshot_chunk(connection, end, epoch, at).await?;
            at += i64::try_from(chunk.len()).unwrap_or(i64::MAX);
            if chunk.is_empty() && at < size {
                return Err(AdminError::Protocol("a snapshot ends early".into()));
            }
            unread.extend_from_slice(&chunk);
            while let Some(batch) = next_batch(&mut unread)? {
                batch
                    .records
                    .into_iter()
                    .for_each(|(_, record)| image.apply(record, &mut concerned));
                concerned.clear();
            }
            if at >= size {
                break;
            }
        }
        tracing::debug!(end, bytes = at, "loaded a snapshot of the metadata");
        self.position = Position {
            next: end,
            epoch,
            high_watermark: self.position.high_watermark,
        };
        self.loading = Some((image, i64::MAX));
        Ok(())
    }

    /// The size of the snapshot, and its bytes from `at` on.
    async fn snapshot_chunk(
        &self,
        connection: &Connection,
        end: i64,
        epoch: i32,
        at: i64,
    ) -> AdminResult<(i64, Bytes)> {
        let id = m::fetch_snapshot_request::SnapshotId::default()
            .with_end_offset(end)
            .with_epoch(epoch);
        let partition = m::fetch_snapshot_request::PartitionSnapshot::default()
            .with_current_leader_epoch(self.leader_epoch)
            .with_snapshot_id(id)
            .with_position(at);
        let topic = m::fetch_snapshot_request::TopicSnapshot::default()
            .with_name(m::TopicName(StrBytes::from_static_str(METADATA_TOPIC)))
            .with_partitions(vec![partition]);
        let request = m::FetchSnapshotRequest::default()
            .with_replica_id(m::BrokerId(-1))
            .with_max_bytes(SNAPSHOT_BYTES_MAX)
            .with_topics(vec![topic]);
        let response = connection.send(&request, 1, REQUEST_LIMIT).await?;
        refuse("FetchSnapshot", response.error_code)?;
        let partition = response
            .topics
            .into_iter()
            .flat_map(|topic| topic.partitions)
            .next();
        let partition = partition
            .ok_or_else(|| AdminError::Protocol("FetchSnapshot without a partition".into()))?;
        refuse("FetchSnapshot", partition.error_code)?;
        Ok((partition.size, partition.unaligned_records))
    }
}

fn refuse(api: &'static str, code: i16) -> AdminResult<()> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(AdminError::Refused {
            api,
            error: format!("{error:?}"),
            retriable: true,
            message: None,
        }),
    }
}

/// A record batch that was read completely.
struct Batch {
    /// The offset after its last record.
    end: i64,
    epoch: i32,
    records: Vec<(i64, MetadataRecord)>,
}

/// Removes the next complete batch from the bytes. `None`: the bytes hold no complete batch.
fn next_batch(bytes: &mut BytesMut) -> AdminResult<Option<Batch>> {
    let Some(length) = bytes
        .get(8..BATCH_HEADER_BYTES)
        .map(|mut length| length.get_i32())
    else {
        return Ok(None);
    };
    let length = usize::try_from(length)
        .map_err(|_| AdminError::Protocol("a batch of a negative length".into()))?;
    let whole = BATCH_HEADER_BYTES.saturating_add(length);
    if bytes.len() < whole {
        return Ok(None);
    }
    let batch = bytes.split_to(whole).freeze();
    // The header: base offset, length, leader epoch, magic, checksum, attributes, last offset delta
    // (KIP-98).
    if batch.len() < 27 {
        return Err(AdminError::Protocol("a batch without a header".into()));
    }
    let end = (&batch[0..8]).get_i64() + i64::from((&batch[23..27]).get_i32()) + 1;
    let epoch = (&batch[12..16]).get_i32();
    let set = RecordBatchDecoder::decode(&mut batch.clone())
        .map_err(|error| AdminError::Protocol(error.to_string()))?;
    let mut records = Vec::with_capacity(set.records.len());
    for record in set.records.iter().filter(|record| !record.control) {
        let value = record.value.as_deref().unwrap_or_default();
        if let Some(found) = metadata_record::decode(value)
            .map_err(|error| AdminError::Protocol(error.to_string()))?
        {
            records.push((record.offset, found));
        }
    }
    Ok(Some(Batch {
        end,
        epoch,
        records,
    }))
}
