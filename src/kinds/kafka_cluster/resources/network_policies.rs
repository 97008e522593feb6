//! Builds the NetworkPolicies. Brokers accept the cluster's nodes, the operator and the clients of
//! listeners; controllers accept the cluster's nodes and the operator. Nodes may open connections
//! only to the cluster's nodes and to DNS. Pure.

use crate::api::kafka_cluster::AccessFrom;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::model::ports::{CONTROLLER_PORT, INTERNAL_PORT};
use crate::kinds::kafka_cluster::resources::metadata;
use crate::kubernetes::labels;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// The policies for brokers and controllers. Policies are additive: both apply to a combined node.
pub fn network_policies(cluster: &ValidCluster) -> Vec<NetworkPolicy> {
    let rule = |from, ports| NetworkPolicyIngressRule {
        from: Some(from),
        ports: Some(ports),
    };
    // The operator connects to controllers to follow the metadata log.
    let controllers = vec![rule(
        vec![own_nodes(cluster), operator(cluster)],
        vec![tcp(CONTROLLER_PORT)],
    )];
    let mut brokers = vec![rule(
        vec![own_nodes(cluster), operator(cluster)],
        vec![tcp(INTERNAL_PORT)],
    )];
    if !cluster.spec.listeners.is_empty() {
        // The former ports of listeners stay open until every broker has restarted.
        let listeners = &cluster.spec.listeners;
        let mut ports: Vec<u16> = listeners.iter().map(|listener| listener.port).collect();
        ports.extend(
            listeners
                .iter()
                .flat_map(|listener| cluster.former_ports(listener)),
        );
        brokers.push(rule(clients(cluster), ports.into_iter().map(tcp).collect()));
    }
    vec![
        policy(cluster, "brokers", labels::BROKER, brokers),
        policy(cluster, "controllers", labels::CONTROLLER, controllers),
    ]
}

fn policy(
    cluster: &ValidCluster,
    name: &str,
    role: &str,
    ingress: Vec<NetworkPolicyIngressRule>,
) -> NetworkPolicy {
    let mut selector = labels::cluster(&cluster.key.name);
    selector.insert(role.to_owned(), "true".into());
    let nodes = NetworkPolicyEgressRule {
        to: Some(vec![own_nodes(cluster)]),
        ports: Some(vec![tcp(CONTROLLER_PORT), tcp(INTERNAL_PORT)]),
    };
    // DNS servers listen on 53, but those of OpenShift and some others listen on 5353 behind their
    // Service.
    let dns = [53, 5353]
        .into_iter()
        .flat_map(|number| [port(number, "UDP"), port(number, "TCP")])
        .collect();
    let dns = NetworkPolicyEgressRule {
        to: None,
        ports: Some(dns),
    };
    NetworkPolicy {
        metadata: metadata(cluster, &format!("{}-{name}", cluster.key.name)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(labelled(selector)),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(ingress),
            egress: Some(vec![nodes, dns]),
        }),
    }
}

fn port(number: u16, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(number))),
        protocol: Some(protocol.into()),
        end_port: None,
    }
}

fn tcp(number: u16) -> NetworkPolicyPort {
    port(number, "TCP")
}

fn labelled(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    }
}

fn own_nodes(cluster: &ValidCluster) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: Some(labelled(labels::cluster(&cluster.key.name))),
        ..Default::default()
    }
}

fn operator(cluster: &ValidCluster) -> NetworkPolicyPeer {
    let namespace = BTreeMap::from([(
        "kubernetes.io/metadata.name".to_owned(),
        cluster.operator_namespace.clone(),
    )]);
    let pods = BTreeMap::from([("app.kubernetes.io/name".to_owned(), "freehold".to_owned())]);
    NetworkPolicyPeer {
        namespace_selector: Some(labelled(namespace)),
        pod_selector: Some(labelled(pods)),
        ip_block: None,
    }
}

/// The peers that may connect as clients: the cluster's own namespace, and those that
/// `access.namespaces` allows.
fn clients(cluster: &ValidCluster) -> Vec<NetworkPolicyPeer> {
    let own = NetworkPolicyPeer {
        pod_selector: Some(LabelSelector::default()),
        ..Default::default()
    };
    let namespaces = |selector| NetworkPolicyPeer {
        namespace_selector: Some(selector),
        ..Default::default()
    };
    let access = &cluster.spec.access.namespaces;
    match access.from {
        AccessFrom::Same => vec![own],
        AccessFrom::All => vec![namespaces(LabelSelector::default())],
        AccessFrom::Selector if access.selector.match_labels.is_empty() => vec![own],
        AccessFrom::Selector => vec![
            own,
            namespaces(labelled(access.selector.match_labels.clone())),
        ],
    }
}
