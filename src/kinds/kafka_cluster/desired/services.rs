//! Services: host names for nodes, where clients start, and an address for each broker that stays. Pure.
//!
//! A client keeps the address that it once resolved, a JVM for half a minute. With an address of its own a broker that
//! restarts is found again at once, and while it is away a connection is refused instead of lost.

use super::super::api::Role;
use super::super::validate::ValidCluster;
use super::{CONTROLLER_PORT, INTERNAL_PORT, metadata};
use crate::{labels, names};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// A StatefulSet's controller puts it on its pods.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";

pub fn services(cluster: &ValidCluster) -> Vec<Service> {
    let mut services = vec![nodes(cluster)];
    if !cluster.spec.listeners.is_empty() && cluster.count(Role::Broker) > 0 {
        services.push(bootstrap(cluster));
        for group in cluster.groups_of(Role::Broker) {
            services.extend(group.node_ids().map(|id| broker(cluster, &names::pod(&group.stateful_set, id))));
        }
    }
    services
}

fn port(name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        target_port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some("TCP".into()),
        ..Default::default()
    }
}

/// Not-ready addresses are published by both: a quorum that starts must find itself, and clients of a cluster that
/// catches up must reach the brokers that lead.
fn service(cluster: &ValidCluster, name: &str, selector: BTreeMap<String, String>, ports: Vec<ServicePort>, headless: bool) -> Service {
    Service {
        metadata: metadata(cluster, name),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            cluster_ip: headless.then(|| "None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector),
            ports: Some(ports),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn nodes(cluster: &ValidCluster) -> Service {
    let ports = vec![port("controller", CONTROLLER_PORT), port("internal", INTERNAL_PORT)];
    service(cluster, &names::nodes_service(&cluster.key.name), labels::cluster(&cluster.key.name), ports, true)
}

fn broker(cluster: &ValidCluster, pod: &str) -> Service {
    let mut selector = labels::cluster(&cluster.key.name);
    selector.insert(POD_NAME.to_owned(), pod.to_owned());
    service(cluster, pod, selector, client_ports(cluster), false)
}

fn client_ports(cluster: &ValidCluster) -> Vec<ServicePort> {
    cluster.spec.listeners.iter().map(|listener| port(&listener.name, listener.port)).collect()
}

fn bootstrap(cluster: &ValidCluster) -> Service {
    let mut selector = labels::cluster(&cluster.key.name);
    selector.insert(labels::BROKER.into(), "true".into());
    service(cluster, &names::bootstrap_service(&cluster.key.name), selector, client_ports(cluster), false)
}
