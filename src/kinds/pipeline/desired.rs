//! Builds the objects of a Pipeline: for each stage a StatefulSet of runners with its ConfigMap, its
//! PodDisruptionBudget, its NetworkPolicy, and a Service if it has an HTTP source; and one
//! ServiceAccount for all. A replay of dead letters is one more StatefulSet, with a ConfigMap and a
//! NetworkPolicy. Pure; it cannot fail.

use crate::api::pipeline::{Pipeline, PipelineState};
use crate::kinds::pipeline::network::{self, SOURCE_PORT, is_server};
use crate::kinds::pipeline::sources;
pub use crate::kinds::pipeline::wanted::{HTTP_PORT, Replaying, Wanted};
use crate::kinds::pipeline::wanted::{metadata, of_stage, selector, selects};
use crate::kubernetes::restricted::{USER_ID, probe, security_context};
use crate::kubernetes::{Object, labels, names};
use freehold_pipeline::outside::{secrets, tls};
use freehold_pipeline::stage_document::{StageDocument, VERSION};
use freehold_pipeline::stages::{Role, Stage};
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar,
    EnvVarSource, LocalObjectReference, ObjectFieldSelector, PodSecurityContext, PodSpec,
    PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretVolumeSource, ServiceAccount,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Where the User's Secret is mounted.
pub const USER_FOLDER: &str = "/etc/freehold/user";
const STAGE_FOLDER: &str = "/etc/freehold/stage";
/// Where the Secrets that blocks name are mounted, each in a folder of its name.
const SECRETS_FOLDER: &str = "/etc/freehold/secrets";
/// Where the certificate of an HTTP source is mounted.
const TLS_FOLDER: &str = "/etc/freehold/tls";
/// Where a runner keeps its crash journal: it outlives the container, not the pod.
const WORK_FOLDER: &str = "/var/lib/freehold";
/// Two files of at most 4 MiB each; they have some KiB.
const WORK_SIZE_MAX: &str = "16Mi";
/// A runner ends its transaction when it is asked to end; this is far more than it needs.
const GRACE_SECONDS: i64 = 30;

/// The consumer group of a stage, which is also the prefix of its transactional ids.
pub fn group(object: &Pipeline, stage: &str) -> String {
    let namespace = object.namespace().unwrap_or_default();
    format!("{namespace}.{}.{stage}", object.name_any())
}

/// All objects in the order in which they are applied: what pods need comes before the pods.
pub fn objects(wanted: &Wanted<'_>) -> Vec<Object> {
    let mut objects = vec![Object::of(&service_account(wanted))];
    for stage in wanted.stages {
        let document = document(wanted, stage);
        objects.push(Object::of(&config_map(wanted, stage, &document)));
        objects.push(Object::of(&budget(wanted, stage)));
        objects.push(Object::of(&network::policy(wanted, stage)));
        if is_server(stage) {
            objects.push(Object::of(&network::service(wanted, stage)));
        }
        let replicas = replicas(wanted.object, &stage.name);
        objects.push(Object::of(&stateful_set(wanted, stage, document, replicas)));
    }
    if let Some(replaying) = wanted.replay {
        let document = StageDocument {
            replay: Some(replaying.replay.clone()),
            ..document(wanted, &replaying.stage)
        };
        let stage = &replaying.named();
        objects.push(Object::of(&config_map(wanted, stage, &document)));
        objects.push(Object::of(&network::policy(wanted, stage)));
        let replicas = replay_replicas(wanted.object);
        objects.push(Object::of(&stateful_set(wanted, stage, document, replicas)));
    }
    objects
}

/// The replicas of a replay of dead letters: it waits while the Pipeline is Paused, and one that is
/// cancelled writes no more though the Pipeline or its cluster keep the operator from ending it.
pub fn replay_replicas(object: &Pipeline) -> i32 {
    let is_asked = object.annotations().contains_key(labels::REPLAY);
    i32::from(object.spec.state == PipelineState::Running && is_asked)
}

/// The replicas of a stage. The status has the partitions that it reads, and with `scaling` what was
/// decided last.
pub fn replicas(object: &Pipeline, stage: &str) -> i32 {
    let mut stages = object.status.iter().flat_map(|status| &status.stages);
    let known = stages.find(|known| known.name == stage);
    match (object.spec.state, &object.spec.scaling) {
        (PipelineState::Paused, _) => 0,
        (PipelineState::Running, None) => {
            let partitions = known.and_then(|known| known.partitions);
            let most = partitions.map_or(i32::MAX, |partitions| partitions.max(1));
            object.spec.replicas.min(most)
        }
        (PipelineState::Running, Some(scaling)) => {
            let wanted = known.and_then(|known| known.wanted);
            wanted.unwrap_or(scaling.min).min(scaling.max)
        }
    }
}

fn document(wanted: &Wanted<'_>, stage: &Stage) -> StageDocument {
    let object = wanted.object;
    let namespace = object.namespace().unwrap_or_default();
    StageDocument {
        version: VERSION,
        pipeline: format!("{namespace}/{}", object.name_any()),
        uid: object.metadata.uid.clone().unwrap_or_default(),
        revision: u64::try_from(wanted.revision).unwrap_or_default(),
        stage: stage.name.clone(),
        group: group(object, &stage.name),
        definition: stage.definition.clone(),
        topics: sources::ids(stage, wanted.topics),
        replay: None,
    }
}

/// The ServiceAccount of the pods; it has no rights and no token.
fn service_account(wanted: &Wanted<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(wanted, names::of_pipeline(&wanted.object.name_any())),
        automount_service_account_token: Some(false),
        ..Default::default()
    }
}

fn config_map(wanted: &Wanted<'_>, stage: &Stage, document: &StageDocument) -> ConfigMap {
    let json = |value: &Value| value.to_string();
    let document = serde_json::to_value(document).expect("a stage document serializes");
    ConfigMap {
        metadata: of_stage(wanted, stage),
        data: Some(BTreeMap::from([
            ("stage.json".to_owned(), json(&document)),
            ("client.json".to_owned(), json(wanted.client)),
        ])),
        ..Default::default()
    }
}

fn budget(wanted: &Wanted<'_>, stage: &Stage) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: of_stage(wanted, stage),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selects(selector(wanted, stage))),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn stateful_set(
    wanted: &Wanted<'_>,
    stage: &Stage,
    document: StageDocument,
    replicas: i32,
) -> StatefulSet {
    let labels = selector(wanted, stage);
    StatefulSet {
        metadata: of_stage(wanted, stage),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            pod_management_policy: Some("Parallel".into()),
            revision_history_limit: Some(2),
            selector: selects(labels.clone()),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels.clone()),
                    annotations: Some(annotations(wanted, document)),
                    ..Default::default()
                }),
                spec: Some(pod(wanted, stage, labels)),
            },
            ..Default::default()
        }),
        status: None,
    }
}

/// What a pod was started with: another stage or another credential needs another start. The number
/// of the revision is left out, so that a change of one stage restarts no other. So are the former ids
/// of topics: they come with another id, and go when the pods have gone on.
pub fn started_with(wanted: &Wanted<'_>, stage: &Stage) -> BTreeMap<String, String> {
    annotations(wanted, document(wanted, stage))
}

fn annotations(wanted: &Wanted<'_>, mut document: StageDocument) -> BTreeMap<String, String> {
    document.revision = 0;
    for topic in document.topics.values_mut() {
        topic.former.clear();
    }
    let document = serde_json::to_string(&document).expect("a stage document serializes");
    let stage = format!("{document}{}", wanted.client);
    let hash = names::hex(&Sha256::digest(stage)[..8]);
    BTreeMap::from([
        (labels::STAGE_HASH.to_owned(), hash),
        (
            labels::CREDENTIAL_HASH.to_owned(),
            wanted.credential.to_owned(),
        ),
    ])
}

fn pod(wanted: &Wanted<'_>, stage: &Stage, labels: BTreeMap<String, String>) -> PodSpec {
    let secrets = wanted.settings.image_pull_secrets.iter();
    let secrets: Vec<_> = secrets
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    PodSpec {
        containers: vec![container(wanted, stage)],
        service_account_name: Some(names::of_pipeline(&wanted.object.name_any())),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: Some(secrets).filter(|secrets| !secrets.is_empty()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER_ID),
            run_as_group: Some(USER_ID),
            fs_group: Some(USER_ID),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            label_selector: Some(selects(labels)),
            ..Default::default()
        }]),
        volumes: Some(volumes(wanted, stage)),
        ..Default::default()
    }
}

/// The files of a pod: the stage, the User's Secret, the folder of the crash journal, the
/// certificate of an HTTP source, and the Secrets that blocks name. The last may be missing: the runner says so at its block, and takes
/// them when they are there.
fn volumes(wanted: &Wanted<'_>, stage: &Stage) -> Vec<Volume> {
    let of_secret = |name: String, secret: String, optional: Option<bool>| Volume {
        name,
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            optional,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut volumes = vec![
        Volume {
            name: "stage".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::stage(&wanted.object.name_any(), &stage.name),
                ..Default::default()
            }),
            ..Default::default()
        },
        of_secret("user".into(), wanted.secret.to_owned(), None),
    ];
    if has_journal(stage) {
        volumes.push(Volume {
            name: "work".into(),
            empty_dir: Some(EmptyDirVolumeSource {
                medium: None,
                size_limit: Some(Quantity(WORK_SIZE_MAX.into())),
            }),
            ..Default::default()
        });
    }
    if let Some(secret) = certificate(wanted, stage) {
        let is_named = stage
            .definition
            .blocks
            .iter()
            .any(|block| tls(block).is_some());
        volumes.push(of_secret("tls".into(), secret, is_named.then_some(true)));
    }
    for (place, secret) in named_secrets(stage).into_iter().enumerate() {
        volumes.push(of_secret(format!("secret-{place}"), secret, Some(true)));
    }
    volumes
}

/// Whether the stage runs programs: only they have a crash journal.
fn has_journal(stage: &Stage) -> bool {
    Role::of(&stage.definition.blocks) == Role::Flow
}

/// The Secret with the certificate of a stage's HTTP source.
fn certificate(wanted: &Wanted<'_>, stage: &Stage) -> Option<String> {
    let sources = stage.definition.blocks.iter();
    let mut sources = sources.filter_map(|block| block.source.as_ref()?.http.as_ref());
    let given = sources.next()?.tls.as_ref();
    Some(match given {
        Some(given) => given.name.clone(),
        None => names::stage_certificate(&wanted.object.name_any(), &stage.name),
    })
}

/// The Secrets that the blocks of a stage name, each once.
fn named_secrets(stage: &Stage) -> BTreeSet<String> {
    let needed = stage.definition.blocks.iter().flat_map(secrets);
    needed.map(|needed| needed.secret).collect()
}

fn container(wanted: &Wanted<'_>, stage: &Stage) -> Container {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(true),
        ..Default::default()
    };
    let mut args = vec![
        "--stage".to_owned(),
        format!("{STAGE_FOLDER}/stage.json"),
        "--client".to_owned(),
        format!("{STAGE_FOLDER}/client.json"),
        "--ordinal".to_owned(),
        "$(ORDINAL)".to_owned(),
        "--listen".to_owned(),
        format!("[::]:{HTTP_PORT}"),
    ];
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.into()),
        container_port: i32::from(number),
        protocol: Some("TCP".into()),
        ..Default::default()
    };
    let mut ports = vec![port("http", HTTP_PORT)];
    let mut mounts = vec![mount("stage", STAGE_FOLDER), mount("user", USER_FOLDER)];
    if has_journal(stage) {
        args.extend(["--work".to_owned(), WORK_FOLDER.to_owned()]);
        mounts.push(VolumeMount {
            name: "work".into(),
            mount_path: WORK_FOLDER.into(),
            ..Default::default()
        });
    }
    if certificate(wanted, stage).is_some() {
        args.extend(["--tls".to_owned(), TLS_FOLDER.to_owned()]);
        args.extend(["--http-source".to_owned(), format!("[::]:{SOURCE_PORT}")]);
        ports.push(port("https", SOURCE_PORT));
        mounts.push(mount("tls", TLS_FOLDER));
    }
    let secrets = named_secrets(stage);
    if !secrets.is_empty() {
        args.extend(["--secrets".to_owned(), SECRETS_FOLDER.to_owned()]);
    }
    for (place, secret) in secrets.iter().enumerate() {
        mounts.push(mount(
            &format!("secret-{place}"),
            &format!("{SECRETS_FOLDER}/{secret}"),
        ));
    }
    Container {
        name: "runner".into(),
        image: Some(wanted.image.to_owned()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(args),
        env: Some(vec![ordinal()]),
        ports: Some(ports),
        resources: Some(resources(wanted.object)),
        security_context: Some(security_context()),
        volume_mounts: Some(mounts),
        readiness_probe: Some(probe(HTTP_PORT, "/readyz", 1, 3)),
        liveness_probe: Some(probe(HTTP_PORT, "/healthz", 10, 6)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Default::default()
    }
}

fn ordinal() -> EnvVar {
    EnvVar {
        name: "ORDINAL".into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".into()),
                field_path: "metadata.labels['apps.kubernetes.io/pod-index']".into(),
            }),
            ..Default::default()
        }),
    }
}

fn resources(object: &Pipeline) -> ResourceRequirements {
    let amounts = |pairs: &[(&str, &str)]| -> BTreeMap<String, Quantity> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, amount)| ((*key).to_owned(), Quantity((*amount).to_owned())))
            .collect()
    };
    object
        .spec
        .resources
        .clone()
        .unwrap_or_else(|| ResourceRequirements {
            limits: Some(amounts(&[("memory", "256Mi")])),
            requests: Some(amounts(&[("cpu", "100m"), ("memory", "64Mi")])),
            claims: None,
        })
}
