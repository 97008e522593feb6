//! The operator's own metrics, in Prometheus' text format. The driver's metrics have no object's
//! name as a label; other modules have a table of their own and add theirs by
//! [`Metrics::register`].

use crate::api::conditions::Reason;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric as PrometheusMetric, Registry};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Names and values of the labels of a series.
pub type Labels = Vec<(&'static str, String)>;

/// What a metric counts or measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    /// The word in Prometheus' text format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric. What is registered and the page of metrics are made from these values.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name without the prefix, and for a counter without `_total`.
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
    /// A sentence without its full stop, which the format adds.
    pub meaning: &'static str,
}

impl Metric {
    /// The name by which it is queried.
    pub fn series(&self) -> String {
        let ending = match self.kind {
            MetricKind::Counter => "_total",
            MetricKind::Gauge | MetricKind::Histogram => "",
        };
        format!("{PREFIX}_{}{ending}", self.name)
    }
}

const PREFIX: &str = "freehold";
const RECONCILES: Metric = Metric {
    name: "reconciles",
    kind: MetricKind::Counter,
    labels: &["kind", "reason"],
    meaning: "Reconciles by kind and the reason of the state they left",
};
const RECONCILE_SECONDS: Metric = Metric {
    name: "reconcile_seconds",
    kind: MetricKind::Histogram,
    labels: &["kind"],
    meaning: "Seconds a reconcile took",
};
const LEADER: Metric = Metric {
    name: "leader",
    kind: MetricKind::Gauge,
    labels: &[],
    meaning: "1 on the replica that holds the lease",
};
/// The metrics of this module.
pub const ALL: [&Metric; 3] = [&RECONCILES, &RECONCILE_SECONDS, &LEADER];

/// The operator's metrics.
pub struct Metrics {
    registry: Mutex<Registry>,
    reconciles: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let all = Self {
            registry: Mutex::new(Registry::with_prefix(PREFIX)),
            reconciles: Family::default(),
            seconds: Family::new_with_constructor(|| {
                Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0])
            }),
            leader: Gauge::default(),
        };
        all.register(&RECONCILES, all.reconciles.clone());
        all.register(&RECONCILE_SECONDS, all.seconds.clone());
        all.register(&LEADER, all.leader.clone());
        all
    }
}

impl Metrics {
    /// Adds a metric with what counts it.
    pub fn register(&self, metric: &Metric, counted: impl PrometheusMetric) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(metric.name, metric.meaning, counted);
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, kind: &str, reason: Reason, took: Duration) {
        let kind = ("kind", kind.to_owned());
        self.reconciles
            .get_or_create(&vec![kind.clone(), ("reason", reason.name().to_owned())])
            .inc();
        self.seconds
            .get_or_create(&vec![kind])
            .observe(took.as_secs_f64());
    }

    /// Says whether this replica holds the lease.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(
            &mut text,
            &self.registry.lock().unwrap_or_else(PoisonError::into_inner),
        ) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}
