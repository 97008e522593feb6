//! `/healthz`, `/readyz`, `/metrics` and `/status` of a stage.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use freehold_pipeline::report::StageReport;

use crate::figures::{Figures, now_ms};
use crate::flow::BlockFigures;
use crate::metrics;
use crate::status::{self, Replica};

/// The loop never waits for longer than this: questions to the cluster and waiting for room have
/// shorter limits. After it the loop is taken as dead.
const BEAT_AGE_MAX: Duration = Duration::from_secs(60);

/// What the routes read.
#[derive(Clone)]
struct Served {
    figures: Arc<Figures>,
    blocks: BlockFigures,
    replica: Arc<Replica>,
}

/// The routes.
pub fn router(figures: Arc<Figures>, blocks: BlockFigures, replica: Replica) -> Router {
    let served = Served {
        figures,
        blocks,
        replica: Arc::new(replica),
    };
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status_report))
        .with_state(served)
}

async fn health(State(Served { figures, .. }): State<Served>) -> impl IntoResponse {
    let age = figures.since_beat();
    if age < BEAT_AGE_MAX {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let text = format!("the loop stands still for {} s\n", age.as_secs());
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn ready(State(Served { figures, .. }): State<Served>) -> impl IntoResponse {
    if figures.ready() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let text = figures.problem().map_or_else(
        || "waits for its partitions\n".to_owned(),
        |problem| format!("{}: {}\n", problem.operation, problem.message),
    );
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn metrics_text(State(served): State<Served>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    let blocks = served.blocks.lock().unwrap_or_else(PoisonError::into_inner);
    (kind, metrics::text(&served.figures, blocks.all(), now_ms()))
}

async fn status_report(State(served): State<Served>) -> Json<StageReport> {
    let blocks = served.blocks.lock().unwrap_or_else(PoisonError::into_inner);
    let (replica, figures) = (&served.replica, &served.figures);
    Json(status::report(
        replica,
        figures,
        &blocks,
        blocks.age(),
        now_ms(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn a_stage_is_alive_while_its_loop_moves_and_ready_when_it_reads() {
        let figures = Arc::new(Figures::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        let routes = router(figures.clone(), BlockFigures::default(), Replica::default());
        runtime.spawn(async move { axum::serve(listener, routes).await });
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 503"));
        figures.beat();
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
        figures.trouble("start", None, "no right");
        let answer = get(address, "/readyz");
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("start: no right\n"));
        figures.set_assigned(Some(&[]));
        figures.set_polled();
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").contains("freehold_runner_ready 1"));
        let answer = get(address, "/status");
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let report: StageReport = serde_json::from_str(body).unwrap();
        // Whether it is ready depends on how long that takes already.
        assert_eq!(report.message, "start: no right");
        figures.progress();
        let answer = get(address, "/status");
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let report: StageReport = serde_json::from_str(body).unwrap();
        assert_eq!((report.ready, report.message.as_str()), (true, ""));
    }
}
