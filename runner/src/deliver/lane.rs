//! One partition on its way to the sink: a parcel that is filled, and one that is delivered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::backoff::Backoff;
use crate::deliver::policy::{Letters, Policy, Refused, Verdict};
use crate::deliver::sink::{OwnedRecord, Parcel, Sink, Then};
use crate::record::Record;
use freehold_pipeline::report::Stopped;

const WAIT_MIN: Duration = Duration::from_millis(400);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// A delivery without progress for this long is reported: an answer may take longer.
const SILENCE_MAX: Duration = Duration::from_secs(7);
/// Bytes of refused records that a parcel holds; the last one may exceed it.
const SET_ASIDE_BYTES: usize = 256 << 10;

/// One partition.
pub struct Lane<S: Sink> {
    pub topic: Arc<str>,
    pub partition: i32,
    /// Everything before it is delivered, or handled as refused.
    pub position: i64,
    /// What the group knows of it.
    pub committed: i64,
    /// The next offset to read.
    pub next: i64,
    /// Reading must begin again at `next`: what was read is dropped.
    pub is_rewound: bool,
    pub is_paused: bool,
    /// Time of the last record that was read, in milliseconds since 1970.
    pub time_ms: i64,
    open: Option<Open<S::Package>>,
    sealed: Option<Sealed<S::Package>>,
    under_way: Option<JoinHandle<Then>>,
    /// The last progress of what is under way.
    moved: Instant,
    not_before: Instant,
    backoff: Backoff,
    problem: Option<String>,
    /// The record before which the stage stops, when all before it is delivered.
    stop_at: Option<(OwnedRecord, String)>,
}

struct Open<P> {
    parcel: Parcel<P>,
    since: Instant,
    /// Records of it that the sink cannot take.
    set_aside: Vec<(OwnedRecord, String)>,
    set_aside_bytes: usize,
}

struct Sealed<P> {
    parcel: Arc<Parcel<P>>,
    set_aside: Vec<(OwnedRecord, String)>,
    /// Records of the package that are counted.
    counted: usize,
}

impl<S: Sink> Lane<S> {
    /// A partition that is read from an offset.
    pub fn new(topic: &str, partition: i32, position: i64, committed: i64) -> Self {
        let now = Instant::now();
        Self {
            topic: Arc::from(topic),
            partition,
            position,
            committed,
            next: position,
            is_rewound: false,
            is_paused: false,
            time_ms: 0,
            open: None,
            sealed: None,
            under_way: None,
            moved: now,
            not_before: now,
            backoff: Backoff::between(WAIT_MIN, WAIT_MAX),
            problem: None,
            stop_at: None,
        }
    }

    /// Takes a record that was read.
    pub fn push<L: Letters>(&mut self, sink: &S, policy: &Policy<L>, record: &Record<'_>) {
        if record.offset < self.next || self.stop_at.is_some() || self.is_rewound {
            return;
        }
        let first = std::mem::replace(&mut self.next, record.offset + 1);
        self.time_ms = record.timestamp.unwrap_or(self.time_ms);
        let open = self.open.get_or_insert_with(|| Open {
            parcel: Parcel::new(&self.topic, self.partition, first, sink.open()),
            since: Instant::now(),
            set_aside: Vec::new(),
            set_aside_bytes: 0,
        });
        if record.value.is_none() {
            open.parcel.left_out += 1;
        } else if let Err(why) = sink.add(&mut open.parcel.package, record) {
            let owned = OwnedRecord::of(record);
            if policy.stops() {
                self.next = record.offset;
                open.parcel.next = record.offset;
                self.stop_at = Some((owned, why));
                return;
            }
            open.set_aside_bytes += owned.size();
            open.set_aside.push((owned, why));
        }
        open.parcel.next = record.offset + 1;
    }

    /// Whether it must get no more records now.
    pub fn is_full(&self, sink: &S) -> bool {
        let is_full = |open: &Open<S::Package>| {
            sink.is_full(&open.parcel.package) || open.set_aside_bytes >= SET_ASIDE_BYTES
        };
        self.stop_at.is_some() || self.open.as_ref().is_some_and(is_full)
    }

    /// Bytes of memory.
    pub fn held(&self, sink: &S) -> usize {
        let open = self.open.as_ref();
        let open = open.map_or(0, |open| {
            sink.held(&open.parcel.package) + open.set_aside_bytes
        });
        let sealed = self.sealed.as_ref();
        open + sealed.map_or(0, |sealed| sink.held(&sealed.parcel.package))
    }

    /// Bytes of memory that are free after the open parcel is delivered; 0 while another one is.
    pub fn could_free(&self, sink: &S) -> usize {
        match (&self.open, &self.sealed) {
            (Some(open), None) => sink.held(&open.parcel.package),
            _ => 0,
        }
    }

    /// Whether nothing waits to be delivered.
    pub fn is_idle(&self) -> bool {
        self.open.is_none() && self.sealed.is_none() && self.stop_at.is_none()
    }

    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// What does not work.
    pub fn problem(&self, now: Instant) -> Option<String> {
        let silent = now.saturating_duration_since(self.moved);
        match &self.problem {
            Some(why) => Some(why.clone()),
            None if self.is_under_way() && silent > SILENCE_MAX => {
                Some(format!("no answer for {} s", silent.as_secs()))
            }
            None => None,
        }
    }

    /// Seals the open parcel if none is sealed, and it is due.
    pub fn seal(&mut self, sink: &S, is_forced: bool, now: Instant) {
        if self.sealed.is_some() {
            return;
        }
        let is_full = self.is_full(sink);
        let is_due = |open: &mut Open<S::Package>| {
            is_forced || is_full || sink.is_due(now.saturating_duration_since(open.since))
        };
        let Some(mut open) = self.open.take_if(is_due) else {
            return;
        };
        if open.parcel.next == open.parcel.first {
            // It has nothing but the record before which the stage stops.
            return;
        }
        sink.seal(&mut open.parcel.package);
        // They are taken from the end.
        open.set_aside.reverse();
        self.sealed = Some(Sealed {
            parcel: Arc::new(open.parcel),
            set_aside: open.set_aside,
            counted: 0,
        });
    }

    /// Whether a delivery can begin now.
    pub fn can_begin(&self, now: Instant) -> bool {
        let has_work = self.sealed.is_some() || (self.open.is_none() && self.stop_at.is_some());
        has_work && !self.is_under_way() && now >= self.not_before
    }

    /// Handles the refused records of the sealed parcel, then begins to deliver it.
    pub fn begin<L: Letters>(
        &mut self,
        sink: &Arc<S>,
        policy: &mut Policy<L>,
        runtime: &Handle,
    ) -> Option<Stopped> {
        let Some(sealed) = &mut self.sealed else {
            let (record, why) = self.stop_at.clone()?;
            return self.refuse(policy, &record, &why);
        };
        if let Some((record, why)) = sealed.set_aside.last().cloned() {
            let stopped = self.refuse(policy, &record, &why);
            if self.problem.is_none()
                && let Some(sealed) = &mut self.sealed
            {
                sealed.set_aside.pop();
            }
            return stopped;
        }
        let (sink, parcel) = (Arc::clone(sink), Arc::clone(&sealed.parcel));
        self.moved = Instant::now();
        let delivery = async move { sink.deliver(&parcel).await };
        self.under_way = Some(runtime.spawn(delivery));
        None
    }

    fn refuse<L: Letters>(
        &mut self,
        policy: &mut Policy<L>,
        record: &OwnedRecord,
        why: &str,
    ) -> Option<Stopped> {
        let refused = Refused {
            topic: &self.topic,
            partition: self.partition,
            record,
            why,
        };
        match policy.refuse(&refused) {
            Verdict::Handled => self.works(),
            Verdict::Later(why) => self.wait(None, why),
            Verdict::Stop(stopped) => return Some(stopped),
        }
        None
    }

    /// Takes in how far the delivery has come, and its end.
    pub fn progress<L: Letters>(
        &mut self,
        sink: &S,
        policy: &mut Policy<L>,
        runtime: &Handle,
    ) -> Option<Stopped> {
        self.note_progress(sink, policy);
        let delivery = self.under_way.take_if(|delivery| delivery.is_finished())?;
        let then = runtime.block_on(delivery);
        let then = then.unwrap_or_else(|error| Then::retry(format!("the delivery broke: {error}")));
        self.note_progress(sink, policy);
        match then {
            Then::Done => {
                self.works();
                self.finish(sink, policy);
            }
            Then::Until { next } => {
                self.works();
                self.go_on_at(next, policy);
            }
            Then::Retry { after, why } => self.wait(after, why),
            Then::Refused { why } => return self.refused(sink, policy, &why),
        }
        None
    }

    fn note_progress<L: Letters>(&mut self, sink: &S, policy: &mut Policy<L>) {
        let Some(sealed) = &mut self.sealed else {
            return;
        };
        let done = sealed.parcel.done();
        if done > sealed.counted {
            policy.delivered((done - sealed.counted) as u64);
            sealed.counted = done;
            self.position = sink.reached(&sealed.parcel, done);
            self.moved = Instant::now();
            self.works();
        }
    }

    /// Drops the sealed parcel if all of it is delivered.
    fn finish<L: Letters>(&mut self, sink: &S, policy: &mut Policy<L>) {
        let Some(sealed) = &self.sealed else {
            return;
        };
        let parcel = &sealed.parcel;
        // A package without records is delivered as well.
        let is_whole = sink.record(&parcel.package, parcel.done()).is_none();
        if is_whole {
            policy.left_out(parcel.left_out);
            self.position = parcel.next;
            self.sealed = None;
        }
    }

    /// What comes before an offset is delivered already.
    fn go_on_at<L: Letters>(&mut self, next: i64, policy: &mut Policy<L>) {
        let end = self.sealed.take().map(|sealed| {
            policy.left_out(sealed.parcel.left_out);
            sealed.parcel.next
        });
        self.position = next;
        if end != Some(next) {
            // The records between were read, or are in a parcel that begins elsewhere.
            self.open = None;
            self.stop_at = None;
            self.next = next;
            self.is_rewound = true;
        }
    }

    /// Handles the record that the endpoint refuses.
    fn refused<L: Letters>(
        &mut self,
        sink: &S,
        policy: &mut Policy<L>,
        why: &str,
    ) -> Option<Stopped> {
        let parcel = Arc::clone(&self.sealed.as_ref()?.parcel);
        let done = parcel.done();
        let record = sink.record(&parcel.package, done)?;
        self.position = self.position.max(record.offset);
        let stopped = self.refuse(policy, record, why);
        if stopped.is_none()
            && self.problem.is_none()
            && let Some(sealed) = &mut self.sealed
        {
            parcel.set_done(done + 1);
            sealed.counted = done + 1;
            self.position = sink.reached(&parcel, done + 1);
            self.finish(sink, policy);
        }
        stopped
    }

    fn works(&mut self) {
        self.problem = None;
        self.backoff.reset();
    }

    fn wait(&mut self, after: Option<Duration>, why: String) {
        let wait = self.backoff.after_failure().max(after.unwrap_or_default());
        self.not_before = Instant::now() + wait;
        if self.problem.as_ref() != Some(&why) {
            let Self {
                topic, partition, ..
            } = self;
            tracing::warn!(%topic, partition, why, ?wait, "records are not delivered");
        }
        self.problem = Some(why);
    }

    /// What is under way is to end soon.
    pub fn halt(&self) {
        if let Some(sealed) = &self.sealed {
            sealed.parcel.halt();
        }
    }

    /// Whether the last try has failed.
    pub fn waits(&self) -> bool {
        self.problem.is_some()
    }
}

impl<S: Sink> Drop for Lane<S> {
    fn drop(&mut self) {
        if let Some(delivery) = &self.under_way {
            delivery.abort();
        }
    }
}
