//! What Pipelines do, as metrics of the operator: the sums over the replicas of a stage, as they
//! said last. Those of a Pipeline that is gone, or whose runners do not answer, are removed.

use crate::api::pipeline::Pipeline;
use crate::kinds::pipeline::status::Runs;
use crate::runtime::metrics::{Labels, Metric, MetricKind, Metrics};
use freehold_pipeline::report::{BlockReport, merged, of_graph};
use kube::ResourceExt;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

const LAG: Metric = Metric {
    name: "pipeline_lag_records",
    kind: MetricKind::Gauge,
    labels: &["pipeline", "stage"],
    meaning: "Records that a stage has not processed yet",
};
const RATE: Metric = Metric {
    name: "pipeline_block_records_per_second",
    kind: MetricKind::Gauge,
    labels: &["pipeline", "block", "what"],
    meaning: "Records that came to a block, left it, or failed in it, over the last 10 seconds",
};
const FAILING: Metric = Metric {
    name: "pipeline_block_failing",
    kind: MetricKind::Gauge,
    labels: &["pipeline", "block"],
    meaning: "1 for a block that fails on records, cannot reach what it reads or writes, or has stopped",
};
/// The metrics of this module.
pub const ALL: [&Metric; 3] = [&LAG, &RATE, &FAILING];

type Rate = Gauge<f64, AtomicU64>;

/// The gauges of all Pipelines.
#[derive(Default)]
pub struct Figures {
    lag: Family<Labels, Gauge>,
    rates: Family<Labels, Rate>,
    failing: Family<Labels, Gauge>,
    /// The series of each Pipeline, by `<namespace>/<name>`.
    known: Mutex<HashMap<String, Series>>,
}

/// Labels of the series of one Pipeline.
#[derive(Default)]
struct Series {
    lag: Vec<Labels>,
    rates: Vec<Labels>,
    failing: Vec<Labels>,
}

impl Figures {
    /// Gauges that are registered among the metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let figures = Self::default();
        metrics.register(&LAG, figures.lag.clone());
        metrics.register(&RATE, figures.rates.clone());
        metrics.register(&FAILING, figures.failing.clone());
        figures
    }

    /// Takes what the runners of a Pipeline say.
    pub fn set(&self, object: &Pipeline, runs: &Runs) {
        let name = name(object);
        let pipeline = ("pipeline", name.clone());
        let mut series = Series::default();
        for stage in &runs.stages {
            let reports = runs.reports.iter().filter(|report| report.stage == *stage);
            let lags: Option<Vec<u64>> = reports.map(|report| report.lag).collect();
            if let Some(lags) = lags.filter(|lags| !lags.is_empty()) {
                let labels = vec![pipeline.clone(), ("stage", stage.clone())];
                let lag = i64::try_from(lags.iter().sum::<u64>()).unwrap_or(i64::MAX);
                self.lag.get_or_create(&labels).set(lag);
                series.lag.push(labels);
            }
        }
        let all = merged(&runs.reports);
        for block in all.iter().filter(|block| !block.name.contains('~')) {
            let named = vec![pipeline.clone(), ("block", block.name.clone())];
            for (what, rate) in rates(block, &all) {
                let labels = [&named[..], &[("what", what.to_owned())]].concat();
                self.rates.get_or_create(&labels).set(rate);
                series.rates.push(labels);
            }
            let stopped = runs
                .reports
                .iter()
                .filter_map(|report| report.stopped.as_ref());
            let mut stopped = stopped.filter_map(|stopped| stopped.block.as_deref());
            let stopped = stopped.any(|at| of_graph(at) == block.name);
            let fails =
                |part: &&BlockReport| part.problem.is_some() || part.errors_per_second > 0.0;
            let failing = stopped || parts(&all, &block.name).any(|part| fails(&part));
            self.failing.get_or_create(&named).set(i64::from(failing));
            series.failing.push(named);
        }
        self.replace(name, series);
    }

    /// Removes the metrics of a Pipeline.
    pub fn forget(&self, object: &Pipeline) {
        self.replace(name(object), Series::default());
    }

    /// Removes the series that a Pipeline has no more.
    fn replace(&self, pipeline: String, now: Series) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.remove(&pipeline).unwrap_or_default();
        let gone = |before: Vec<Labels>, now: &[Labels]| -> Vec<Labels> {
            before
                .into_iter()
                .filter(|labels| !now.contains(labels))
                .collect()
        };
        for labels in gone(before.lag, &now.lag) {
            self.lag.remove(&labels);
        }
        for labels in gone(before.rates, &now.rates) {
            self.rates.remove(&labels);
        }
        for labels in gone(before.failing, &now.failing) {
            self.failing.remove(&labels);
        }
        if !now.failing.is_empty() || !now.lag.is_empty() {
            known.insert(pipeline, now);
        }
    }
}

fn name(object: &Pipeline) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{namespace}/{}", object.name_any())
}

/// A block, and the ends of stages that belong to it.
fn parts<'a>(all: &'a [BlockReport], block: &'a str) -> impl Iterator<Item = &'a BlockReport> {
    all.iter().filter(move |part| of_graph(&part.name) == block)
}

/// What fails at the ends of a stage fails in the block.
fn rates(block: &BlockReport, all: &[BlockReport]) -> [(&'static str, f64); 3] {
    let errors = parts(all, &block.name).map(|part| part.errors_per_second);
    [
        ("in", block.in_per_second),
        ("out", block.out_per_second),
        ("error", errors.sum()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_pipeline::report::StageReport;
    use serde_json::json;

    fn pipeline() -> Pipeline {
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"clusterRef": {"name": "demo"}, "blocks": []},
        }))
        .unwrap()
    }

    fn runs(blocks: &[(&str, f64, f64)]) -> Runs {
        let block = |(name, rate, errors): &(&str, f64, f64)| BlockReport {
            name: (*name).to_owned(),
            in_per_second: *rate,
            errors_per_second: *errors,
            ..BlockReport::default()
        };
        let report = StageReport {
            stage: "in".to_owned(),
            lag: Some(7),
            blocks: blocks.iter().map(block).collect(),
            ..StageReport::default()
        };
        Runs {
            stages: vec!["in".to_owned()],
            reports: vec![report.clone(), report],
            ..Runs::default()
        }
    }

    #[test]
    fn replicas_are_summed_and_what_is_gone_is_removed() {
        let metrics = Metrics::default();
        let figures = Figures::new(&metrics);
        figures.set(
            &pipeline(),
            &runs(&[("in", 5.0, 0.0), ("slow", 1.5, 0.0), ("slow~in", 0.0, 0.5)]),
        );
        let text = metrics.text();
        for line in [
            "freehold_pipeline_lag_records{pipeline=\"shop/orders\",stage=\"in\"} 14",
            "freehold_pipeline_block_records_per_second{pipeline=\"shop/orders\",block=\"in\",what=\"in\"} 10.0",
            "freehold_pipeline_block_records_per_second{pipeline=\"shop/orders\",block=\"slow\",what=\"error\"} 1.0",
            "freehold_pipeline_block_failing{pipeline=\"shop/orders\",block=\"slow\"} 1",
            "freehold_pipeline_block_failing{pipeline=\"shop/orders\",block=\"in\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        figures.set(&pipeline(), &runs(&[("in", 5.0, 0.0)]));
        let text = metrics.text();
        assert!(
            !text.contains("slow") && text.contains("block=\"in\""),
            "{text}"
        );
        figures.forget(&pipeline());
        assert!(!metrics.text().contains("shop/orders"));
    }

    #[test]
    fn what_is_served_is_in_the_table_with_its_labels() {
        let metrics = Metrics::default();
        Figures::new(&metrics).set(&pipeline(), &runs(&[("in", 1.0, 0.0)]));
        let text = metrics.text();
        for metric in ALL {
            let mut lines = text
                .lines()
                .filter(|line| line.starts_with(&metric.series()));
            let sample = lines.next().unwrap();
            for label in metric.labels {
                assert!(sample.contains(&format!("{label}=\"")), "{sample}");
            }
            let kind = format!("# TYPE {} {}", metric.series(), metric.kind.name());
            assert!(text.contains(&kind), "{kind}");
        }
    }
}
