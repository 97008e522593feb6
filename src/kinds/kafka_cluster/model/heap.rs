//! Computes the Java heap size of a node from the spec of its pool. Pure.

use crate::api::kafka_cluster::NodePool;
use crate::kubernetes::quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

const MIB: u64 = 1024 * 1024;

/// The minimum heap: a broker with less does not start.
pub const HEAP_BYTES_MIN: u64 = 192 * MIB;

/// The maximum default heap: Kafka gains nothing from more, but the page cache does.
const HEAP_BYTES_MAX: u64 = 6 * 1024 * MIB;

/// The memory limit of a node whose pool sets no memory.
pub const MEMORY_DEFAULT: &str = "1Gi";

/// Memory that the JVM needs beside the heap: metaspace, threads, code and direct buffers.
const BESIDE_HEAP_BYTES: u64 = 256 * MIB;

/// The memory that a node can rely on, and the field of the pool that sets it: the limit or,
/// without a limit, the request.
pub fn memory(pool: &NodePool) -> (&'static str, Quantity) {
    let of = |amounts: &Option<BTreeMap<String, Quantity>>| {
        amounts
            .as_ref()
            .and_then(|amounts| amounts.get("memory"))
            .cloned()
    };
    let resources = pool.resources.clone().unwrap_or_default();
    let limit = of(&resources.limits).map(|limit| ("resources.limits.memory", limit));
    let request = of(&resources.requests).map(|request| ("resources.requests.memory", request));
    limit
        .or(request)
        .unwrap_or(("resources.limits.memory", Quantity(MEMORY_DEFAULT.into())))
}

/// The heap of a pool's nodes in bytes.
///
/// # Errors
/// Returns the field of the pool that is wrong, and why.
pub fn heap(pool: &NodePool) -> Result<u64, (&'static str, String)> {
    let (field_of_memory, memory) = memory(pool);
    let Some(memory) = quantity::bytes(&memory) else {
        return Err((field_of_memory, "not a quantity such as 2Gi".into()));
    };
    let field = "jvm.heap";
    let heap = match &pool.jvm.heap {
        Some(heap) => quantity::bytes(heap)
            .ok_or_else(|| (field, "not a quantity such as 512Mi".to_owned()))?,
        None => (memory / 2).min(HEAP_BYTES_MAX),
    };
    if heap < HEAP_BYTES_MIN {
        return Err((
            field,
            format!(
                "{} Mi are too few for a broker to start; give 192Mi or more",
                heap / MIB
            ),
        ));
    }
    if heap.saturating_add(BESIDE_HEAP_BYTES) > memory {
        let (heap, memory) = (heap / MIB, memory / MIB);
        let why = format!(
            "a heap of {heap} Mi and the 256 Mi that a JVM needs beside it are above {field_of_memory}, {memory} Mi; lower it or raise {field_of_memory}"
        );
        return Err((field, why));
    }
    Ok(heap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn heap_of(pool: &Value) -> u64 {
        let mut one = json!({"name": "all", "roles": ["broker"], "replicas": 3, "zones": ["a"], "storage": {"size": "1Gi"}});
        one.as_object_mut()
            .unwrap()
            .extend(pool.as_object().unwrap().clone());
        heap(&serde_json::from_value(one).unwrap()).unwrap() / MIB
    }

    #[test]
    fn a_heap_follows_the_limit_or_the_request_of_memory() {
        assert_eq!(heap_of(&json!({})), 512);
        assert_eq!(
            heap_of(
                &json!({"resources": {"limits": {"memory": "4Gi"}, "requests": {"memory": "2Gi"}}})
            ),
            2048
        );
        assert_eq!(
            heap_of(&json!({"resources": {"requests": {"memory": "2Gi"}}})),
            1024
        );
        assert_eq!(
            heap_of(&json!({"resources": {"requests": {"memory": 2_147_483_648_u64, "cpu": 4}}})),
            1024
        );
        assert_eq!(
            heap_of(&json!({"resources": {"requests": {"memory": "1e10"}}})),
            4768
        );
        assert_eq!(
            heap_of(&json!({"resources": {"limits": {"memory": "1E"}}})),
            6144
        );
    }
}
