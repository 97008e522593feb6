//! Labels, annotations and markers that Freehold puts on objects. Pure.

use std::collections::BTreeMap;

/// The field manager of every server-side apply.
pub const FIELD_MANAGER: &str = "freehold";
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const CLUSTER: &str = "freehold.dev/cluster";
pub const POOL: &str = "freehold.dev/pool";
pub const ZONE: &str = "freehold.dev/zone";
pub const USER: &str = "freehold.dev/user";
/// "true" on pods with that role.
pub const BROKER: &str = "freehold.dev/broker";
pub const CONTROLLER: &str = "freehold.dev/controller";
/// First node id of a pool and zone, on its volumes.
pub const FIRST_NODE_ID: &str = "freehold.dev/first-node-id";
/// Cluster id, on volumes.
pub const CLUSTER_ID: &str = "freehold.dev/cluster-id";
/// Hash of what was last applied: a field that left the desired state shows by it.
pub const APPLIED_HASH: &str = "freehold.dev/applied-hash";
/// On pods and their templates: hashes of the server.properties that only a start reads, of the template itself, and of
/// the part of the spec that both are made from.
pub const CONFIG_HASH: &str = "freehold.dev/config-hash";
pub const TEMPLATE_HASH: &str = "freehold.dev/template-hash";
pub const SPEC_HASH: &str = "freehold.dev/spec-hash";
/// On a KafkaCluster: each new value asks for a restart of every node, one batch after the other.
pub const RESTART: &str = "freehold.dev/restart";
/// On a pod: the controllers that its configuration names, by node id, separated by commas.
pub const CONTROLLERS: &str = "freehold.dev/controllers";
/// Confirms the deletion of a topic that holds records; its value is the topic's name.
pub const CONFIRM_DELETE: &str = "freehold.dev/confirm-delete";
/// Readiness gate: every replica of this node is in sync.
pub const IN_SYNC: &str = "freehold.dev/in-sync";
/// On a User: each new value asks for a new credential.
pub const ROTATE: &str = "freehold.dev/rotate";
/// On a User's Secret: what it was made from, what is in it, and which credential it holds.
pub const SECRET_INPUTS: &str = "freehold.dev/inputs";
pub const SECRET_CONTENT: &str = "freehold.dev/content";
pub const SECRET_CREDENTIAL: &str = "freehold.dev/credential";
pub const SECRET_SINCE: &str = "freehold.dev/credential-since";
pub const SECRET_NOT_AFTER: &str = "freehold.dev/not-after";
pub const SECRET_ROTATED: &str = "freehold.dev/rotated";
/// Version and key of the Secret that gave the password.
pub const SECRET_GIVEN: &str = "freehold.dev/given";
pub const FINALIZER: &str = "freehold.dev/finalizer";
/// On a KafkaCluster: the id of a broker that shall be emptied, given a new volume, and filled again.
pub const REPLACE: &str = "freehold.dev/replace";
/// On a KafkaCluster: each new value asks for new CAs.
pub const ROTATE_CA: &str = "freehold.dev/rotate-ca";
/// On a KafkaCluster: each new value asks for new certificates of nodes and operator; on their Secrets: the value that was followed.
pub const RENEW_CERTIFICATES: &str = "freehold.dev/renew-certificates";
/// On a CA's Secret: since when it stands as it does, and the last value that was followed.
pub const CA_SINCE: &str = "freehold.dev/ca-since";
pub const CA_ROTATED: &str = "freehold.dev/ca-rotated";
/// On a KafkaCluster: approves the plan of this name (`status.rebalance.proposal`).
pub const APPROVE_REBALANCE: &str = "freehold.dev/approve-rebalance";
/// Selects every object that Freehold made.
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
