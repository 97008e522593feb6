//! Builds the Services: host names for nodes, a bootstrap address for clients, and a stable address
//! for each broker. Pure.
//!
//! A client caches a resolved address, a JVM for half a minute. Because each broker has a stable
//! address, clients find a restarted broker again at once, and while it is away connections are
//! refused instead of timing out.

use crate::api::kafka_cluster::{Listener, Role};
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::model::ports::{CONTROLLER_PORT, INTERNAL_PORT};
use crate::kinds::kafka_cluster::resources::metadata;
use crate::kubernetes::{labels, names};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// The label that the StatefulSet controller sets on its pods.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";

/// All Services of a cluster.
pub fn services(cluster: &ValidCluster) -> Vec<Service> {
    let mut services = vec![nodes(cluster)];
    if !cluster.spec.listeners.is_empty() && cluster.count(Role::Broker) > 0 {
        services.push(bootstrap(cluster));
        for group in cluster.groups_of(Role::Broker) {
            services.extend(
                group
                    .node_ids()
                    .map(|id| broker(cluster, &names::pod(&group.stateful_set, id))),
            );
        }
    }
    services
}

fn port(name: &str, port: u16) -> ServicePort {
    to(IntOrString::Int(i32::from(port)), name, port)
}

fn to(target: IntOrString, name: &str, port: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        target_port: Some(target),
        protocol: Some("TCP".into()),
        ..Default::default()
    }
}

/// Publishes addresses that are not ready, because nodes of a starting quorum must find each other,
/// and clients of a cluster that catches up must reach the brokers that lead.
fn service(
    cluster: &ValidCluster,
    name: &str,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
    headless: bool,
) -> Service {
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
    let ports = vec![
        port("controller", CONTROLLER_PORT),
        port("internal", INTERNAL_PORT),
    ];
    service(
        cluster,
        &names::nodes_service(&cluster.key.name),
        labels::cluster(&cluster.key.name),
        ports,
        true,
    )
}

fn broker(cluster: &ValidCluster, pod: &str) -> Service {
    let mut selector = labels::cluster(&cluster.key.name);
    selector.insert(POD_NAME.to_owned(), pod.to_owned());
    service(cluster, pod, selector, client_ports(cluster), false)
}

fn client_ports(cluster: &ValidCluster) -> Vec<ServicePort> {
    cluster
        .spec
        .listeners
        .iter()
        .flat_map(|listener| listener_ports(cluster, listener))
        .collect()
}

/// The ports of a listener in a Service. A listener that gets another port is reachable on both
/// until every broker serves the new one. Each port targets the pod's port by its name, so it leads
/// to where that broker serves the listener.
fn listener_ports(cluster: &ValidCluster, listener: &Listener) -> Vec<ServicePort> {
    let name = &listener.name;
    let former = cluster.former_ports(listener);
    let is_known = cluster.serving.iter().all(|ports| ports.contains_key(name));
    if former.is_empty() || !is_known {
        return vec![port(name, listener.port)];
    }
    // The first port keeps its former name, so that this name always has endpoints.
    let numbers = former.into_iter().chain([listener.port]).enumerate();
    let named = |(index, number): (usize, u16)| {
        let port_name = if index == 0 {
            name.clone()
        } else {
            format!("{name}-{number}")
        };
        to(IntOrString::String(name.clone()), &port_name, number)
    };
    numbers.map(named).collect()
}

fn bootstrap(cluster: &ValidCluster) -> Service {
    let mut selector = labels::cluster(&cluster.key.name);
    selector.insert(labels::BROKER.into(), "true".into());
    service(
        cluster,
        &names::bootstrap_service(&cluster.key.name),
        selector,
        client_ports(cluster),
        false,
    )
}
