//! The operator's own metrics, in Prometheus' text format. No label is an object's name.

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
        Self { registry, reconciles, seconds, leader }
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

    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}
