//! The inventory of each cluster (topics and principals by who manages them) as metrics.

use crate::clusters::Clusters;
use crate::runtime::metrics::{Labels, Metric, MetricKind, Metrics};
use freehold_kafka::census::Census;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

const LABELS: &[&str] = &["cluster", "managed_by"];
const TOPICS: Metric = Metric {
    name: "topics",
    kind: MetricKind::Gauge,
    labels: LABELS,
    meaning: "Topics of a cluster by who manages them: freehold, nobody, kafka itself",
};
const PRINCIPALS: Metric = Metric {
    name: "principals",
    kind: MetricKind::Gauge,
    labels: LABELS,
    meaning: "Principals with ACLs, credentials or quotas by who manages them: freehold, nobody",
};
/// The metrics of this module.
pub const ALL: [&Metric; 2] = [&TOPICS, &PRINCIPALS];

/// The gauges of all clusters.
pub struct Inventory {
    topics: Family<Labels, Gauge>,
    principals: Family<Labels, Gauge>,
}

fn labels(cluster: &str, managed_by: &str) -> Labels {
    vec![
        ("cluster", cluster.to_owned()),
        ("managed_by", managed_by.to_owned()),
    ]
}

impl Inventory {
    /// An inventory with its gauges registered among the metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let (topics, principals) = (
            Family::<Labels, Gauge>::default(),
            Family::<Labels, Gauge>::default(),
        );
        metrics.register(&TOPICS, topics.clone());
        metrics.register(&PRINCIPALS, principals.clone());
        Self { topics, principals }
    }

    /// Counts the topics and principals of every connected cluster.
    pub fn count(&self, clusters: &Clusters) {
        for (key, cluster) in clusters.all() {
            self.set(&key.to_string(), &Census::of(&cluster.mirror.read()));
        }
    }

    fn set(&self, cluster: &str, census: &Census) {
        let set = |family: &Family<Labels, Gauge>, managed_by: &str, count: usize| {
            family
                .get_or_create(&labels(cluster, managed_by))
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        set(&self.topics, "freehold", census.managed_topics);
        set(&self.topics, "nobody", census.topics.len());
        set(&self.topics, "kafka", census.internal_topics);
        set(&self.principals, "freehold", census.managed_principals);
        set(&self.principals, "nobody", census.principals.len());
    }

    /// Removes the metrics of a cluster that is gone.
    pub fn forget(&self, cluster: &str) {
        for managed_by in ["freehold", "nobody", "kafka"] {
            self.topics.remove(&labels(cluster, managed_by));
            self.principals.remove(&labels(cluster, managed_by));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::Reason;
    use crate::runtime::metrics;
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[test]
    fn a_cluster_that_is_gone_is_counted_no_more() {
        let metrics = Metrics::default();
        let inventory = Inventory::new(&metrics);
        inventory.set("n/a", &Census::default());
        inventory.set("n/b", &Census::default());
        inventory.forget("n/a");
        let text = metrics.text();
        assert!(!text.contains("n/a") && text.contains("n/b"), "{text}");
    }

    /// The page of metrics is made from the tables: what is served is in them, with these labels.
    #[test]
    fn every_metric_that_is_served_is_in_a_table() {
        let metrics = Metrics::default();
        metrics.reconciled("Topic", Reason::Ready, Duration::from_millis(1));
        Inventory::new(&metrics).set("n/a", &Census::default());
        let (text, mut served) = (metrics.text(), BTreeSet::new());
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE freehold_"))
        {
            served.insert(line.to_owned());
        }
        let all = || metrics::ALL.into_iter().chain(ALL);
        let tables: BTreeSet<String> = all()
            .map(|metric| format!("{} {}", metric.name, metric.kind.name()))
            .collect();
        assert_eq!(served, tables, "{text}");
        for metric in all() {
            let sample = text
                .lines()
                .find(|line| line.starts_with(&metric.series()))
                .unwrap();
            let labels = metric
                .labels
                .iter()
                .all(|label| sample.contains(&format!("{label}=\"")));
            assert!(labels, "{sample}");
            assert_eq!(metric.labels.is_empty(), !sample.contains('{'), "{sample}");
        }
    }
}
