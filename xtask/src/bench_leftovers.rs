//! Creates what benchmarks need on the local cluster (a cluster of their own), and removes
//! everything before and after a benchmark, however it ended. The next benchmark cleans up after
//! one that was stopped by Ctrl-C.

use anyhow::{Context, Result, ensure};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use std::time::Duration;

/// The cluster for bursts of Topics and Users (tests/e2e/benches/scale.rs).
pub const CLUSTER: &str = "bench-scale";
/// Replicas need memory in a broker's heap: three brokers run 30 000 with 1.6 GiB, and crash with
/// 384 MiB.
const HEAP_MIB: usize = 384;
const OBJECTS_A_MIB: usize = 8;
/// Memory of a broker in addition to its heap.
const BESIDE_HEAP_MIB: usize = 640;
const BROKERS: usize = 3;

const LIMIT: Duration = Duration::from_secs(600);
/// Time limit to delete ten thousand objects and their topics.
const OBJECTS_LIMIT: Duration = Duration::from_secs(1200);

/// Runs a benchmark, with a cleanup before and after it.
pub fn cleaned_up<T>(kubectl: &Kubectl, work: impl FnOnce() -> Result<T>) -> Result<T> {
    remove(kubectl).context("removing what a benchmark before left behind")?;
    let done = work();
    match (
        done,
        remove(kubectl).context("removing what the benchmark made"),
    ) {
        (Ok(done), Ok(())) => Ok(done),
        (Ok(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
    }
}

/// The heap of a broker for this many Topics or Users.
pub fn heap_mib(objects: usize) -> usize {
    HEAP_MIB + objects / OBJECTS_A_MIB
}

/// Starts a cluster for this many Topics or Users, and waits until it is Ready.
///
/// # Errors
/// The machine does not have enough memory, or the cluster does not become Ready.
pub fn start_cluster(kubectl: &Kubectl, version: &str, objects: usize) -> Result<()> {
    let heap = heap_mib(objects);
    let needed = BROKERS * (heap + BESIDE_HEAP_MIB);
    let available = available_mib()?;
    ensure!(
        needed < available,
        "three brokers for {objects} objects take {needed} MiB, and this machine has {available} MiB available: give fewer objects"
    );
    let spec = format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\n\
         metadata: {{name: {CLUSTER}, namespace: kafka}}\nspec:\n  version: {version}\n  \
         deletionPolicy: Delete\n  nodePools:\n  \
         - {{name: nodes, roles: [controller, broker], replicas: {BROKERS}, \
         zones: [zone-a, zone-b, zone-c], storage: {{size: 4Gi}}, resources: {{limits: {{memory: {memory}Mi}}}}, jvm: {{heap: {heap}Mi}}}}\n  \
         listeners:\n  - {{name: scram, port: 9094, authentication: ScramSha512}}\n  \
         access: {{rights: Any, namespaces: {{from: Selector, selector: {{matchLabels: {{kubernetes.io/metadata.name: shop}}}}}}}}\n",
        memory = heap + BESIDE_HEAP_MIB
    );
    kubectl.apply(&spec)?;
    kubectl.wait_ready("kafkacluster", "kafka", CLUSTER, LIMIT)
}

fn available_mib() -> Result<usize> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .context("/proc/meminfo has no MemAvailable")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<usize>()? / 1024)
}

/// Removes everything that any benchmark creates; does nothing if there is nothing.
fn remove(kubectl: &Kubectl) -> Result<()> {
    for kind in ["topics", "users"] {
        // One request for all objects.
        kubectl.run(&[
            "delete",
            "--raw",
            &format!(
                "/apis/freehold.dev/v1alpha1/namespaces/shop/{kind}?labelSelector=bench%3Dscale"
            ),
        ])?;
    }
    // The clusters are deleted at the same time: if brokers have died, Topics and Users are deleted
    // only once their cluster is gone.
    for cluster in ["bench", CLUSTER] {
        kubectl.run(&[
            "delete",
            "kafkacluster",
            cluster,
            "--namespace",
            "kafka",
            "--ignore-not-found",
            "--wait=false",
        ])?;
    }
    remove_paused(kubectl)?;
    kubectl.run(&[
        "delete",
        "namespace",
        "bench-floor",
        "bench-start",
        "--ignore-not-found",
        "--wait=false",
    ])?;
    kubectl.run(&[
        "delete",
        "statefulset,service,configmap",
        "floor",
        "--namespace",
        "kafka",
        "--ignore-not-found",
    ])?;
    kubectl.run(&[
        "delete",
        "pvc",
        "--namespace",
        "kafka",
        "--selector",
        "app=floor",
        "--wait=false",
    ])?;
    kubectl.run(&[
        "delete",
        "job,configmap",
        "bench-calm",
        "bench-roll",
        "--namespace",
        "shop",
        "--ignore-not-found",
    ])?;
    shell::wait_for("the benchmark's objects to go", OBJECTS_LIMIT, || {
        let get = |words: &[&str]| {
            kubectl.run(&[&["get", "--ignore-not-found", "-o", "name"], words].concat())
        };
        let clusters = format!("freehold.dev/cluster in (bench, {CLUSTER})");
        let left = [
            get(&[
                "topics,users",
                "--namespace",
                "shop",
                "--selector",
                "bench=scale",
            ])?,
            get(&["kafkaclusters", "bench", CLUSTER, "--namespace", "kafka"])?,
            get(&["pods,pvc", "--namespace", "kafka", "--selector", &clusters])?,
            get(&[
                "pods,pvc",
                "--namespace",
                "kafka",
                "--selector",
                "app=floor",
            ])?,
            get(&["namespaces", "bench-floor", "bench-start"])?,
        ];
        let names: Vec<&str> = left.iter().flat_map(|text| text.lines()).collect();
        Ok(names
            .first()
            .map(|first| format!("{first} and {} more", names.len() - 1)))
    })
}

/// The operator that reconciled this cluster was a process of the benchmark, so its finalizer can
/// remain after the process has ended. The installed operator may delete the object at any moment
/// meanwhile; an object that is gone is no error.
fn remove_paused(kubectl: &Kubectl) -> Result<()> {
    let name = ["paused", "--namespace", "bench-start"];
    kubectl.run(
        &[
            &["delete", "kafkacluster"],
            &name[..],
            &["--ignore-not-found", "--wait=false"],
        ]
        .concat(),
    )?;
    match kubectl.merge(
        "kafkacluster",
        "bench-start",
        "paused",
        &serde_json::json!({"metadata": {"finalizers": null}}),
    ) {
        Err(error)
            if kubectl
                .get("kafkacluster", "bench-start", "paused")?
                .is_some() =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_have_the_heap_that_their_objects_take() {
        assert_eq!(heap_mib(40), 389);
        // The heap with which ten thousand ran (docs/benchmarks/ten-thousand-topics.md).
        assert!(heap_mib(10_000) >= 1536);
    }
}
