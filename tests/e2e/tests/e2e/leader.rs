//! Leader election: a standby takes over after a clean stop and after a kill; an operator that is
//! newer than the CustomResourceDefinitions does not lead.
//!
//! The operators are processes on this machine with their own namespace: no kubelet restarts a
//! killed one.

use crate::world::{LONG, Operator, asked, kafka_image, kubectl, namespace};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell::{self, command};
use serde_json::{Value, json};
use std::time::Instant;

const NAMESPACE: &str = "leader";

fn holder(kubectl: &Kubectl, namespace: &str) -> String {
    let lease = asked("the lease", || kubectl.get("lease", namespace, "freehold"));
    lease.unwrap_or_default()["spec"]["holderIdentity"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn wait_for_holder(kubectl: &Kubectl, namespace: &str, wanted: &str) -> f64 {
    let start = Instant::now();
    shell::wait_for(&format!("{wanted} to lead"), LONG, || {
        Ok(Some(holder(kubectl, namespace)).filter(|holder| holder != wanted))
    })
    .unwrap();
    start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_standby_takes_over_after_a_clean_stop_and_after_a_kill() {
    let kubectl = kubectl();
    let image = kafka_image(&kubectl);
    let _pods = namespace(&kubectl, NAMESPACE);
    let start = |identity: &str| Operator::start(NAMESPACE, identity, &image, &[]);
    let mut first = start("first");
    wait_for_holder(&kubectl, NAMESPACE, "first");
    let mut second = start("second");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(holder(&kubectl, NAMESPACE), "first", "a standby stands by");

    shell::run(&mut command("kill", ["-TERM", &first.0.id().to_string()])).unwrap();
    println!(
        "takeover after a clean stop: {:.1} s (aim: 5)",
        wait_for_holder(&kubectl, NAMESPACE, "second")
    );
    assert!(
        first.0.wait().unwrap().success(),
        "a clean stop is a success"
    );

    let _third = start("third");
    std::thread::sleep(std::time::Duration::from_secs(3));
    second.0.kill().unwrap();
    println!(
        "takeover after a kill: {:.1} s (aim: 15)",
        wait_for_holder(&kubectl, NAMESPACE, "third")
    );
    crate::world::leave(&kubectl, "namespace", "", NAMESPACE);
}

const KAFKACLUSTERS: &str = "kafkaclusters.freehold.dev";
const PLAN: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/plan";

/// Removes a field from the definition until the value is dropped, also when the test fails.
struct Older(Value);

impl Older {
    fn patch(patch: &Value) -> anyhow::Result<String> {
        kubectl().run(&[
            "patch",
            "customresourcedefinition",
            KAFKACLUSTERS,
            "--type=json",
            "--patch",
            &patch.to_string(),
        ])
    }

    fn new(kubectl: &Kubectl) -> Self {
        let definition = kubectl
            .get("customresourcedefinition", "", KAFKACLUSTERS)
            .unwrap()
            .unwrap();
        let field = definition
            .pointer(PLAN)
            .expect("the field is there")
            .clone();
        let older = Self(field);
        Self::patch(&json!([{"op": "remove", "path": PLAN}])).unwrap();
        older
    }
}

impl Drop for Older {
    fn drop(&mut self) {
        let _ = Self::patch(&json!([{"op": "add", "path": PLAN, "value": self.0}]));
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn an_operator_that_is_newer_than_the_definitions_waits_and_says_what_they_lack() {
    let kubectl = kubectl();
    let namespace_of = "newer";
    let _pods = namespace(&kubectl, namespace_of);
    let older = Older::new(&kubectl);
    // The API server publishes the changed definition a little later.
    shell::wait_for("the older definition to be published", LONG, || {
        let published: Value = serde_json::from_str(&kubectl.run(&[
            "get",
            "--raw",
            "/openapi/v3/apis/freehold.dev/v1alpha1",
        ])?)?;
        let schema = &published["components"]["schemas"]["dev.freehold.v1alpha1.KafkaCluster"];
        Ok(schema["properties"]["status"]["properties"]["plan"]
            .is_object()
            .then(String::new))
    })
    .unwrap();
    let mut operator = Operator::start(namespace_of, "newer", &kafka_image(&kubectl), &[]);
    let log = Operator::log(namespace_of, "newer");
    let words = "they lack KafkaCluster.status.plan; upgrade freehold-crds first";
    shell::wait_for("it to say what is lacking", LONG, || {
        let text = std::fs::read_to_string(&log)?;
        Ok((!text.contains(words)).then_some(text))
    })
    .unwrap();
    assert_eq!(holder(&kubectl, namespace_of), "", "it does not lead");
    drop(older);
    wait_for_holder(&kubectl, namespace_of, "newer");
    shell::run(&mut command(
        "kill",
        ["-TERM", &operator.0.id().to_string()],
    ))
    .unwrap();
    assert!(operator.0.wait().unwrap().success());
    crate::world::leave(&kubectl, "namespace", "", namespace_of);
}
