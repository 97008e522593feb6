//! The schema of compute resources: of what a Pod has, what means something to Kafka.

use crate::kubernetes::quantity;
use schemars::{Schema, SchemaGenerator, json_schema};

/// Kinds of resources: memory, cpu, huge pages, what device plugins offer.
const RESOURCES_MAX: usize = 16;

pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    let mut amounts = |what: &str| {
        json_schema!({
            "description": what,
            "type": "object",
            "maxProperties": RESOURCES_MAX,
            "additionalProperties": quantity::schema(generator),
        })
    };
    let limits = amounts("The most that a node may use.");
    let requests =
        amounts("What is reserved for a node. Default: the limits; of CPU 100m at the most.");
    json_schema!({"type": "object", "nullable": true, "properties": {"limits": limits, "requests": requests}})
}
