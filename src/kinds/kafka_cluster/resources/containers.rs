//! Builds the only container of a node's pod. Pure.

use crate::api::kafka_cluster::{PodTemplate, Role};
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::model::heap::MEMORY_DEFAULT;
use crate::kinds::kafka_cluster::model::ports::{
    CONTROLLER_PORT, INTERNAL_PORT, OWN_PORTS, PROBE_PORT,
};
use crate::kinds::kafka_cluster::resources::volumes;
use crate::kubernetes::quantity;
use crate::kubernetes::restricted::{probe, security_context};
use freehold_kafka::jvm_options;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// The CPU request if the spec sets none, as a quantity and in cores.
const CPU_DEFAULT: &str = "100m";
const CPU_CORES_DEFAULT: f64 = 0.1;

/// The time in seconds that a start may take: after a crash the broker recovers its logs.
const START_LIMIT_SECONDS: u32 = 3600;

/// The container that runs Kafka.
pub fn kafka(cluster: &ValidCluster, group: &NodeGroup, template: &PodTemplate) -> Container {
    let heap_mib = group.heap_bytes / (1024 * 1024);
    let mut args = vec![format!("-Xms{heap_mib}m"), format!("-Xmx{heap_mib}m")];
    args.extend(jvm_options::arguments(&group.pool.jvm.options));
    args.extend([
        "dev.freehold.kafka.Launcher".into(),
        volumes::CONFIG_FOLDER.into(),
    ]);
    let mut env = vec![
        from_field("POD_NAME", "metadata.name"),
        from_field("NODE_ID", "metadata.labels['apps.kubernetes.io/pod-index']"),
    ];
    env.extend(template.env.iter().cloned());
    let start_limit = i32::try_from(template.start_limit_seconds.unwrap_or(START_LIMIT_SECONDS))
        .unwrap_or(i32::MAX);
    Container {
        name: "kafka".into(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(args),
        env: Some(env),
        ports: Some(ports(cluster, group)),
        resources: Some(resources(group)),
        security_context: Some(security_context()),
        volume_mounts: Some(volumes::mounts(group, template)),
        // The launcher answers from the broker's own state.
        startup_probe: Some(probe(PROBE_PORT, "/readyz", 1, start_limit)),
        readiness_probe: Some(probe(PROBE_PORT, "/readyz", 2, 2)),
        liveness_probe: Some(probe(PROBE_PORT, "/livez", 10, 6)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Default::default()
    }
}

fn from_field(name: &str, field: &str) -> EnvVar {
    let source = ObjectFieldSelector {
        api_version: Some("v1".into()),
        field_path: field.into(),
    };
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(source),
            ..Default::default()
        }),
    }
}

fn ports(cluster: &ValidCluster, group: &NodeGroup) -> Vec<ContainerPort> {
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.into()),
        container_port: i32::from(number),
        protocol: Some("TCP".into()),
        ..Default::default()
    };
    let [controller, internal, probes] = OWN_PORTS;
    let mut ports = vec![port(probes, PROBE_PORT)];
    if group.is(Role::Controller) {
        ports.push(port(controller, CONTROLLER_PORT));
    }
    if group.is(Role::Broker) {
        ports.push(port(internal, INTERNAL_PORT));
        ports.extend(
            cluster
                .spec
                .listeners
                .iter()
                .map(|listener| port(&listener.name, listener.port)),
        );
    }
    ports
}

/// The memory request equals the limit, so that the kernel does not kill a broker when its
/// neighbours need memory. A pool that sets only a request gets no limit.
fn resources(group: &NodeGroup) -> ResourceRequirements {
    let mut resources = group.pool.resources.clone().unwrap_or_default();
    let of = |field: &Option<BTreeMap<String, Quantity>>, key: &str| {
        field.as_ref().and_then(|field| field.get(key)).cloned()
    };
    let set = |field: &mut Option<BTreeMap<String, Quantity>>, key: &str, value: Quantity| {
        field
            .get_or_insert_default()
            .entry(key.to_owned())
            .or_insert(value);
    };
    match (
        of(&resources.limits, "memory"),
        of(&resources.requests, "memory"),
    ) {
        (Some(memory), _) => set(&mut resources.requests, "memory", memory),
        (None, Some(_)) => {}
        (None, None) => {
            set(
                &mut resources.limits,
                "memory",
                Quantity(MEMORY_DEFAULT.into()),
            );
            set(
                &mut resources.requests,
                "memory",
                Quantity(MEMORY_DEFAULT.into()),
            );
        }
    }
    // The API server refuses a request above the limit.
    let limit = of(&resources.limits, "cpu")
        .filter(|limit| quantity::number(&limit.0).is_some_and(|cores| cores < CPU_CORES_DEFAULT));
    set(
        &mut resources.requests,
        "cpu",
        limit.unwrap_or(Quantity(CPU_DEFAULT.into())),
    );
    resources
}
