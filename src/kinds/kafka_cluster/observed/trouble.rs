//! Explains why a node does not run and what to do about it, from what Kubernetes reports about its
//! container or its scheduling. Pure.

use crate::kubernetes::labels;
use serde_json::Value;

/// The exit code of a JVM that ended by `-XX:+ExitOnOutOfMemoryError`.
const EXIT_OUT_OF_MEMORY: i64 = 3;

/// How the Kafka container last terminated, and what to do about it; `None` if it has not
/// terminated or the cause is not known.
pub fn ended(container: &Value, pool: &str) -> Option<String> {
    let ends = [
        &container["state"]["terminated"],
        &container["lastState"]["terminated"],
    ];
    let ended = ends.into_iter().find(|ended| ended.is_object())?;
    let (code, reason) = (
        ended["exitCode"].as_i64(),
        ended["reason"].as_str().unwrap_or_default(),
    );
    // The message holds the last lines of the log (`terminationMessagePolicy`).
    let log = ended["message"].as_str().unwrap_or_default();
    let field = format!("spec.nodePools[{pool}]");
    if reason == "OOMKilled" {
        return Some(format!(
            "it needed more memory than its limit (OOMKilled): raise {field}.resources.limits.memory, or lower {field}.jvm.heap"
        ));
    }
    // A volume that was full at the start may not be the reason for the termination.
    let out_of_memory = code == Some(EXIT_OUT_OF_MEMORY);
    if log.contains("No space left on device") && !out_of_memory {
        return Some(format!(
            "a volume of it is full: raise {field}.storage.size or that of the volume, or set autoGrow there"
        ));
    }
    if out_of_memory || log.contains("java.lang.OutOfMemoryError") {
        let raise = format!(
            "raise {field}.jvm.heap, and resources.limits.memory with it; fewer partitions would do too"
        );
        return Some(format!("its JVM ran out of heap: {raise}"));
    }
    let reason = if reason.is_empty() {
        String::new()
    } else {
        format!(" ({reason})")
    };
    code.map(|code| format!("last with exit code {code}{reason}"))
}

/// The scheduler's message, with a way out if the volume cannot be reached: its Kubernetes node is
/// gone, or no node is left where the volume is.
pub fn unscheduled(message: &str, node_id: &str) -> String {
    let out_of_reach = is_about_the_volume(message) || message.contains("taint");
    let way_out = format!(
        "; it can only be where its volume is: bring the node back, or add one there; where the volume is lost, annotate the cluster with {}={node_id}",
        labels::REPLACE
    );
    format!(
        "not scheduled: {message}{}",
        if out_of_reach { way_out.as_str() } else { "" }
    )
}

/// Phrases in the scheduler's message for a Kubernetes node that cannot attach the pod's volume.
const OUT_OF_REACH: [&str; 2] = ["volume node affinity", "PersistentVolume's node affinity"];
/// Phrases for nodes that never fit the pod, and for a node that somebody declared dead.
const NEVER_FITS: [&str; 3] = [
    "didn't match Pod's node affinity/selector",
    "untolerated taint {node-role.kubernetes.io/control-plane",
    "untolerated taint {node.kubernetes.io/out-of-service",
];
const NO_VOLUME: &str = "bound to non-existent persistentvolume";

/// True if the scheduler reports for some Kubernetes node that it cannot attach the pod's volume.
fn is_about_the_volume(message: &str) -> bool {
    message.contains(NO_VOLUME) || OUT_OF_REACH.iter().any(|words| message.contains(words))
}

/// True if the scheduler reports that no Kubernetes node can attach the pod's volume, because the
/// volume is on a node that is gone or its claim lost it. If a node has any other problem (drained,
/// tainted, full), that node may be the volume's, and may come back.
pub fn is_out_of_reach(message: &str) -> bool {
    let Some((_, nodes)) = message.split_once("nodes are available: ") else {
        return message.contains(NO_VOLUME);
    };
    let nodes = nodes
        .split(" preemption:")
        .next()
        .unwrap_or(nodes)
        .trim_end()
        .trim_end_matches('.');
    let known = |clause: &str| {
        OUT_OF_REACH
            .iter()
            .chain(&NEVER_FITS)
            .chain([&NO_VOLUME])
            .any(|words| clause.contains(words))
    };
    is_about_the_volume(nodes) && nodes.split(", ").all(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_container_ended_of_is_told_with_what_to_raise() {
        let ended_of = |container: &Value| ended(container, "brokers").unwrap_or_default();
        let last = |ended: Value| ended_of(&json!({"lastState": {"terminated": ended}}));
        assert!(
            last(json!({"exitCode": 137, "reason": "OOMKilled"}))
                .contains("raise spec.nodePools[brokers].resources.limits.memory")
        );
        assert!(
            last(json!({"exitCode": 3, "reason": "Error"}))
                .contains("ran out of heap: raise spec.nodePools[brokers].jvm.heap")
        );
        let heap = "Terminating due to java.lang.OutOfMemoryError: Java heap space";
        assert!(
            last(json!({"exitCode": 1, "reason": "Error", "message": heap}))
                .contains("ran out of heap")
        );
        let full = "java.io.IOException: No space left on device\n at kafka";
        assert!(
            last(json!({"exitCode": 1, "reason": "Error", "message": full}))
                .contains("raise spec.nodePools[brokers].storage.size")
        );
        assert_eq!(
            last(json!({"exitCode": 1, "reason": "Error", "message": "else"})),
            "last with exit code 1 (Error)"
        );
        assert_eq!(last(json!({"exitCode": 143})), "last with exit code 143");
        assert_eq!(
            ended_of(&json!({"state": {"terminated": {"exitCode": 3}}, "lastState": {}}))
                .split(':')
                .next(),
            Some("its JVM ran out of heap")
        );
        let both = json!({"exitCode": 3, "message": "No space left on device"});
        assert!(
            last(both).contains("ran out of heap"),
            "a volume that was full at the start"
        );
        assert_eq!(
            ended(
                &json!({"restartCount": 2, "state": {"running": {}}, "lastState": {}}),
                "brokers"
            ),
            None,
            "nobody knows"
        );
        assert_eq!(ended(&json!({}), "brokers"), None);
    }
}
