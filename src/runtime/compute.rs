//! Long computations, without I/O, inside of async tasks.

use std::sync::{Arc, LazyLock};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;
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

/// Work that waits for a child process runs one at a time: two children together could take the
/// memory of this process, and many would leave no thread to other tasks.
static ALONE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));

/// Runs work that waits for a child process, when no other does. It holds up no other task, in a
/// runtime of one thread either. If its caller gives up meanwhile, it is done to its end, and other
/// work waits for that.
pub async fn alone<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // The semaphore is never closed.
    let permit = Arc::clone(&ALONE).acquire_owned().await.ok();
    let done = spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    match done.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime ends, and its tasks with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

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
        let (started, has_started) = tokio::sync::oneshot::channel();
        let slow = move || {
            started.send(()).unwrap();
            std::thread::sleep(Duration::from_secs(2));
        };
        let is_given_up = tokio::select! {
            () = alone(slow) => false,
            _ = has_started => true,
        };
        assert!(is_given_up, "the other task waited for the work");
        let start = Instant::now();
        assert_eq!(alone(|| 1).await, 1);
        let waited = start.elapsed();
        assert!(waited > Duration::from_secs(1), "two at a time: {waited:?}");
    }
}
