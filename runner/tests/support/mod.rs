//! A real Kafka for the tests: brokers as processes on loopback.
#![allow(dead_code, reason = "each test file uses a part")]

pub mod broker;
pub mod copy;
pub mod mosquitto;
pub mod proxy;
pub mod records;
pub mod stage;

use std::fmt::Debug;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A folder of this test process, removed when it is dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("freehold-runner-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A port that was free a moment ago, and another one each time. It is below those that the system
/// gives to clients: a client could take it before it is listened at, or while a broker restarts.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let first = std::process::id().wrapping_mul(131);
        let place = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 12_000 + u16::try_from(place % 18_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Answers requests until the test process ends.
pub fn serve(listener: TcpListener, routes: axum::Router) {
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
    });
}

/// Limits are for an idle machine; a busy one gets as many times of it.
pub const PATIENCE: u32 = 5;

/// Waits until `is_true`; panics with `what` after [`PATIENCE`] times `limit`, and says so if it
/// took longer than `limit`.
pub fn until(what: &str, limit: Duration, is_true: impl FnMut() -> bool) {
    wait_for(what, limit, is_true, |is_true| *is_true);
}

/// As [`until`], for something that is asked for again and again. Returns the answer that is so;
/// nothing else that it says may be taken from another answer. A failure shows the last one.
pub fn wait_for<T: Debug>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> T,
    is_true: impl Fn(&T) -> bool,
) -> T {
    let began = Instant::now();
    let mut is_late = false;
    loop {
        let answer = ask();
        if is_true(&answer) {
            return answer;
        }
        let waited = began.elapsed();
        assert!(
            waited < limit * PATIENCE,
            "not within {waited:?}: {what}; at last: {answer:?}"
        );
        if waited > limit && !is_late {
            is_late = true;
            eprintln!("not within {limit:?}, still waiting: {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last bytes of a log, which may be written at this moment.
pub fn tail(log: &Path, bytes: usize) -> String {
    let all = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&all[all.len().saturating_sub(bytes)..]).into_owned()
}

/// Sends a signal to one process.
pub fn signal(name: &str, pid: u32) {
    let sent = std::process::Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status();
    assert!(sent.unwrap().success(), "kill -{name} {pid}");
}
