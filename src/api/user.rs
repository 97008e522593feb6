//! The User resource.
#![allow(
    clippy::duplicated_attributes,
    reason = "printer columns have types and sources in common"
)]

use crate::api::conditions::Condition;
use crate::api::drift::DriftStatus;
use crate::api::reference::ClusterRef;
use crate::kubernetes::names;
use crate::kubernetes::quantity;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names of principals: what certificates (64 characters of a common name), SCRAM, `super.users`
/// and client.properties all can say without escaping.
pub const PRINCIPAL_PATTERN: &str = r"^[A-Za-z0-9._@/-]+$";

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
    doc = "A principal of a Kafka cluster with its credentials and rights. Its name is metadata.name, or spec.username; of ExternalTls the certificate's.",
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name: at most 63 characters, so that it fits a certificate's subject"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Authentication", type_ = "string", json_path = ".spec.authentication.type"),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secret"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.clusterRef == oldSelf.clusterRef").message("clusterRef: immutable; make another User"),
    validation = Rule::new("has(self.username) == has(oldSelf.username) && (!has(self.username) || self.username == oldSelf.username)")
        .message("username: immutable, the principal would be another, and the old one's rights would stay; make another User"),
    validation = Rule::new("!has(self.username) || self.authentication.type != 'ExternalTls'")
        .message("username: the principal of ExternalTls is authentication.subject; remove username"),
)]
pub struct UserSpec {
    /// The cluster.
    pub cluster_ref: ClusterRef,
    /// Name of the principal (`User:<username>`), for one that no object of Kubernetes can be named
    /// like, such as `Billing_App@example.com`; default: metadata.name. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PRINCIPAL_PATTERN), length(min = 1, max = 64))]
    pub username: Option<String>,
    /// How it proves who it is.
    pub authentication: UserAuthentication,
    /// Rights in short; what they become is in status. Everything else is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub grants: Vec<Grant>,
    /// Rights as Kafka's own rules, beside the grants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub acls: Vec<AclRule>,
    /// What happens to what it has no right to.
    #[serde(default)]
    pub authorization: UserAuthorization,
    /// Limits; none where a field is left out.
    #[serde(default)]
    pub quotas: Quotas,
    /// Where its credentials are written.
    #[serde(default)]
    pub secret: UserSecret,
    /// What becomes of a principal of this name that exists already.
    #[serde(default)]
    pub adoption: UserAdoption,
}

/// What becomes of a principal that has ACLs, a credential or quotas already and that this object
/// did not make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UserAdoption {
    /// It is left alone.
    #[default]
    Never,
    /// It is taken over where its ACLs and quotas are as the spec says and it has no password,
    /// which would be replaced; else its differences are told.
    IfIdentical,
    /// It is taken over and made as the spec says; its password is replaced.
    Always,
}

/// How a user proves who it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'ExternalTls' || !has(self.subject)").message("subject: only ExternalTls has one"),
    validation = Rule::new("self.type != 'ExternalTls' || has(self.subject)").message("subject: ExternalTls needs the certificate's common name"),
    validation = Rule::new("(self.type == 'ExternalTls') == (oldSelf.type == 'ExternalTls') && (!has(self.subject) || !has(oldSelf.subject) || self.subject == oldSelf.subject)")
        .message("subject: the principal would be another, and the old one's rights would stay; make another User"),
    validation = Rule::new("self.type == 'ScramSha512' || !has(self.passwordSecretRef)")
        .message("passwordSecretRef: only ScramSha512 has a password"),
    validation = Rule::new("!has(self.rotation) || (self.type != 'ExternalTls' && !has(self.passwordSecretRef))")
        .message("rotation: only credentials that Freehold makes can be replaced by it; remove rotation"),
)]
pub struct UserAuthentication {
    #[serde(rename = "type")]
    pub kind: UserAuthenticationType,
    /// A password that you give, for ScramSha512; default: one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<PasswordRef>,
    /// Common name of the certificate, for ExternalTls: the principal is `User:<subject>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PRINCIPAL_PATTERN), length(min = 1, max = 64))]
    pub subject: Option<String>,
    /// When the credential is replaced by a new one, beside the annotation `freehold.dev/rotate`,
    /// whose every new value asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
}

/// The ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UserAuthenticationType {
    /// A password: one that Freehold makes, or that a Secret gives.
    ScramSha512,
    /// A certificate that Freehold issues.
    MutualTls,
    /// A certificate that somebody else issues, of a CA that the listener trusts.
    ExternalTls,
}

/// A password in a Secret of the User's namespace, which must carry the label `freehold.dev/user:
/// <name of the User>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasswordRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its key.
    #[serde(default = "PasswordRef::default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

impl PasswordRef {
    fn default_key() -> String {
        "password".to_owned()
    }
}

/// When a credential is replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Days from one to the next.
    #[schemars(range(min = 1, max = 3650))]
    pub period_days: u32,
}

/// A right in short: one of its fields. A name that ends in `*` stands for all that begin so; `*`
/// alone for all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.produce), has(self.consume), has(self.transactional), has(self.admin)].filter(x, x).size() == 1")
        .message("give one of produce, consume, transactional, admin; make another grant for another"),
)]
pub struct Grant {
    /// Write to topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub produce: Option<TopicsGrant>,
    /// Read topics in consumer groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consume: Option<ConsumeGrant>,
    /// Use transactional ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactional: Option<TransactionalGrant>,
    /// Create, change and delete topics and groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminGrant>,
}

/// Topics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicsGrant {
    #[schemars(
        length(min = 1, max = 100),
        inner(regex(pattern = r"^([a-zA-Z0-9._-]+\*?|\*)$"), length(max = 249))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub topics: Vec<String>,
}

/// Topics, and the groups in which they are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumeGrant {
    #[schemars(
        length(min = 1, max = 100),
        inner(regex(pattern = r"^([a-zA-Z0-9._-]+\*?|\*)$"), length(max = 249))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub topics: Vec<String>,
    /// None: consumers assign partitions by themselves and commit nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 249)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Vec<String>,
}

/// Transactional ids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransactionalGrant {
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 249)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub ids: Vec<String>,
}

/// Topics and groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.topics) || has(self.groups)").message("admin: give topics or groups"))]
pub struct AdminGrant {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        inner(regex(pattern = r"^([a-zA-Z0-9._-]+\*?|\*)$"), length(max = 249))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub topics: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 249)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub groups: Vec<String>,
}

/// What happens to what a user has no right to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserAuthorization {
    #[serde(default)]
    pub mode: AuthorizationMode,
}

/// The modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthorizationMode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is let through, and listed in `status.wouldBeRefused`. Only where the cluster's
    /// `authorization.shadow` is Allowed.
    Shadow,
}

/// Limits of a user, on each broker (KIP-13, KIP-124, KIP-599).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quotas {
    /// Bytes per second produced, for example 10Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantity::schema")]
    pub producer_byte_rate: Option<Quantity>,
    /// Bytes per second consumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantity::schema")]
    pub consumer_byte_rate: Option<Quantity>,
    /// Percent of the time of request and network threads; 100 is one thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub request_percent: Option<u32>,
    /// Partitions created or deleted per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub controller_mutation_rate: Option<u32>,
}

/// The Secret with its credentials, by the Service Binding specification.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserSecret {
    /// Name; default: metadata.name followed by `-kafka`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"),
        length(max = 253)
    )]
    pub name: Option<String>,
    /// Other names for its keys, for example `password: KAFKA_PASSWORD`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, String>,
    /// Labels and annotations that it carries beside Freehold's own.
    #[serde(default)]
    pub metadata: SecretMetadata,
    /// Also as PKCS#12: `truststore.p12` and, with a certificate, `keystore.p12`; their password is
    /// `pkcs12.password`.
    #[serde(default)]
    pub pkcs12: bool,
}

/// Labels and annotations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretMetadata {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A rule: these operations on this resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
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
    /// IP address that the client must come from; default: any.
    #[serde(default = "any_host")]
    #[schemars(length(min = 1, max = 100))]
    pub host: String,
}

fn any_host() -> String {
    "*".to_owned()
}

/// The resource of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
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
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
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

impl User {
    /// The principal's name, and the field that gives it. With `ExternalTls` it is the
    /// certificate's common name.
    pub fn principal_name_and_field(&self) -> (&str, &'static str) {
        let authentication = &self.spec.authentication;
        let external = authentication.kind == UserAuthenticationType::ExternalTls;
        let subject = authentication
            .subject
            .as_deref()
            .filter(|_| external)
            .map(|subject| (subject, "spec.authentication.subject"));
        let username = self
            .spec
            .username
            .as_deref()
            .filter(|_| !external)
            .map(|username| (username, "spec.username"));
        subject.or(username).unwrap_or((
            self.metadata.name.as_deref().unwrap_or_default(),
            "metadata.name",
        ))
    }

    /// The principal's name.
    pub fn principal_name(&self) -> &str {
        self.principal_name_and_field().0
    }

    /// The name of the Secret with the User's credential.
    pub fn secret_name(&self) -> String {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        self.spec
            .secret
            .name
            .clone()
            .unwrap_or_else(|| names::user_secret(name))
    }
}

/// A principal as Kafka writes it.
pub fn principal(name: &str) -> String {
    format!("User:{name}")
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
    /// What a person should know although nothing waits for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The principal as Kafka knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The Secret with its credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The cluster's id that this is about: another cluster of its name owes it nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The rules in force, in words: what grants and acls became.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// Rules in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acls: Option<i32>,
    /// In shadow mode: what the brokers would have refused in the last 24 hours and the rights
    /// still do not allow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub would_be_refused: Vec<String>,
    /// The credential in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialStatus>,
    /// What was last put right that somebody else had changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftStatus>,
}

/// The credential in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStatus {
    /// Since when.
    pub since: Time,
    /// End of the certificate; it is replaced in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// The last value of the annotation `freehold.dev/rotate` that was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated: Option<String>,
}
