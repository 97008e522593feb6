//! The operator's own metrics, in Prometheus' text format. No label is an object's name, but for what is said of a cluster.

use super::census::Census;
use crate::conditions::Reason;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

type Labels = Vec<(&'static str, String)>;

pub struct Metrics {
    registry: Registry,
    reconciles: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram>,
    leader: Gauge,
    topics: Family<Labels, Gauge>,
    principals: Family<Labels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("freehold");
        let reconciles = Family::<Labels, Counter>::default();
        let seconds = Family::<Labels, Histogram>::new_with_constructor(|| Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0]));
        let leader = Gauge::default();
        registry.register("reconciles", "Reconciles by kind and the reason of the state they left", reconciles.clone());
        registry.register("reconcile_seconds", "Seconds a reconcile took", seconds.clone());
        registry.register("leader", "1 on the replica that holds the lease", leader.clone());
        let (topics, principals) = (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
        registry.register("topics", "Topics of a cluster by who manages them: freehold, nobody, kafka itself", topics.clone());
        registry.register(
            "principals",
            "Principals with ACLs, credentials or quotas by who manages them: freehold, nobody",
            principals.clone(),
        );
        Self { registry, reconciles, seconds, leader, topics, principals }
    }
}

impl Metrics {
    pub fn reconciled(&self, kind: &str, reason: Reason, took: Duration) {
        let kind = ("kind", kind.to_owned());
        self.reconciles.get_or_create(&vec![kind.clone(), ("reason", reason.name().to_owned())]).inc();
        self.seconds.get_or_create(&vec![kind]).observe(took.as_secs_f64());
    }

    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// What a cluster holds, by who manages it.
    pub fn holds(&self, cluster: &str, census: &Census) {
        let set = |family: &Family<Labels, Gauge>, managed_by: &str, count: usize| {
            let labels = vec![("cluster", cluster.to_owned()), ("managed_by", managed_by.to_owned())];
            family.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set(&self.topics, "freehold", census.managed_topics);
        set(&self.topics, "nobody", census.topics.len());
        set(&self.topics, "kafka", census.internal_topics);
        set(&self.principals, "freehold", census.managed_principals);
        set(&self.principals, "nobody", census.principals.len());
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}
