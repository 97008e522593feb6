//! A Pipeline whose cluster does not allow its namespace. Its credential is revoked, so its pods are
//! stopped until the namespace is allowed again.

use crate::api::conditions::{ConditionType, Reason, State};
use crate::api::pipeline::Pipeline;
use crate::kinds::dependent::outcome::Reconciled;
use crate::kinds::error::Error;
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::status::{Learned, Runs};
use crate::kinds::pipeline::{apply, pods};

/// Whether the cluster did not allow its namespace when that was last known.
pub fn was_refused(object: &Pipeline) -> bool {
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let refused = Reason::NamespaceNotAllowed.name();
    conditions
        .filter(|condition| condition.kind == ConditionType::Ready)
        .any(|condition| condition.reason == refused)
}

/// Stops its pods. Nothing that has records is deleted, and its consumer groups keep their offsets.
/// `told`: why it is refused.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn stopped(
    object: &Pipeline,
    context: &Context,
    mut told: Reconciled<Learned>,
) -> Result<Reconciled<Learned>, Error> {
    apply::stop(&context.client, object).await?;
    // When it is allowed again, its StatefulSets are not as they were.
    context.settle(object, Vec::new());
    context.figures.forget(object);
    let mut pods = pods::list(&context.client, object).await?;
    pods.retain(|pod| !pod.replays);
    let known = object.status.iter().flat_map(|status| &status.stages);
    told.learned.runs = Some(Runs {
        stages: known.map(|stage| stage.name.clone()).collect(),
        pods,
        ..Runs::default()
    });
    let (reason, why) = told.state.words();
    let why = format!("{why}; until then its pods are stopped, and its offsets and topics stay");
    told.state = State::stalled(reason, why);
    Ok(told)
}
