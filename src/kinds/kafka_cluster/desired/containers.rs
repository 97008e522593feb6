//! The one container of a node's pod. Pure.

use super::super::api::Role;
use super::super::validate::{MEMORY_DEFAULT, NodeGroup, ValidCluster};
use super::volumes;
use super::{CONTROLLER_PORT, INTERNAL_PORT, PROBE_PORT};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector, Probe, ResourceRequirements,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

pub fn kafka(cluster: &ValidCluster, group: &NodeGroup) -> Container {
    let heap_mib = group.heap_bytes / (1024 * 1024);
    let args =
        [format!("-Xms{heap_mib}m"), format!("-Xmx{heap_mib}m"), "dev.freehold.kafka.Launcher".into(), volumes::CONFIG_FOLDER.into()];
    Container {
        name: "kafka".into(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(args.to_vec()),
        env: Some(vec![from_field("POD_NAME", "metadata.name"), from_field("NODE_ID", "metadata.labels['apps.kubernetes.io/pod-index']")]),
        ports: Some(ports(cluster, group)),
        resources: Some(resources(group)),
        security_context: Some(security_context()),
        volume_mounts: Some(volumes::mounts(group)),
        startup_probe: Some(probe("/readyz", 1, 3600)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        liveness_probe: Some(probe("/livez", 10, 6)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Default::default()
    }
}

fn from_field(name: &str, field: &str) -> EnvVar {
    let source = ObjectFieldSelector { api_version: Some("v1".into()), field_path: field.into() };
    EnvVar { name: name.into(), value: None, value_from: Some(EnvVarSource { field_ref: Some(source), ..Default::default() }) }
}

fn ports(cluster: &ValidCluster, group: &NodeGroup) -> Vec<ContainerPort> {
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.into()),
        container_port: i32::from(number),
        protocol: Some("TCP".into()),
        ..Default::default()
    };
    let mut ports = vec![port("probes", PROBE_PORT)];
    if group.is(Role::Controller) {
        ports.push(port("controller", CONTROLLER_PORT));
    }
    if group.is(Role::Broker) {
        ports.push(port("internal", INTERNAL_PORT));
        ports.extend(cluster.spec.listeners.iter().map(|listener| port(&listener.name, listener.port)));
    }
    ports
}

/// Memory is requested as it is limited: a broker that the kernel kills for its neighbours is a broker lost.
fn resources(group: &NodeGroup) -> ResourceRequirements {
    let mut resources = group.pool.resources.clone().unwrap_or_default();
    let memory = resources.limits.as_ref().and_then(|limits| limits.get("memory")).cloned().unwrap_or(Quantity(MEMORY_DEFAULT.into()));
    let set = |field: &mut Option<BTreeMap<String, Quantity>>, key: &str, value: Quantity| {
        field.get_or_insert_default().entry(key.to_owned()).or_insert(value);
    };
    set(&mut resources.limits, "memory", memory.clone());
    set(&mut resources.requests, "memory", memory);
    set(&mut resources.requests, "cpu", Quantity("100m".into()));
    resources
}

fn security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..Default::default()
    }
}

/// The launcher answers from the broker's own state. A start may take an hour: logs are recovered after a crash.
fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(i32::from(PROBE_PORT)),
            scheme: Some("HTTP".into()),
            ..Default::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        success_threshold: Some(1),
        timeout_seconds: Some(5),
        ..Default::default()
    }
}
