//! Labels, annotations and finalizers that Freehold sets on objects or reads from them. Pure.

use std::collections::BTreeMap;

/// The field manager of every server-side apply.
pub const FIELD_MANAGER: &str = "freehold";
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const CLUSTER: &str = "freehold.dev/cluster";
pub const POOL: &str = "freehold.dev/pool";
pub const ZONE: &str = "freehold.dev/zone";
pub const USER: &str = "freehold.dev/user";
pub const PIPELINE: &str = "freehold.dev/pipeline";
/// On the pods of a Pipeline: the stage that they run.
pub const STAGE: &str = "freehold.dev/stage";
/// "true" on pods that have that role.
pub const BROKER: &str = "freehold.dev/broker";
pub const CONTROLLER: &str = "freehold.dev/controller";
/// First node id of a pool and zone; on its volumes.
pub const FIRST_NODE_ID: &str = "freehold.dev/first-node-id";
/// Id of the Kafka cluster; on volumes.
pub const CLUSTER_ID: &str = "freehold.dev/cluster-id";
/// On a volume claim: the size that Freehold requested last. Only that is taken back.
pub const REQUESTED_SIZE: &str = "freehold.dev/requested-size";
/// Hash of the desired state that was last applied. It changes when a field is removed from the
/// desired state, which a comparison of fields would not show.
pub const APPLIED_HASH: &str = "freehold.dev/applied-hash";
/// On pods and their templates: hashes of the part of server.properties that only a start reads, of
/// the template itself, and of the part of the spec that both are built from.
pub const CONFIG_HASH: &str = "freehold.dev/config-hash";
pub const TEMPLATE_HASH: &str = "freehold.dev/template-hash";
pub const SPEC_HASH: &str = "freehold.dev/spec-hash";
/// On a pod and its template: the image in the template. An admission policy may replace the image
/// in the pod.
pub const IMAGE: &str = "freehold.dev/image";
/// On a KafkaCluster: each new value requests a restart of every node, one batch after the other.
pub const RESTART: &str = "freehold.dev/restart";
/// On a pod: ids of the controllers in its configuration, separated by commas.
pub const CONTROLLERS: &str = "freehold.dev/controllers";
/// Confirms the deletion of a topic that holds records. The value is the topic's name.
pub const CONFIRM_DELETE: &str = "freehold.dev/confirm-delete";
/// Readiness gate of pods: every replica of this node is in sync.
pub const IN_SYNC: &str = "freehold.dev/in-sync";
/// On a User: each new value requests a new credential.
pub const ROTATE: &str = "freehold.dev/rotate";
/// On a User's Secret: hashes of the inputs and of the content, and which credential it holds.
pub const SECRET_INPUTS: &str = "freehold.dev/inputs";
pub const SECRET_CONTENT: &str = "freehold.dev/content";
pub const SECRET_CREDENTIAL: &str = "freehold.dev/credential";
pub const SECRET_SINCE: &str = "freehold.dev/credential-since";
pub const SECRET_NOT_AFTER: &str = "freehold.dev/not-after";
/// Id of the key from which the password was derived.
pub const SECRET_KEY: &str = "freehold.dev/password-key";
pub const SECRET_ROTATED: &str = "freehold.dev/rotated";
/// Version and key of the Secret from which the password was taken.
pub const SECRET_GIVEN: &str = "freehold.dev/given";
pub const FINALIZER: &str = "freehold.dev/finalizer";
/// On a KafkaCluster: id of a node that is to be emptied, given a new volume, and filled again.
pub const REPLACE: &str = "freehold.dev/replace";
/// On a KafkaCluster: each new value requests new CAs.
pub const ROTATE_CA: &str = "freehold.dev/rotate-ca";
/// On a KafkaCluster: each new value requests new certificates for nodes and operator. On their
/// Secrets: the last value that was carried out.
pub const RENEW_CERTIFICATES: &str = "freehold.dev/renew-certificates";
/// On a CA's Secret: the time of its last change, and the last value that was carried out.
pub const CA_SINCE: &str = "freehold.dev/ca-since";
pub const CA_ROTATED: &str = "freehold.dev/ca-rotated";
/// On a KafkaCluster: each new value requests new passwords for all Users whose password Freehold
/// derives. On the Secret of the key: the last value that was carried out.
pub const ROTATE_PASSWORDS: &str = "freehold.dev/rotate-passwords";
/// On a KafkaCluster: the lost CAs and keys that may be replaced by new ones, by the marks in the
/// status, separated by commas.
pub const REPLACE_LOST: &str = "freehold.dev/replace-lost";
/// On a KafkaCluster: approves the plan of this name (`status.rebalance.proposal`).
pub const APPROVE_REBALANCE: &str = "freehold.dev/approve-rebalance";
/// On a Pipeline: the dead letters that are to be replayed, as JSON ([`crate::api::replay`]). On
/// the objects of a replay a label, "true".
pub const REPLAY: &str = "freehold.dev/replay";
/// The annotations by which a user requests something on one of Freehold's objects.
pub const ASKED: [&str; 10] = [
    RESTART,
    CONFIRM_DELETE,
    ROTATE,
    REPLACE,
    ROTATE_CA,
    RENEW_CERTIFICATES,
    ROTATE_PASSWORDS,
    REPLACE_LOST,
    APPROVE_REBALANCE,
    REPLAY,
];
/// Longer values are ignored: a user who may write annotations must not make an object too large to
/// be read.
pub const ASKED_CHARS_MAX: usize = 1024;
/// On the pods of a Pipeline: hash of the stage that they run, and of the credential that they were
/// started with.
pub const STAGE_HASH: &str = "freehold.dev/stage-hash";
pub const CREDENTIAL_HASH: &str = "freehold.dev/credential-hash";
/// On a revision of a Pipeline: who applied it, and what it changed.
pub const APPLIED_BY: &str = "freehold.dev/applied-by";
pub const CHANGES: &str = "freehold.dev/changes";
/// On a revision of a Pipeline: the names of its stages, separated by commas.
pub const STAGES: &str = "freehold.dev/stages";
/// Label selector for all objects that Freehold created.
pub const SELECTOR: &str = "app.kubernetes.io/managed-by=freehold";

/// The labels of every object of a cluster.
pub fn cluster(cluster: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "kafka".to_owned()),
        ("app.kubernetes.io/instance".to_owned(), cluster.to_owned()),
        (MANAGED_BY.to_owned(), "freehold".to_owned()),
        (CLUSTER.to_owned(), cluster.to_owned()),
    ])
}

/// The labels of every object of a Pipeline.
pub fn pipeline(pipeline: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            "app.kubernetes.io/name".to_owned(),
            "kafka-pipeline".to_owned(),
        ),
        ("app.kubernetes.io/instance".to_owned(), pipeline.to_owned()),
        (MANAGED_BY.to_owned(), "freehold".to_owned()),
        (PIPELINE.to_owned(), pipeline.to_owned()),
    ])
}
