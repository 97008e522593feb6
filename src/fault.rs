//! Fault injection for tests: the process ends after its n-th write to the API server or to Kafka, as if killed there.
//!
//! Off unless the environment says `FREEHOLD_FAULT_EXIT_AFTER_WRITES=n`. Leases and events do not count: nothing
//! is decided by them.

use http::{Method, Request};
use kafka_protocol::messages::ApiKey;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use tower::{Layer, Service};

pub const VARIABLE: &str = "FREEHOLD_FAULT_EXIT_AFTER_WRITES";
/// As a kill would leave it (128 + SIGKILL).
const EXIT_CODE: i32 = 137;
/// Writes that are left; `None`: as many as there are.
static LEFT: LazyLock<Option<AtomicU32>> = LazyLock::new(|| std::env::var(VARIABLE).ok()?.parse().ok().map(AtomicU32::new));

/// One write was answered.
fn wrote() {
    if let Some(left) = &*LEFT
        && left.fetch_sub(1, Ordering::SeqCst) <= 1
    {
        std::process::exit(EXIT_CODE);
    }
}

/// A request to a broker was answered.
pub fn asked_kafka(key: i16) {
    if ApiKey::try_from(key).is_ok_and(changes) {
        wrote();
    }
}

/// Requests of the admin client that change something.
fn changes(key: ApiKey) -> bool {
    use ApiKey as K;
    matches!(
        key,
        K::CreateTopics
            | K::DeleteTopics
            | K::CreatePartitions
            | K::IncrementalAlterConfigs
            | K::AlterPartitionReassignments
            | K::ElectLeaders
            | K::CreateAcls
            | K::DeleteAcls
            | K::AlterUserScramCredentials
            | K::AlterClientQuotas
            | K::UpdateFeatures
            | K::UnregisterBroker
            | K::AddRaftVoter
            | K::RemoveRaftVoter
    )
}

/// Counts writes to the API server.
#[derive(Clone, Copy)]
pub struct FaultLayer;

impl<S> Layer<S> for FaultLayer {
    type Service = FaultService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        FaultService { inner }
    }
}

#[derive(Clone)]
pub struct FaultService<S> {
    inner: S,
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
        let counts = counts(request.method(), request.uri().path());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if counts {
                wrote();
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
        assert!(changes(ApiKey::AlterPartitionReassignments) && !changes(ApiKey::DescribeQuorum) && !changes(ApiKey::Fetch));
    }
}
