//! Fault injection for tests: the process ends after its n-th write to the API server, as if killed there.
//!
//! Off unless the environment says `FREEHOLD_FAULT_EXIT_AFTER_WRITES=n`. Leases and events do not count: nothing
//! is decided by them.

use http::{Method, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tower::{Layer, Service};

pub const VARIABLE: &str = "FREEHOLD_FAULT_EXIT_AFTER_WRITES";
/// As a kill would leave it (128 + SIGKILL).
const EXIT_CODE: i32 = 137;

/// Counts writes; `None`: does nothing.
#[derive(Clone)]
pub struct FaultLayer {
    left: Option<Arc<AtomicU32>>,
}

impl FaultLayer {
    pub fn from_env() -> Self {
        let count = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok());
        Self { left: count.map(|count: u32| Arc::new(AtomicU32::new(count))) }
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = FaultService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        FaultService { inner, left: self.left.clone() }
    }
}

#[derive(Clone)]
pub struct FaultService<S> {
    inner: S,
    left: Option<Arc<AtomicU32>>,
}

fn counts(method: &Method, path: &str) -> bool {
    *method != Method::GET && !path.contains("/leases") && !path.contains("/events")
}

impl<S, B> Service<Request<B>> for FaultService<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
    S::Response: 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let left = self.left.clone().filter(|_| counts(request.method(), request.uri().path()));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if let Some(left) = left
                && left.fetch_sub(1, Ordering::SeqCst) <= 1
            {
                std::process::exit(EXIT_CODE);
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_the_world_counts() {
        assert!(counts(&Method::PATCH, "/apis/apps/v1/namespaces/a/statefulsets/b"));
        assert!(!counts(&Method::GET, "/api/v1/pods"));
        assert!(!counts(&Method::PATCH, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b"));
    }
}
