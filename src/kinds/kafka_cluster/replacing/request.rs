//! Reads which node the annotation asks to replace, and answers a request that cannot be followed.
//! Pure.

use crate::api::kafka_cluster::{KafkaCluster, Role};
use crate::kinds::kafka_cluster::model::cluster::NodeGroup;
use crate::kubernetes::labels;
use crate::words;

/// The length at which the value of the annotation is cut in a message.
const VALUE_CHARS_MAX: usize = 60;

/// The value of the annotation that asks to replace a node, if that has not been done yet.
pub fn value(object: &KafkaCluster) -> Option<&str> {
    let asked = object.metadata.annotations.as_ref()?.get(labels::REPLACE)?;
    let status = object.status.as_ref();
    let followed = status.and_then(|status| status.replaced.as_ref());
    (Some(asked) != followed).then_some(asked)
}

/// The node that the annotation asks to replace, if that has not been done yet.
pub fn asked(object: &KafkaCluster) -> Option<i32> {
    value(object)?.trim().parse().ok()
}

/// The node that the annotation asks to replace, if that has not been done yet and can be done.
/// Otherwise adds a warning.
pub fn allowed(
    object: &KafkaCluster,
    groups: &[NodeGroup],
    warnings: &mut Vec<String>,
) -> Option<i32> {
    let text = value(object)?;
    let Ok(id) = text.trim().parse() else {
        let text = words::cut(text, VALUE_CHARS_MAX);
        warnings.push(format!(
            "{}: {text:?} is not the id of a node: give a number, such as 0",
            labels::REPLACE
        ));
        return None;
    };
    if let Some(why) = irreplaceable(id, groups) {
        warnings.push(format!(
            "{}: node {id} cannot be replaced: {why}",
            labels::REPLACE
        ));
        return None;
    }
    Some(id)
}

/// Why the node cannot be replaced. It can if it stays and, for a controller, at least two others
/// remain.
pub fn irreplaceable(id: i32, groups: &[NodeGroup]) -> Option<&'static str> {
    let controllers: i32 = groups
        .iter()
        .filter(|group| group.is(Role::Controller))
        .map(|group| group.replicas)
        .sum();
    let group = groups
        .iter()
        .find(|group| group.node_ids().any(|node| node == id));
    match group {
        None => Some("there is no such node"),
        Some(group) if group.leaving_ids().any(|node| node == id) => {
            Some("it leaves, because spec.nodePools has it no more")
        }
        Some(group) if group.is(Role::Controller) && controllers < 3 => {
            Some("its vote cannot be spared: there are fewer than three controllers")
        }
        Some(_) => None,
    }
}
