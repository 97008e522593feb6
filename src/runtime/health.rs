//! `/healthz`, `/readyz` and `/metrics`.
//!
//! Live: no watch has been failing for longer than [`FAILING_MAX`]. Ready: the operator waits for
//! nothing that a person must do. A standby is ready too.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use kube::runtime::watcher;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A watch that has been failing for longer is stuck, and a restart may help. An API server that is
/// being upgraded is back sooner. A watch that the API server refuses is not stuck: a restart
/// brings no namespace and no right back, and would interrupt other work.
const FAILING_MAX: Duration = Duration::from_secs(600);

#[derive(Clone, Default)]
pub struct Health {
    /// Since when each watch has been failing.
    failing: Arc<Mutex<BTreeMap<String, Instant>>>,
    /// What a person must do before this process can start its work.
    waiting: Arc<Mutex<Option<String>>>,
}

impl Health {
    pub fn saw(&self, watch: &str, error: Option<&watcher::Error>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_none_or(is_refusal) {
            failing.remove(watch);
        } else {
            failing.entry(watch.to_owned()).or_insert_with(Instant::now);
        }
    }

    pub fn waits_for(&self, what: Option<String>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn waiting(&self) -> Option<String> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn stuck(&self) -> Option<String> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing
            .iter()
            .find(|(_, since)| since.elapsed() > FAILING_MAX)
            .map(|(watch, _)| watch.clone())
    }
}

/// Whether the API server refuses a watch: the namespace is gone, or the operator has no rights
/// there.
pub fn is_refusal(error: &watcher::Error) -> bool {
    use watcher::Error as E;
    match error {
        E::InitialListFailed(kube::Error::Api(answer))
        | E::WatchStartFailed(kube::Error::Api(answer))
        | E::WatchFailed(kube::Error::Api(answer))
        | E::WatchError(answer) => [403, 404].contains(&answer.code),
        _ => false,
    }
}

/// The answer to a probe: the trouble with its status code, or "ok".
fn answer(trouble: Option<String>, status: StatusCode) -> (StatusCode, String) {
    trouble.map_or_else(
        || (StatusCode::OK, "ok\n".to_owned()),
        |trouble| (status, format!("{trouble}\n")),
    )
}

/// Serves until the process ends. `metrics` gives the text of `/metrics`.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: tokio::net::TcpListener,
    health: Health,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
) -> std::io::Result<()> {
    let ready = health.clone();
    let app = Router::new()
        .route(
            "/healthz",
            get(move || async move {
                let trouble = health
                    .stuck()
                    .map(|watch| format!("the watch of {watch} has been failing"));
                answer(trouble, StatusCode::INTERNAL_SERVER_ERROR)
            }),
        )
        .route(
            "/readyz",
            get(move || async move { answer(ready.waiting(), StatusCode::SERVICE_UNAVAILABLE) }),
        )
        .route("/metrics", get(move || async move { metrics() }));
    axum::serve(listener, app).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn failed(code: u16) -> watcher::Error {
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(Status {
            code,
            ..Status::default()
        })))
    }

    #[test]
    fn a_watch_that_is_refused_is_not_stuck() {
        let health = Health::default();
        health.saw("gone", Some(&failed(403)));
        health.saw("gone", Some(&failed(404)));
        assert!(health.failing.lock().unwrap().is_empty());
        health.saw("silent", Some(&watcher::Error::NoResourceVersion));
        health.saw("broken", Some(&failed(500)));
        assert_eq!(health.failing.lock().unwrap().len(), 2);
        health.saw("broken", None);
        assert_eq!(health.failing.lock().unwrap().len(), 1);
    }
}
