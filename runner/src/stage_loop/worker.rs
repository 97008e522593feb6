//! A producer with a thread of its own for the calls that wait: start, commit, abort. librdkafka
//! does not keep to the timeouts of all of them (librdkafka#5456), so the loop only waits for the
//! thread's answer, and for no longer than it wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::producer::{Ended, Position, Producer, ProducerError};

/// Threads of producers that were given up and are still stuck in a call. More than this many mean
/// that the process does not recover by itself.
pub const STUCK_MAX: usize = 4;

enum Job<G> {
    Start,
    Commit(Vec<Position>, G),
    Abort,
}

/// What the thread has done.
#[derive(Debug)]
pub enum Done {
    Started(Result<(), ProducerError>),
    Committed(Result<Ended, ProducerError>),
    Aborted(Result<Ended, ProducerError>),
}

/// A producer and its thread. Dropping it gives the producer up without waiting: the thread drops it
/// when its call returns.
pub struct Worker<P: Producer> {
    // Before `jobs`: the thread must be the last to hold the producer, because its drop can wait.
    producer: Arc<P>,
    jobs: Sender<Job<P::Group>>,
    done: Receiver<Done>,
    deadline: Option<Instant>,
    timeout: Duration,
}

impl<P: Producer> Worker<P> {
    /// Starts the thread, and the producer on it. `timeout` is the time for each call; `alive`
    /// counts the threads.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(
        producer: P,
        timeout: Duration,
        alive: &Arc<AtomicUsize>,
    ) -> std::io::Result<Self> {
        let producer = Arc::new(producer);
        let (jobs, work) = channel();
        let (report, done) = channel();
        let (held, counted) = (Arc::clone(&producer), Arc::clone(alive));
        alive.fetch_add(1, Ordering::Relaxed);
        let spawned = thread::Builder::new()
            .name("producer".to_owned())
            .spawn(move || {
                serve(&*held, &work, &report, timeout);
                drop(held);
                counted.fetch_sub(1, Ordering::Relaxed);
            });
        if let Err(error) = spawned {
            alive.fetch_sub(1, Ordering::Relaxed);
            return Err(error);
        }
        let mut worker = Self {
            producer,
            jobs,
            done,
            deadline: None,
            timeout,
        };
        worker.give(Job::Start);
        Ok(worker)
    }

    /// The producer, for the calls that do not wait. While the thread works only `serve` is allowed.
    pub fn producer(&self) -> &P {
        &self.producer
    }

    /// Commits the batch.
    pub fn commit(&mut self, positions: Vec<Position>, group: P::Group) {
        self.give(Job::Commit(positions, group));
    }

    /// Gives the batch up.
    pub fn abort(&mut self) {
        self.give(Job::Abort);
    }

    /// Waits for the thread's answer; None: not done yet.
    pub fn wait(&mut self, wait: Duration) -> Option<Done> {
        match self.done.recv_timeout(wait) {
            Ok(done) => {
                self.deadline = None;
                Some(done)
            }
            // A thread that died does not answer: the watchdog sees it.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Whether the thread works for longer than it may.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() > deadline)
    }

    fn give(&mut self, job: Job<P::Group>) {
        self.deadline = Some(Instant::now() + self.timeout + Duration::from_secs(5));
        // A thread that died does not answer: the watchdog sees it.
        let _ = self.jobs.send(job);
    }
}

fn serve<P: Producer>(
    producer: &P,
    work: &Receiver<Job<P::Group>>,
    report: &Sender<Done>,
    timeout: Duration,
) {
    while let Ok(job) = work.recv() {
        let done = match job {
            Job::Start => Done::Started(producer.start(timeout)),
            Job::Commit(positions, group) => {
                Done::Committed(producer.commit(&positions, &group, timeout))
            }
            Job::Abort => Done::Aborted(producer.abort(timeout)),
        };
        if report.send(done).is_err() {
            return;
        }
    }
}
