//! Asks an HTTP endpoint for records, again and again.
//!
//! What it said last is known only to the process: after a start its present answer is read once
//! more. An answer counts as seen when Kafka has all of its records; until then it is asked for
//! again.

mod answer;

use std::ops::Range;
use std::time::{Duration, Instant};

use freehold_pipeline::block::Block;
use freehold_pipeline::report::Stopped;
use freehold_pipeline::source::HttpPollSource;
use freehold_pipeline::stage_document::StageDocument;
use tokio::time::sleep;

use super::Shared;
use super::refusals::{NotTaken, Refusals};
use super::writer::{NewRecord, WriteError};
use crate::backoff::Backoff;
use crate::http_client::secrets::Secrets;
use crate::stage_loop::{End, StageError};
use answer::{Answered, Endpoint, Failure, Seen};

/// Time between two tries, at first and at most: an endpoint that works again is read within 30 s.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(25);
/// How often the stage looks whether it is to end.
const TICK: Duration = Duration::from_millis(200);
/// An endpoint that is silent for so long is named.
const SILENCE_MAX: Duration = Duration::from_secs(7);
/// Records that are written together.
const TOGETHER: usize = 500;

/// What the loop needs to know.
struct Poll {
    endpoint: Endpoint,
    refusals: Refusals,
    shared: Shared,
    seen: Seen,
    /// An answer, and how many of its records Kafka has: the rest is written before the endpoint is
    /// asked again.
    begun: Option<(Answered, usize)>,
}

/// How one poll ended without success.
enum Ended {
    /// The process was asked to end.
    Drained,
    Stopped(String),
    Broken(Failure),
    /// Kafka did not take a record; its sink says why.
    NotTaken,
}

impl From<NotTaken> for Ended {
    fn from(why: NotTaken) -> Self {
        match why {
            NotTaken::Stopped(error) => Self::Stopped(error),
            NotTaken::Broken(why) => Self::Broken(why.into()),
            NotTaken::Later => Self::NotTaken,
        }
    }
}

/// Polls until the process is asked to end. Only the first replica does: the others would get the
/// same records.
///
/// # Errors
/// None at the moment: what does not work is tried again.
pub async fn run(
    settings: HttpPollSource,
    document: &StageDocument,
    block: &Block,
    shared: Shared,
) -> Result<End, StageError> {
    if shared.process.ordinal > 0 {
        return Ok(shared.stand_by().await);
    }
    let interval = Duration::from_millis(settings.interval.as_millis());
    let mut poll = Poll {
        endpoint: Endpoint::new(settings, &Secrets::of(&shared.process.secrets)),
        refusals: Refusals::of(document, block),
        seen: Seen::default(),
        shared: shared.clone(),
        begun: None,
    };
    let mut backoff = Backoff::between(WAIT_MIN, WAIT_MAX);
    while shared.goes_on() {
        let began = Instant::now();
        let until = match poll.once().await {
            Ok(()) => {
                backoff.reset();
                shared.source_problem(None);
                shared.ready();
                began + interval
            }
            Err(Ended::Drained) => break,
            Err(Ended::Stopped(error)) => {
                let stopped = Stopped {
                    block: Some(shared.source.to_string()),
                    error,
                    address: None,
                };
                shared.process.figures.set_stopped(stopped.clone());
                return Ok(End::Stopped(stopped));
            }
            Err(Ended::NotTaken) => Instant::now() + backoff.after_failure(),
            Err(Ended::Broken(Failure { why, after })) => {
                tracing::warn!(why, "the endpoint gives no records");
                shared.source_problem(Some(why));
                Instant::now() + backoff.after_failure().max(after.unwrap_or_default())
            }
        };
        while Instant::now() < until && shared.goes_on() {
            sleep(TICK.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }
    Ok(End::Drained)
}

impl Poll {
    async fn once(&mut self) -> Result<(), Ended> {
        let (answered, mut done) = match self.begun.take() {
            Some(begun) => begun,
            None => match self.ask().await? {
                Some(answered) => (answered, 0),
                None => return Ok(()),
            },
        };
        let written = self.write_from(&answered, &mut done).await;
        match written {
            Ok(()) => self.seen = answered.seen,
            Err(_) => self.begun = Some((answered, done)),
        }
        written
    }

    /// Writes the records of an answer behind the first `done`, which grows with what Kafka has.
    async fn write_from(&self, answered: &Answered, done: &mut usize) -> Result<(), Ended> {
        while let Some(places) = answered.places.get(*done..).filter(|left| !left.is_empty()) {
            if !self.shared.goes_on() {
                return Err(Ended::Drained);
            }
            let together = &places[..places.len().min(TOGETHER)];
            self.write(&answered.body, together).await?;
            *done += together.len();
        }
        Ok(())
    }

    /// Asks once, and names an endpoint that is silent.
    async fn ask(&self) -> Result<Option<Answered>, Ended> {
        let began = Instant::now();
        let mut asked = std::pin::pin!(self.endpoint.ask(&self.seen));
        loop {
            tokio::select! {
                answered = &mut asked => return answered.map_err(Ended::Broken),
                () = sleep(TICK) => {}
            }
            if !self.shared.goes_on() {
                return Err(Ended::Drained);
            }
            if began.elapsed() > SILENCE_MAX {
                let place = &self.endpoint.place;
                let why = format!("{place}: no answer for {} s", began.elapsed().as_secs());
                self.shared.source_problem(Some(why));
            }
        }
    }

    /// Writes records of a body, and waits until Kafka has them.
    async fn write(&self, body: &[u8], places: &[Range<usize>]) -> Result<(), Ended> {
        let record = |place: &Range<usize>| NewRecord {
            key: None,
            value: &body[place.clone()],
        };
        let writer = &self.shared.writer;
        let together: Vec<_> = places.iter().map(record).collect();
        match writer.write(&together, writer.hold()).await {
            Ok(()) => {}
            Err(WriteError::TooLarge { why, .. }) if places.len() == 1 => {
                let error = format!("a record is {why}");
                return Ok(self.refusals.refuse(&self.shared, None, error).await?);
            }
            // Which ones are too large is found one by one; others can come twice.
            Err(WriteError::TooLarge { .. }) => {
                for place in places {
                    Box::pin(self.write(body, std::slice::from_ref(place))).await?;
                }
                return Ok(());
            }
            Err(WriteError::Busy | WriteError::Away(_)) => return Err(Ended::NotTaken),
        }
        let bytes: usize = places.iter().map(Range::len).sum();
        self.shared.taken(places.len(), bytes as u64);
        Ok(())
    }
}
