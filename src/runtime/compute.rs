//! Long computations, without I/O, inside of async tasks.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

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
static ALONE: Semaphore = Semaphore::const_new(1);

/// Runs work that waits for a child process, when no other does.
pub async fn alone<T>(work: impl FnOnce() -> T) -> T {
    // The semaphore is never closed.
    let _permit = ALONE.acquire().await.ok();
    compute(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
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
}
