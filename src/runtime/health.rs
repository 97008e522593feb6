//! `/healthz`, `/readyz` and `/metrics`.
//!
//! Live: no watch has been failing for [`FAILING_MAX`]. Ready: nothing is waited for that a person must do; a standby is ready too.

use super::census::Census;
use super::context::Context;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A watch that fails for so long is wedged; a restart may help. An API server that is away for an upgrade is back sooner.
const FAILING_MAX: Duration = Duration::from_secs(600);

#[derive(Clone, Default)]
pub struct Health {
    /// Since when each watch has been failing.
    failing: Arc<Mutex<BTreeMap<String, Instant>>>,
    /// What a person must do before this process begins.
    waiting: Arc<Mutex<Option<String>>>,
}

impl Health {
    pub fn saw(&self, watch: &str, good: bool) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            failing.remove(watch);
        } else {
            failing.entry(watch.to_owned()).or_insert_with(Instant::now);
        }
    }

    pub fn waits_for(&self, what: Option<String>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    fn waiting(&self) -> Option<String> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wedged(&self) -> Option<String> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.iter().find(|(_, since)| since.elapsed() > FAILING_MAX).map(|(watch, _)| watch.clone())
    }
}

/// What a probe is told: the trouble, with its status, or that all is well.
fn answer(trouble: Option<String>, status: StatusCode) -> (StatusCode, String) {
    trouble.map_or_else(|| (StatusCode::OK, "ok\n".to_owned()), |trouble| (status, format!("{trouble}\n")))
}

/// Serves until the process ends.
pub async fn serve(listener: tokio::net::TcpListener, health: Health, context: Arc<Context>) -> std::io::Result<()> {
    let ready = health.clone();
    let app = Router::new()
        .route(
            "/healthz",
            get(move || async move {
                let trouble = health.wedged().map(|watch| format!("the watch of {watch} has been failing"));
                answer(trouble, StatusCode::INTERNAL_SERVER_ERROR)
            }),
        )
        .route("/readyz", get(move || async move { answer(ready.waiting(), StatusCode::SERVICE_UNAVAILABLE) }))
        .route(
            "/metrics",
            get(move || async move {
                for (key, cluster) in context.clusters.all() {
                    context.metrics.holds(&key.to_string(), &Census::of(&key, &cluster.mirror.read(), &context.topics, &context.users));
                }
                context.metrics.text()
            }),
        );
    axum::serve(listener, app).await
}
