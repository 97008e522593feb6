//! Asks the runners of a Pipeline how they do.

use crate::api::pipeline::Pipeline;
use crate::kinds::pipeline::desired::HTTP_PORT;
use crate::kinds::pipeline::pods::PodFacts;
use axum::body::Body;
use freehold_pipeline::address::Address;
use freehold_pipeline::report::StageReport;
use freehold_pipeline::stages::Stage;
use futures::StreamExt;
use futures::future::ready;
use futures::stream;
use http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::ResourceExt;
use std::time::Duration;
use tokio::time::timeout;

/// How long a runner may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// A report of fifty blocks has some ten KiB.
const BYTES_MAX: usize = 64 * 1024;
/// Runners that are asked at the same time.
const AT_ONCE: usize = 8;
/// The longest name of a topic, with the numbers of partition and offset.
const ADDRESS_CHARS_MAX: usize = 300;

/// The reports of the runners that answer. Whoever may make pods in the namespace can answer, so
/// only what a runner of that stage can say is taken.
pub async fn ask(object: &Pipeline, stages: &[Stage], pods: &[PodFacts]) -> Vec<StageReport> {
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build(connector());
    let asked = pods.iter().filter_map(|pod| {
        let stage = stages.iter().find(|stage| stage.name == pod.stage)?;
        Some((pod, stage, pod.address.as_deref()?))
    });
    let client = &client;
    let answers = asked.map(|(pod, stage, address)| async move {
        let answer = timeout(ANSWER_LIMIT, report(client, address))
            .await
            .ok()??;
        credible(answer, object, stage, pod.ordinal)
    });
    let answers: Vec<_> = answers.collect();
    stream::iter(answers)
        .buffered(AT_ONCE)
        .filter_map(ready)
        .collect()
        .await
}

/// A report of this replica, with the blocks that its stage has; `None`: it is of another one.
fn credible(
    mut report: StageReport,
    object: &Pipeline,
    stage: &Stage,
    ordinal: u32,
) -> Option<StageReport> {
    let pipeline = format!("{}/{}", object.namespace()?, object.name_any());
    if (&*report.pipeline, &report.stage, report.ordinal) != (&*pipeline, &stage.name, ordinal) {
        return None;
    }
    let blocks = &stage.definition.blocks;
    report.blocks.truncate(blocks.len());
    report
        .blocks
        .retain(|found| blocks.iter().any(|block| block.name == found.name));
    let is_short = |address: &Address| address.topic.len() < ADDRESS_CHARS_MAX;
    for block in &mut report.blocks {
        if let Some(error) = &mut block.last_error {
            error.address = error.address.take().filter(is_short);
        }
        let alert = block.last_alert.take();
        block.last_alert = alert.filter(|alert| is_short(&alert.address));
    }
    Some(report)
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(ANSWER_LIMIT));
    connector
}

async fn report(client: &Client<HttpConnector, Body>, address: &str) -> Option<StageReport> {
    // An IPv6 address needs brackets.
    let host = match address.contains(':') {
        true => format!("[{address}]"),
        false => address.to_owned(),
    };
    let uri = format!("http://{host}:{HTTP_PORT}/status");
    let request = Request::get(uri).body(Body::empty()).ok()?;
    let answer = client.request(request).await.ok()?;
    let body = axum::body::to_bytes(Body::new(answer.into_body()), BYTES_MAX)
        .await
        .ok()?;
    serde_json::from_slice(&body).ok()
}
