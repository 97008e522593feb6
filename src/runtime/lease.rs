//! Leader election by a Lease (coordination.k8s.io/v1).
//!
//! Every write carries the resourceVersion that was read, so that only one of two candidates wins.
//! Clocks of other machines are not trusted: a candidate takes a lease for expired when it has seen
//! no change of it for its duration, by its own clock. The holder counts its time from before it
//! sends a renewal, so that it always gives up before another candidate can take over. Then it ends
//! its process, from a thread of its own that other threads cannot delay.

use crate::kubernetes;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// The Lease.
pub const NAME: &str = "freehold";
/// After the holder was killed, another candidate takes over within this time and one retry.
pub const DURATION: Duration = Duration::from_secs(10);
/// A holder may ask for a longer duration, up to this one.
const DURATION_MAX: Duration = Duration::from_secs(300);
pub const RETRY: Duration = Duration::from_secs(2);
/// The holder gives up this long before others may take over.
const MARGIN: Duration = Duration::from_secs(2);

pub struct Elector {
    api: Api<Lease>,
    identity: String,
    /// The holder and renewal that were read last, and when they were first read.
    seen: Option<(String, Instant)>,
    /// When we sent the request that last renewed the lease.
    renewed: Option<Instant>,
}

impl Elector {
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            identity,
            seen: None,
            renewed: None,
        }
    }

    /// Returns once this process holds the lease: the version that it was written with.
    pub async fn acquire(&mut self) -> u64 {
        loop {
            match self.attempt().await {
                Ok(Some(lease)) => {
                    return kubernetes::version(&lease.resource_version().unwrap_or_default());
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot read or take the lease"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews until it is lost; returns then, at the latest [`MARGIN`] before another may take it.
    pub async fn hold(&mut self) {
        loop {
            let Some(renewed) = self.renewed else { return };
            let until = renewed + DURATION - MARGIN;
            let next = Instant::now() + RETRY;
            if next >= until {
                return tokio::time::sleep_until(until).await;
            }
            tokio::time::sleep_until(next).await;
            match timeout_at(until.min(next + RETRY), self.attempt()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => tracing::warn!("no answer while renewing the lease"),
            }
        }
    }

    /// Takes the lease from whoever holds it, for `duration`, without renewing it: for the end of
    /// an installation.
    ///
    /// # Errors
    /// What the API server answers.
    pub async fn seize(&self, duration: Duration) -> kube::Result<()> {
        let spec = |transitions| LeaseSpec {
            lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
            ..self.spec(transitions)
        };
        loop {
            let written = match self.api.get_opt(NAME).await? {
                None => self.create(spec(0)).await,
                Some(mut lease) => {
                    let transitions = lease
                        .spec
                        .as_ref()
                        .and_then(|spec| spec.lease_transitions)
                        .unwrap_or(0);
                    lease.spec = Some(spec(transitions + 1));
                    self.api.replace(NAME, &PostParams::default(), &lease).await
                }
            };
            if won(written)?.is_some() {
                return Ok(());
            }
        }
    }

    /// Gives the lease back, so that a standby need not wait for its end.
    pub async fn release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            return Ok(());
        };
        if let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        {
            spec.holder_identity = Some(String::new());
            self.api
                .replace(NAME, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    }

    /// The lease, if this process holds it afterwards.
    async fn attempt(&mut self) -> kube::Result<Option<Lease>> {
        // Others count from when they see the write, which is later.
        let asked = Instant::now();
        let lease = self.write().await?;
        if lease.is_some() {
            self.renewed = Some(asked);
        }
        Ok(lease)
    }

    async fn write(&mut self) -> kube::Result<Option<Lease>> {
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            return won(self.create(self.spec(0)).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let mark = format!("{holder} {:?}", lease.resource_version());
            let duration = Duration::from_secs(
                spec.lease_duration_seconds
                    .and_then(|seconds| u64::try_from(seconds).ok())
                    .unwrap_or(0),
            );
            match &self.seen {
                Some((seen, since))
                    if *seen == mark
                        && since.elapsed() > duration.clamp(DURATION, DURATION_MAX) => {}
                Some((seen, _)) if *seen == mark => return Ok(None),
                _ => {
                    self.seen = Some((mark, Instant::now()));
                    return Ok(None);
                }
            }
        }
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(holder != self.identity);
        let acquired = spec.acquire_time.filter(|_| holder == self.identity);
        let renewed = self.spec(transitions);
        lease.spec = Some(LeaseSpec {
            acquire_time: acquired.or(renewed.acquire_time.clone()),
            ..renewed
        });
        won(self.api.replace(NAME, &PostParams::default(), &lease).await)
    }

    async fn create(&self, spec: LeaseSpec) -> kube::Result<Lease> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                ..Default::default()
            },
            spec: Some(spec),
        };
        self.api.create(&PostParams::default(), &lease).await
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..Default::default()
        }
    }
}

/// A conflict means that another candidate was faster.
fn won(result: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
    match result {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

/// A candidate on a thread and a runtime of its own. Whatever other threads do, it renews the lease
/// in time, or ends the process in time when the lease is lost.
pub struct Candidate {
    acquired: oneshot::Receiver<u64>,
    release: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Candidate {
    /// `client` is called on the thread: a client belongs to the runtime that made it. `lost` is
    /// called there when the lease is lost, and must end the process.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn stand<C, L>(
        client: C,
        namespace: String,
        identity: String,
        lost: L,
    ) -> std::io::Result<Self>
    where
        C: FnOnce() -> kube::Result<Client> + Send + 'static,
        L: FnOnce() + Send + 'static,
    {
        let (elected, acquired) = oneshot::channel();
        let (release, released) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let campaign = async move {
            let client = match client() {
                Ok(client) => client,
                Err(error) => {
                    return tracing::error!(%error, "no client of the API server, and so no lease");
                }
            };
            let mut elector = Elector::new(client, &namespace, identity);
            let hold = async {
                // An error means that the process stops, and nothing waits for the lease.
                let _ = elected.send(elector.acquire().await);
                elector.hold().await;
            };
            tokio::select! {
                () = hold => lost(),
                released = released => {
                    if released.is_ok()
                        && let Err(error) = elector.release().await
                    {
                        tracing::warn!(
                            %error,
                            "cannot give the lease back; a standby takes it when it has expired"
                        );
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("lease".into())
            .spawn(move || runtime.block_on(campaign))?;
        Ok(Self {
            acquired,
            release,
            thread,
        })
    }

    /// Returns once this process holds the lease: the version that it was written with. `None`: it
    /// never will.
    pub async fn acquired(&mut self) -> Option<u64> {
        (&mut self.acquired).await.ok()
    }

    /// Gives the lease back: nothing may be written afterwards. Until this is called it is renewed.
    pub fn release(self) {
        let _ = self.release.send(());
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    /// An API server with one Lease.
    #[derive(Clone, Default)]
    struct Server {
        lease: Arc<Mutex<Option<Value>>>,
        writes: Arc<AtomicU32>,
        /// How long a write takes until it is answered.
        pause: Duration,
        /// Writes after which nothing is answered any more.
        deaf_after: Option<u32>,
    }

    impl Server {
        fn client(&self) -> Client {
            let server = self.clone();
            Client::new(
                tower::service_fn(move |request| server.clone().answer(request)),
                "n",
            )
        }

        async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
            let method = request.method().clone();
            if self
                .deaf_after
                .is_some_and(|writes| self.writes.load(Ordering::SeqCst) >= writes)
            {
                futures::future::pending::<()>().await;
            }
            let body = request.into_body().collect_bytes().await.unwrap();
            let answer = |code: u16, value: &Value| {
                Response::builder()
                    .status(code)
                    .body(Body::from(value.to_string().into_bytes()))
                    .unwrap()
            };
            if method == Method::GET {
                let lease = self.lease.lock().unwrap().clone();
                let missing = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "", "code": 404});
                return Ok(lease.map_or_else(|| answer(404, &missing), |lease| answer(200, &lease)));
            }
            let mut lease: Value = serde_json::from_slice(&body).unwrap();
            lease["metadata"]["resourceVersion"] =
                json!((self.writes.fetch_add(1, Ordering::SeqCst) + 1).to_string());
            *self.lease.lock().unwrap() = Some(lease.clone());
            tokio::time::sleep(self.pause).await;
            Ok(answer(200, &lease))
        }

        fn holder(&self) -> String {
            self.lease.lock().unwrap().as_ref().unwrap()["spec"]["holderIdentity"]
                .as_str()
                .unwrap()
                .to_owned()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_hears_nothing_gives_up_before_another_may_take_over() {
        let server = Server {
            pause: Duration::from_millis(1500),
            deaf_after: Some(1),
            ..Server::default()
        };
        let mut elector = Elector::new(server.client(), "n", "a".into());
        let asked = Instant::now();
        elector.acquire().await;
        elector.hold().await;
        assert!(
            asked.elapsed() <= DURATION - MARGIN,
            "{:?} after it asked",
            asked.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_goes_on_as_long_as_it_is_answered_and_another_waits() {
        let server = Server::default();
        let (mut first, mut second) = (
            Elector::new(server.client(), "n", "a".into()),
            Elector::new(server.client(), "n", "b".into()),
        );
        first.acquire().await;
        let both = futures::future::select(Box::pin(first.hold()), Box::pin(second.acquire()));
        assert!(
            tokio::time::timeout(Duration::from_secs(120), both)
                .await
                .is_err()
        );
        assert_eq!(server.holder(), "a");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_seized_is_lost_at_once_and_stays_so_for_as_long_as_was_said() {
        let server = Server::default();
        let (mut leader, end) = (
            Elector::new(server.client(), "n", "a".into()),
            Elector::new(server.client(), "n", "end".into()),
        );
        leader.acquire().await;
        end.seize(Duration::from_secs(120)).await.unwrap();
        let start = Instant::now();
        leader.hold().await;
        assert!(start.elapsed() <= RETRY * 2);
        leader.acquire().await;
        assert!(
            start.elapsed() >= Duration::from_secs(120),
            "{:?}",
            start.elapsed()
        );
    }

    #[test]
    fn the_lease_is_renewed_while_the_other_threads_are_busy_and_given_back_at_the_end() {
        let server = Server::default();
        let (made, lost) = (server.clone(), Arc::new(AtomicBool::new(false)));
        let noted = Arc::clone(&lost);
        let lost_now = move || noted.store(true, Ordering::SeqCst);
        let mut candidate =
            Candidate::stand(move || Ok(made.client()), "n".into(), "a".into(), lost_now).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            assert_eq!(candidate.acquired().await, Some(1));
            // No await: this runtime does nothing else meanwhile.
            let start = std::time::Instant::now();
            while server.writes.load(Ordering::SeqCst) < 3 {
                assert!(start.elapsed() < DURATION_MAX, "it is not renewed");
                std::thread::sleep(RETRY / 4);
            }
        });
        candidate.release();
        assert_eq!(server.holder(), "");
        assert!(!lost.load(Ordering::SeqCst));
    }
}
