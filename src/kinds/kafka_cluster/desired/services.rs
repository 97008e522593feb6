//! Services: host names for nodes, and where clients start. Pure.

use super::super::api::Role;
use super::super::validate::ValidCluster;
use super::{CONTROLLER_PORT, INTERNAL_PORT, metadata};
use crate::{labels, names};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

pub fn services(cluster: &ValidCluster) -> Vec<Service> {
    let mut services = vec![nodes(cluster)];
    if !cluster.spec.listeners.is_empty() && cluster.count(Role::Broker) > 0 {
        services.push(bootstrap(cluster));
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

fn bootstrap(cluster: &ValidCluster) -> Service {
    let mut selector = labels::cluster(&cluster.key.name);
    selector.insert(labels::BROKER.into(), "true".into());
    let ports = cluster.spec.listeners.iter().map(|listener| port(&listener.name, listener.port)).collect();
    service(cluster, &names::bootstrap_service(&cluster.key.name), selector, ports, false)
}
