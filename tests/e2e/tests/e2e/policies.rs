//! Which clients reach which port: the local cluster enforces NetworkPolicies, and the test opens
//! connections from the networks of pods.

use crate::world::{LONG, endpoints, kubectl, namespace};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::promise;
use freehold_e2e::shell::{self, command};
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A namespace that the quickstart's cluster does not admit.
const STRANGER: &str = "stranger";
/// A pod that has only a network.
pub const POD: &str = "reach";
/// The ports of controllers, of nodes, two for clients, and that of probes.
const PORTS: [u16; 5] = [9090, 9091, 9093, 9094, 8080];

/// Creates a pod that does nothing; the test opens connections in its network from outside.
pub fn idle_pod(kubectl: &Kubectl, namespace: &str) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": namespace}, "spec": {
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "idle", "image": "localhost/freehold/pause:1", "imagePullPolicy": "Never",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}});
    kubectl.apply(&pod.to_string()).unwrap();
}

/// The network namespaces that the nodes' containerds created for pods.
fn networks() -> Vec<PathBuf> {
    let run = PathBuf::from(std::env::var("FREEHOLD_RUN").expect("cargo xtask test sets it"));
    let nodes = ["node-a", "node-b", "node-c"].map(|node| run.join(node).join("containerd"));
    let found =
        shell::output(command("find", nodes).args(["-maxdepth", "3", "-path", "*/netns/cni-*"]))
            .unwrap();
    found.lines().map(PathBuf::from).collect()
}

/// The network namespace of the pod with this address.
pub fn network_of(address: &str) -> PathBuf {
    let inside = |network: &PathBuf| {
        let addresses = shell::output(
            command("nsenter", [format!("--net={}", network.display())])
                .args(["ip", "-4", "-o", "addr"]),
        );
        addresses.is_ok_and(|addresses| addresses.contains(&format!(" {address}/")))
    };
    networks()
        .into_iter()
        .find(inside)
        .unwrap_or_else(|| panic!("no network of a pod has the address {address}"))
}

/// The addresses of the running pods that match a selector.
fn addresses(kubectl: &Kubectl, namespace: &str, selector: &str) -> Vec<String> {
    let pods = kubectl
        .json(&[
            "get",
            "pods",
            "--namespace",
            namespace,
            "--selector",
            selector,
        ])
        .unwrap();
    let pods = pods["items"].as_array().unwrap().iter();
    pods.filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
        .collect()
}

/// The targets that accept a connection from this network. The kernel sends at most one rejection a
/// second to each sender; the other connections time out.
fn reached(network: &Path, targets: &[SocketAddr]) -> Vec<SocketAddr> {
    let script = "for target; do (timeout 2 bash -c \"</dev/tcp/${target%:*}/${target#*:}\" 2>&1 && echo \"$target\" >&3) >/dev/null & done; wait";
    let mut probe = command("nsenter", [format!("--net={}", network.display())]);
    probe
        .args(["bash", "-c", &format!("exec 3>&1; {script}"), "probe"])
        .args(targets.iter().map(ToString::to_string));
    let mut open: Vec<SocketAddr> = shell::output(&mut probe)
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    open.sort();
    open
}

/// Waits until exactly these ports of every node of the cluster are reachable.
fn reaches(who: &str, network: &Path, nodes: &[SocketAddr], ports: &[u16]) {
    let all: Vec<SocketAddr> = nodes
        .iter()
        .flat_map(|node| PORTS.map(|port| SocketAddr::new(node.ip(), port)))
        .collect();
    let mut wanted: Vec<SocketAddr> = all
        .iter()
        .copied()
        .filter(|target| ports.contains(&target.port()))
        .collect();
    wanted.sort();
    // It takes up to a second until every node knows a new address.
    reaches_exactly(
        &format!("{who} to reach ports {ports:?} and no other"),
        network,
        &all,
        &wanted,
    );
}

/// Waits until of these targets exactly the wanted ones accept a connection. One beyond them that
/// is still open at the end of the time is a broken promise.
fn reaches_exactly(what: &str, network: &Path, targets: &[SocketAddr], wanted: &[SocketAddr]) {
    let mut open = Vec::new();
    let waited = shell::wait_for(what, LONG, || {
        open = reached(network, targets);
        Ok((open != wanted).then(|| format!("{open:?}")))
    });
    open.retain(|target| !wanted.contains(target));
    promise!(open.is_empty(), "{what}: it reaches {open:?} too");
    waited.unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn each_port_is_reached_by_those_that_it_is_for() {
    let kubectl = kubectl();
    kubectl
        .wait_ready("kafkacluster", "kafka", "demo", LONG)
        .unwrap();
    let _stranger = namespace(&kubectl, STRANGER);
    let namespaces = ["shop", "kafka", STRANGER];
    namespaces
        .iter()
        .for_each(|namespace| idle_pod(&kubectl, namespace));
    let network = |namespace: &str| {
        kubectl
            .run(&[
                "wait",
                "pod",
                POD,
                "--namespace",
                namespace,
                "--for=condition=Ready",
                "--timeout=300s",
            ])
            .unwrap();
        let pod = kubectl.get("pod", namespace, POD).unwrap().unwrap();
        network_of(pod["status"]["podIP"].as_str().unwrap())
    };
    let nodes: Vec<SocketAddr> = endpoints(&kubectl, "kafka", "demo", "broker", 9091)
        .iter()
        .map(|endpoint| endpoint.address)
        .collect();
    assert_eq!(
        nodes.len(),
        3,
        "three nodes, so that one is on the client's machine and two are not"
    );
    reaches(
        "a pod of an admitted namespace",
        &network("shop"),
        &nodes,
        &[9093, 9094],
    );
    reaches(
        "a pod of the cluster's namespace",
        &network("kafka"),
        &nodes,
        &[9093, 9094],
    );
    let stranger = network(STRANGER);
    reaches("a pod of another namespace", &stranger, &nodes, &[]);
    let operators = addresses(
        &kubectl,
        "freehold-system",
        "app.kubernetes.io/name=freehold",
    );
    assert!(!operators.is_empty(), "the operator has pods");
    for operator in operators {
        reaches(
            "the operator",
            &network_of(&operator),
            &nodes,
            &[9090, 9091],
        );
    }

    // Outgoing: a node reaches only other nodes, not even what every other pod reaches.
    let service = kubectl
        .get("service", "default", "kubernetes")
        .unwrap()
        .unwrap();
    let api: SocketAddr = format!("{}:443", service["spec"]["clusterIP"].as_str().unwrap())
        .parse()
        .unwrap();
    shell::wait_for(
        "a pod under no policy to reach the API server",
        LONG,
        || {
            let open = reached(&stranger, &[api]);
            Ok((open != [api]).then(|| format!("{open:?}")))
        },
    )
    .unwrap();
    let broker = network_of(&nodes[0].ip().to_string());
    let other = |port| SocketAddr::new(nodes[1].ip(), port);
    let its_like = [other(9090), other(9091)];
    reaches_exactly(
        "a node to reach its like alone",
        &broker,
        &[api, its_like[0], its_like[1]],
        &its_like,
    );
    for namespace in namespaces {
        kubectl.delete("pod", namespace, POD, LONG).unwrap();
    }
    crate::world::leave(&kubectl, "namespace", "", STRANGER);
}
