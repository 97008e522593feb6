//! Leader election by a Lease (coordination.k8s.io/v1).
//!
//! Every write carries the resourceVersion that was read, so that of two candidates one wins. A lease counts as
//! expired when it has not changed for its duration by *our* clock since we first saw it so: clocks of other
//! machines are not trusted. A holder that cannot renew in time stops being one before another can take over.

use crate::kube_io;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use std::time::{Duration, Instant};

/// Takeover after a kill: at most this and one retry.
pub const DURATION: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
/// A holder gives up this long before others may take over.
const MARGIN: Duration = Duration::from_secs(2);

pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// What was seen last (holder and renewal), and when it was first seen.
    seen: Option<(String, Instant)>,
}

impl Elector {
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity, seen: None }
    }

    /// Returns once this process holds the lease: the version that it was written with.
    pub async fn acquire(&mut self) -> u64 {
        loop {
            match self.attempt().await {
                Ok(Some(lease)) => return kube_io::version(&lease.resource_version().unwrap_or_default()),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot read or take the lease"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews until it is lost; returns then.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < DURATION - MARGIN {
            tokio::time::sleep(RETRY).await;
            match tokio::time::timeout(RETRY, self.attempt()).await {
                Ok(Ok(Some(_))) => renewed = Instant::now(),
                Ok(Ok(None)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => tracing::warn!("no answer while renewing the lease"),
            }
        }
    }

    /// Lets go, so that a standby need not wait.
    pub async fn release(&self) -> kube::Result<()> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
        if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity)) {
            spec.holder_identity = Some(String::new());
            self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        }
        Ok(())
    }

    /// The lease, when this process holds it afterwards.
    async fn attempt(&mut self) -> kube::Result<Option<Lease>> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease { metadata: ObjectMeta { name: Some(self.name.clone()), ..Default::default() }, spec: Some(self.spec(0)) };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity {
            let mark = format!("{holder} {:?}", lease.resource_version());
            match &self.seen {
                Some((seen, since)) if *seen == mark && since.elapsed() > DURATION => {}
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
        lease.spec = Some(LeaseSpec { acquire_time: acquired.or(renewed.acquire_time.clone()), ..renewed });
        won(self.api.replace(&self.name, &PostParams::default(), &lease).await)
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

/// A conflict means that another was faster.
fn won(result: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
    match result {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}
