//! The User resource.
#![allow(clippy::duplicated_attributes, reason = "printer columns have types and sources in common")]

use crate::conditions::Condition;
use crate::kinds::reference::ClusterRef;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A principal of a Kafka cluster with its credentials and rights.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "freehold.dev",
    version = "v1alpha1",
    kind = "User",
    plural = "users",
    shortname = "ku",
    category = "freehold",
    namespaced,
    status = "UserStatus",
    doc = "A principal of a Kafka cluster with its credentials and rights. Its name is metadata.name.",
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name: at most 63 characters, so that it fits a certificate's subject"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Authentication", type_ = "string", json_path = ".spec.authentication.type"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secret"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.clusterRef == oldSelf.clusterRef").message("clusterRef: immutable; make another User"),
)]
pub struct UserSpec {
    /// The cluster.
    pub cluster_ref: ClusterRef,
    /// How it proves who it is.
    pub authentication: UserAuthentication,
    /// Rights; everything else is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub acls: Vec<AclRule>,
    /// Where its credentials are written.
    #[serde(default)]
    pub secret: UserSecret,
}

/// How a user proves who it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserAuthentication {
    #[serde(rename = "type")]
    pub kind: UserAuthenticationType,
}

/// The two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UserAuthenticationType {
    /// A password that Freehold makes.
    ScramSha512,
    /// A certificate that Freehold issues.
    MutualTls,
}

/// The Secret with its credentials.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserSecret {
    /// Name; default: metadata.name followed by `-kafka`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"), length(max = 253))]
    pub name: Option<String>,
}

/// A rule: these operations on this resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AclRule {
    /// What it is about.
    pub resource: AclResource,
    /// Operations, as Kafka names them.
    #[schemars(length(min = 1, max = 12))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub operations: Vec<AclOperation>,
    /// Allow or Deny; Deny wins.
    #[serde(default)]
    pub permission: AclPermission,
    /// Host that the client must come from; default: any.
    #[serde(default = "any_host")]
    #[schemars(length(min = 1, max = 100))]
    pub host: String,
}

fn any_host() -> String {
    "*".to_owned()
}

/// The resource of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AclResource {
    #[serde(rename = "type")]
    pub kind: AclResourceType,
    /// Name or prefix; `*` for all; for Cluster leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    pub name: Option<String>,
    #[serde(default)]
    pub pattern: AclPattern,
}

/// Types of resources (KIP-11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AclResourceType {
    Topic,
    Group,
    Cluster,
    TransactionalId,
}

/// How a name is compared (KIP-290).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AclPattern {
    #[default]
    Literal,
    Prefixed,
}

/// Allow or Deny.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AclPermission {
    #[default]
    Allow,
    Deny,
}

/// Operations (KIP-11, KIP-98).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum AclOperation {
    All,
    Read,
    Write,
    Create,
    Delete,
    Alter,
    Describe,
    ClusterAction,
    DescribeConfigs,
    AlterConfigs,
    IdempotentWrite,
}

/// What is known of the user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UserStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Why it is not Ready; empty when it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The principal as Kafka knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The Secret with its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Rules in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acls: Option<i32>,
}
