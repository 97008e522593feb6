//! The faults of requests to the API server. They are off unless one of these environment variables
//! is set.
//! - `FREEHOLD_FAULT_EXIT_AFTER_WRITES=n`: the process exits after its n-th write to the API server
//!   or to Kafka, as if it had been killed there. Leases and events do not count, because no
//!   decision depends on them.
//! - `FREEHOLD_FAULT_LISTS_AT=<resourceVersion>`: the first answer to each list is that of this
//!   version, as from an API server that lags.
//! - `FREEHOLD_FAULT_DEAF_SECONDS=n`: a watch delivers events for n seconds, and then none for n
//!   seconds; after that its version is too old (410), and the events in between are never
//!   delivered.

use freehold_kafka_client::fault::wrote;
use http::{Method, Request, Uri};
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;
use tower::{Layer, Service};

const LISTS_AT: &str = "FREEHOLD_FAULT_LISTS_AT";
const DEAF_SECONDS: &str = "FREEHOLD_FAULT_DEAF_SECONDS";
/// `None`: reads are not disturbed, and not recorded.
static READS: LazyLock<Option<Reads>> = LazyLock::new(|| {
    let (lists_at, deaf) = (set(LISTS_AT), set(DEAF_SECONDS).map(Duration::from_secs));
    (lists_at.is_some() || deaf.is_some()).then(|| Reads {
        lists_at,
        deaf,
        asked: Mutex::default(),
    })
});

fn set<T: std::str::FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The faults of lists and watches.
struct Reads {
    /// The resourceVersion of the first lists.
    lists_at: Option<String>,
    deaf: Option<Duration>,
    /// Number of requests by URI.
    asked: Mutex<BTreeMap<String, u32>>,
}

impl Reads {
    /// The request to send instead and the delay before it; `None`: the request is not disturbed.
    /// Only lists and watches have a query.
    fn disturb(&self, uri: &Uri) -> Option<(String, Duration)> {
        let pairs = || {
            uri.query()
                .into_iter()
                .flat_map(|query| query.split('&'))
                .filter(|pair| !pair.is_empty())
        };
        if uri.query().is_none() || pairs().any(|pair| pair.starts_with("continue=")) {
            return None;
        }
        let kept: Vec<_> = pairs()
            .filter(|pair| {
                !pair.starts_with("resourceVersion") && !pair.starts_with("timeoutSeconds=")
            })
            .collect();
        let (watch, kept) = (
            kept.contains(&"watch=true"),
            format!("{}?{}", uri.path(), kept.join("&")),
        );
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let times = asked
            .entry(kept.clone())
            .and_modify(|times| *times += 1)
            .or_insert(1);
        match (watch, *times, &self.lists_at, self.deaf) {
            (false, 1, Some(version), _) => Some((
                format!("{kept}&resourceVersion={version}&resourceVersionMatch=Exact"),
                Duration::ZERO,
            )),
            (true, times, _, Some(deaf)) if times % 2 == 1 => {
                let version = pairs()
                    .find(|pair| pair.starts_with("resourceVersion="))
                    .unwrap_or_default();
                Some((
                    format!("{kept}&{version}&timeoutSeconds={}", deaf.as_secs()),
                    Duration::ZERO,
                ))
            }
            (true, _, _, Some(deaf)) => Some((format!("{kept}&resourceVersion=1"), deaf)),
            _ => None,
        }
    }
}

/// Counts writes to the API server and disturbs reads from it.
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

    fn poll_ready(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let counts = counts(request.method(), request.uri().path());
        let mut later = Duration::ZERO;
        if let Some(reads) = READS.as_ref().filter(|_| *request.method() == Method::GET)
            && let Some((instead, pause)) = reads.disturb(request.uri())
            && let Ok(instead) = instead.parse()
        {
            (*request.uri_mut(), later) = (instead, pause);
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            tokio::time::sleep(later).await;
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
        assert!(counts(
            &Method::PATCH,
            "/apis/apps/v1/namespaces/a/statefulsets/b"
        ));
        assert!(!counts(&Method::GET, "/api/v1/pods"));
        assert!(!counts(
            &Method::PATCH,
            "/apis/coordination.k8s.io/v1/namespaces/a/leases/b"
        ));
    }

    fn reads(
        lists_at: Option<&str>,
        deaf: Option<u64>,
    ) -> impl FnMut(&str) -> Option<(String, u64)> {
        let reads = Reads {
            lists_at: lists_at.map(str::to_owned),
            deaf: deaf.map(Duration::from_secs),
            asked: Mutex::default(),
        };
        move |uri| {
            reads
                .disturb(&uri.parse().unwrap())
                .map(|(instead, later)| (instead, later.as_secs()))
        }
    }

    #[test]
    fn the_first_of_each_list_is_old() {
        let mut ask = reads(Some("7"), None);
        let old = |uri: &str| {
            Some((
                format!("{uri}&resourceVersion=7&resourceVersionMatch=Exact"),
                0,
            ))
        };
        assert_eq!(
            ask("/api/v1/pods?&limit=500"),
            old("/api/v1/pods?limit=500")
        );
        assert_eq!(ask("/api/v1/pods?&limit=500&continue=x"), None);
        assert_eq!(ask("/api/v1/pods?&limit=500"), None);
        assert_eq!(
            ask("/api/v1/pods?&labelSelector=a"),
            old("/api/v1/pods?labelSelector=a")
        );
        assert_eq!(ask("/api/v1/namespaces/a/pods/b"), None);
        assert_eq!(ask("/api/v1/pods?&watch=true&resourceVersion=9"), None);
        assert_eq!(reads(None, None)("/api/v1/pods?&limit=500"), None);
    }

    #[test]
    fn a_watch_hears_for_a_while_and_then_misses_what_happens() {
        let mut ask = reads(None, Some(2));
        let watch = "/api/v1/pods?&watch=true&timeoutSeconds=290&resourceVersion=9";
        for _ in 0..2 {
            assert_eq!(
                ask(watch),
                Some((
                    "/api/v1/pods?watch=true&resourceVersion=9&timeoutSeconds=2".into(),
                    0
                ))
            );
            assert_eq!(
                ask(watch),
                Some(("/api/v1/pods?watch=true&resourceVersion=1".into(), 2))
            );
        }
        assert_eq!(ask("/api/v1/pods?&limit=500"), None);
    }
}
