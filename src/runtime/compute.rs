//! Long computations, without I/O, inside of async tasks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

/// Runs a computation. In a runtime with several threads, other tasks of this thread move to
/// another thread meanwhile.
pub fn compute<T>(work: impl FnOnce() -> T) -> T {
    let threads = Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if threads {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// Who waits for work that is done alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A review at admission. The API server waits a few seconds for it, and the object is refused
    /// then.
    Review,
    /// A reconcile, which may wait. After a start there is one for each Pipeline.
    Reconcile,
}

/// Work that waits for a child process runs one at a time: two children together could take the
/// memory of this process, and many would leave no thread to other tasks.
struct Alone {
    one: Arc<Semaphore>,
    /// Only one reconcile waits for `one`, so that a review never waits for many of them.
    reconciles: Arc<Semaphore>,
    /// Reviews that wait for `one`.
    reviews: AtomicUsize,
}

impl Default for Alone {
    fn default() -> Self {
        let semaphore = || Arc::new(Semaphore::new(1));
        Self {
            one: semaphore(),
            reconciles: semaphore(),
            reviews: AtomicUsize::new(0),
        }
    }
}

static ALONE: LazyLock<Alone> = LazyLock::new(Alone::default);

/// Counts a review for as long as it waits, also if it is given up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn count(reviews: &'a AtomicUsize) -> Self {
        reviews.fetch_add(1, Ordering::SeqCst);
        Self(reviews)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

type Turn = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);

/// The semaphores are never closed.
async fn acquire(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(semaphore).acquire_owned().await.ok()
}

impl Alone {
    async fn turn(&self, asker: Asker) -> Turn {
        if asker == Asker::Review {
            let _waiting = Waiting::count(&self.reviews);
            return (acquire(&self.one).await, None);
        }
        let of_reconciles = acquire(&self.reconciles).await;
        let mut turn = acquire(&self.one).await;
        // The reviews that wait now go first; those that come later do not, so that a reconcile has
        // its turn as well.
        if self.reviews.load(Ordering::SeqCst) > 0 {
            drop(turn);
            turn = acquire(&self.one).await;
        }
        (turn, of_reconciles)
    }

    async fn run<T: Send + 'static>(
        &self,
        asker: Asker,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let turn = self.turn(asker).await;
        let done = spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        match done.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(done) => done,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends, and its tasks with it.
            Err(Err(_)) => std::future::pending().await,
        }
    }
}

/// Runs work that waits for a child process, when no other does; reviews come first. It holds up no
/// other task, in a runtime of one thread either. If its caller gives up meanwhile, it is done to
/// its end, and other work waits for that.
pub async fn alone<T: Send + 'static>(
    asker: Asker,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    ALONE.run(asker, work).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::{Mutex, mpsc};
    use std::time::Duration;

    #[test]
    fn other_tasks_go_on_while_it_works() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (done, other) = mpsc::channel();
        let worked = runtime.block_on(async {
            tokio::spawn(async move {
                tokio::spawn(async move { done.send(()) });
                compute(|| other.recv_timeout(Duration::from_secs(120)))
            })
            .await
        });
        assert_eq!(worked.unwrap(), Ok(()));
        assert_eq!(compute(|| 1), 1, "with no runtime at all");
    }

    /// The webhook's runtime has one thread.
    #[tokio::test]
    async fn work_that_waits_for_a_child_holds_up_no_other_task_and_may_be_given_up() {
        let alone = Alone::default();
        let (started, has_started) = tokio::sync::oneshot::channel();
        let (release, held) = mpsc::channel::<()>();
        let ended = Arc::new(AtomicBool::new(false));
        let ending = Arc::clone(&ended);
        let slow = move || {
            started.send(()).unwrap();
            let _ = held.recv();
            ending.store(true, Ordering::SeqCst);
        };
        let is_given_up = tokio::select! {
            () = alone.run(Asker::Review, slow) => false,
            _ = has_started => true,
        };
        assert!(is_given_up, "the other task waited for the work");
        let next = alone.run(Asker::Review, move || ended.load(Ordering::SeqCst));
        let releasing = async {
            // Time in which two at a time would be seen.
            tokio::time::sleep(Duration::from_millis(100)).await;
            release.send(()).unwrap();
        };
        let (is_after, ()) = futures::join!(next, releasing);
        assert!(is_after, "two at a time");
    }

    #[tokio::test]
    async fn reviews_do_not_wait_for_the_reconciles_of_many_pipelines() {
        let alone = Alone::default();
        let (release, held) = mpsc::channel::<()>();
        let order = Arc::new(Mutex::new(Vec::new()));
        let work = |asker: Asker| {
            let order = Arc::clone(&order);
            alone.run(asker, move || order.lock().unwrap().push(asker))
        };
        let first = alone.run(Asker::Reconcile, move || held.recv().is_ok());
        let releasing = async { release.send(()).unwrap() };
        futures::join!(
            first,
            work(Asker::Reconcile),
            work(Asker::Reconcile),
            work(Asker::Review),
            work(Asker::Review),
            work(Asker::Reconcile),
            releasing,
        );
        use Asker::{Reconcile, Review};
        assert_eq!(
            *order.lock().unwrap(),
            [Review, Review, Reconcile, Reconcile, Reconcile]
        );
    }

    #[tokio::test]
    async fn a_review_that_gave_up_keeps_no_reconcile_waiting() {
        let alone = Alone::default();
        let (release, held) = mpsc::channel::<()>();
        let first = alone.run(Asker::Review, move || held.recv().is_ok());
        let mut review = Box::pin(alone.run(Asker::Review, || ()));
        let rest = async {
            assert!(futures::poll!(&mut review).is_pending());
            drop(review);
            assert_eq!(alone.reviews.load(Ordering::SeqCst), 0);
            release.send(()).unwrap();
            alone.run(Asker::Reconcile, || 1).await
        };
        assert_eq!(futures::join!(first, rest).1, 1);
    }
}
