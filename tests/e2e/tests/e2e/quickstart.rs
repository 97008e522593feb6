//! Proof 1: the quickstart, with 100 000 records from an idempotent producer with acks=all.

use crate::world::{LONG, client, delete_topic, kubectl, user};
use freehold_e2e::flow;

const RECORDS: usize = 100_000;

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_hundred_thousand_records_flow_through_the_quickstart() {
    let kubectl = kubectl();
    for (kind, namespace, name) in [
        ("kafkacluster", "kafka", "demo"),
        ("topic", "shop", "orders"),
        ("user", "shop", "shop-app"),
    ] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    kubectl
        .apply(&crate::world::topic(
            "proof",
            "demo",
            "  partitions: 6\n  replicas: 3\n  config: {min.insync.replicas: \"2\"}\n",
        ))
        .unwrap();
    let rights = "  authentication: {type: MutualTls}\n  acls:\n  - {resource: {type: Topic, name: proof}, operations: [Read, Write, Describe]}\n  \
                  - {resource: {type: Group, name: shop-, pattern: Prefixed}, operations: [Read, Describe]}\n";
    kubectl.apply(&user("proof", "demo", rights)).unwrap();
    kubectl.wait_ready("topic", "shop", "proof", LONG).unwrap();
    kubectl.wait_ready("user", "shop", "proof", LONG).unwrap();
    flow::prove(
        &kubectl,
        &client(&kubectl, "proof", "proof"),
        "proof",
        RECORDS,
        flow::Before::Nothing,
        LONG,
    )
    .unwrap();
    delete_topic(&kubectl, "shop", "proof");
    kubectl.delete("user", "shop", "proof", LONG).unwrap();
    let secret_gone = || {
        Ok(kubectl
            .get("secret", "shop", "proof-kafka")?
            .map(|_| "it is there".to_owned()))
    };
    freehold_e2e::shell::wait_for("the Secret to go with its User", LONG, secret_gone).unwrap();
}
