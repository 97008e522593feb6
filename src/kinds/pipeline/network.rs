//! How the network reaches the pods of a stage, and what they reach: the Service of an HTTP source,
//! and a NetworkPolicy. Pure.

use crate::kinds::pipeline::wanted::{HTTP_PORT, Wanted, of_stage, selector, selects};
use crate::kubernetes::labels;
use freehold_pipeline::outside::reaches;
use freehold_pipeline::stages::Stage;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Where the HTTP source of a stage listens.
pub const SOURCE_PORT: u16 = 8443;

/// Whether a stage has an HTTP source.
pub fn is_server(stage: &Stage) -> bool {
    let mut sources = stage
        .definition
        .blocks
        .iter()
        .filter_map(|block| block.source.as_ref());
    sources.any(|source| source.http.is_some())
}

/// The Service of an HTTP source.
pub fn service(wanted: &Wanted<'_>, stage: &Stage) -> Service {
    Service {
        metadata: of_stage(wanted, stage),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            selector: Some(selector(wanted, stage)),
            ports: Some(vec![ServicePort {
                name: Some("https".into()),
                port: i32::from(SOURCE_PORT),
                target_port: Some(IntOrString::Int(i32::from(SOURCE_PORT))),
                protocol: Some("TCP".into()),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        status: None,
    }
}

/// The pods reach brokers, DNS, and the hosts that their blocks name; the operator, and pods of the
/// same namespace, reach their HTTP ports. Whoever lets others in adds a policy.
pub fn policy(wanted: &Wanted<'_>, stage: &Stage) -> NetworkPolicy {
    let operator = pods(
        &wanted.settings.namespace,
        named("app.kubernetes.io/name", "freehold"),
    );
    let neighbours = NetworkPolicyPeer {
        pod_selector: Some(LabelSelector::default()),
        ..Default::default()
    };
    let brokers = NetworkPolicyEgressRule {
        to: Some(vec![pods(
            &wanted.cluster.namespace,
            named(labels::CLUSTER, &wanted.cluster.name),
        )]),
        ports: Some(
            wanted
                .ports
                .iter()
                .map(|number| port(*number, "TCP"))
                .collect(),
        ),
    };
    // DNS servers listen on 53, but those of OpenShift and some others listen on 5353 behind their
    // Service.
    let dns = [53, 5353]
        .into_iter()
        .flat_map(|number| [port(number, "UDP"), port(number, "TCP")]);
    let dns = NetworkPolicyEgressRule {
        to: None,
        ports: Some(dns.collect()),
    };
    let mut served = vec![port(HTTP_PORT, "TCP")];
    if is_server(stage) {
        served.push(port(SOURCE_PORT, "TCP"));
    }
    NetworkPolicy {
        metadata: of_stage(wanted, stage),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selects(selector(wanted, stage))),
            policy_types: Some(vec!["Ingress".into(), "Egress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![operator, neighbours]),
                ports: Some(served),
            }]),
            egress: Some(
                [brokers, dns]
                    .into_iter()
                    .chain(outside(wanted, stage))
                    .collect(),
            ),
        }),
    }
}

/// The hosts that blocks name. A policy knows no names: a Service of the cluster stands for the pods
/// of its namespace, and any other name for every address, at that port.
fn outside(wanted: &Wanted<'_>, stage: &Stage) -> Vec<NetworkPolicyEgressRule> {
    let blocks = stage.definition.blocks.iter();
    let hosts: BTreeSet<(String, u16)> = blocks.filter_map(reaches).collect();
    let own = wanted.object.namespace().unwrap_or_default();
    let rule = |(host, number): (String, u16)| {
        let at_port = Some(vec![port(number, "TCP")]);
        if let Some(namespace) = namespace_of(&host, &own) {
            // The pods behind a Service may listen at another port.
            return NetworkPolicyEgressRule {
                to: Some(vec![pods(namespace, BTreeMap::new())]),
                ports: None,
            };
        }
        let blocks = match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => vec![format!("{address}/32")],
            Ok(IpAddr::V6(address)) => vec![format!("{address}/128")],
            Err(_) => vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
        };
        let peer = |cidr| NetworkPolicyPeer {
            ip_block: Some(IPBlock { cidr, except: None }),
            ..Default::default()
        };
        NetworkPolicyEgressRule {
            to: Some(blocks.into_iter().map(peer).collect()),
            ports: at_port,
        }
    };
    hosts.into_iter().map(rule).collect()
}

/// The namespace of a Service, if a host is the name of one: `hook`, `hook.shop.svc` or
/// `hook.shop.svc.cluster.local`.
fn namespace_of<'a>(host: &'a str, own: &'a str) -> Option<&'a str> {
    let parts: Vec<&str> = host.split('.').collect();
    match parts[..] {
        [_] if host.parse::<IpAddr>().is_err() => Some(own),
        [_, namespace, "svc", ..] => Some(namespace),
        _ => None,
    }
}

fn port(number: u16, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(number))),
        protocol: Some(protocol.into()),
        end_port: None,
    }
}

fn named(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

/// Pods of a namespace; without labels all of them.
fn pods(namespace: &str, labels: BTreeMap<String, String>) -> NetworkPolicyPeer {
    let labels = (!labels.is_empty()).then(|| selects(labels));
    NetworkPolicyPeer {
        namespace_selector: Some(selects(named("kubernetes.io/metadata.name", namespace))),
        pod_selector: labels,
        ip_block: None,
    }
}
