//! Validates a User against the observed state: returns a valid user, or all errors. Pure.

use crate::api::conditions::Reason;
use crate::api::invalid::Invalid;
use crate::api::kafka_cluster::{Authentication, ShadowPolicy};
use crate::api::user::{
    AclOperation, AclPattern, AclResourceType, AuthorizationMode, User, UserAuthenticationType,
};
use crate::clusters::{ClientListener, ClusterFacts};
use crate::kinds::user::observe::Observed;
use crate::kubernetes::quantity;
use crate::tenancy::access;
use crate::tenancy::ownership;
use crate::tenancy::ownership::Other;
use crate::tenancy::rights;
use crate::tenancy::rights::Standings;
use freehold_kafka::acl::AclBinding;
use freehold_kafka::grants;
use freehold_kafka::ownership::RESERVED;
use std::collections::{BTreeMap, BTreeSet};

/// A user whose spec is valid.
#[derive(Clone, Debug)]
pub struct ValidUser {
    /// The principal's name.
    pub name: String,
    pub authentication: UserAuthenticationType,
    pub secret: String,
    pub listener: ClientListener,
    /// The quotas by Kafka's names.
    pub quotas: BTreeMap<String, f64>,
    /// The ACLs that it may have.
    pub acls: Vec<AclBinding>,
    /// Why it may not have the other ACLs of its spec.
    pub refused: Vec<Invalid>,
}

/// The minimum length of a password from the user's own Secret.
const PASSWORD_CHARS_MIN: usize = 12;

/// The keys of the Secret, each of which may be renamed.
pub const SECRET_KEYS: [&str; 11] = [
    "type",
    "bootstrapServers",
    "ca.crt",
    "username",
    "password",
    "user.crt",
    "user.key",
    "client.properties",
    "truststore.p12",
    "keystore.p12",
    "pkcs12.password",
];

/// The errors that do not depend on the observed state, including rights that the cluster does not
/// allow; for the webhook.
pub fn check(object: &User, cluster: &ClusterFacts, at_home: bool) -> Vec<Invalid> {
    let mut invalids = check_itself(object, cluster, at_home);
    invalids.extend(rights(object, cluster, None).1);
    invalids
}

/// The ACLs that it may have, and why it may not have the others. A refused right does not affect
/// the others.
fn rights(
    object: &User,
    cluster: &ClusterFacts,
    standings: Option<&Standings>,
) -> (Vec<AclBinding>, Vec<Invalid>) {
    let key = object
        .spec
        .cluster_ref
        .key(object.metadata.namespace.as_deref().unwrap_or_default());
    let (mut acls, mut refused) = rights::split(object, &cluster.access, &key, standings);
    // Shadow mode allows every request, so the cluster decides whether a User may set it.
    if object.spec.authorization.mode == AuthorizationMode::Shadow
        && cluster.shadow == ShadowPolicy::Denied
    {
        acls.retain(|acl| acl.resource_name != grants::SHADOW_MARK);
        let why = "Shadow lets through what the user has no right to, which the cluster does not allow; set Enforce, or the KafkaCluster's spec.authorization.shadow to Allowed";
        refused.push(Invalid::new("spec.authorization.mode", why));
    }
    (acls, refused)
}

/// The errors apart from rights.
fn check_itself(object: &User, cluster: &ClusterFacts, at_home: bool) -> Vec<Invalid> {
    let mut invalids = Vec::new();
    if listener(object, cluster).is_none() {
        let wanted = wanted(object);
        invalids.push(Invalid::new(
            "spec.authentication.type",
            format!("the cluster has no listener with authentication {wanted:?}; add one or choose the other type"),
        ));
    }
    for (index, rule) in object.spec.acls.iter().enumerate() {
        let field = format!("spec.acls[{index}].resource.name");
        match (rule.resource.kind, &rule.resource.name) {
            (AclResourceType::Cluster, Some(_)) => {
                invalids.push(Invalid::new(
                    field,
                    "there is one Cluster, and it has no name; leave it out",
                ));
            }
            (AclResourceType::Cluster, None) => {}
            (kind, Some(name)) => {
                invalids.extend(
                    refuse_name(kind, name, rule.resource.pattern)
                        .map(|why| Invalid::new(field, format!("{name}: {why}"))),
                );
            }
            (_, None) => invalids.push(Invalid::new(
                field,
                "missing; give a name, a prefix with pattern Prefixed, or *",
            )),
        }
        if grants::host(&rule.host).is_none() {
            let why = format!(
                "{:?} is no IP address, and Kafka compares nothing else: give the address that brokers see, or *",
                rule.host
            );
            invalids.push(Invalid::new(format!("spec.acls[{index}].host"), why));
        }
    }
    check_reserved(object, &mut invalids);
    let (name, field) = object.principal_name_and_field();
    if name == "ANONYMOUS" {
        invalids.push(Invalid::new(
            field,
            "ANONYMOUS is what Kafka calls whoever did not say who it is; take another name",
        ));
    }
    invalids.extend(refuse_principal(object, cluster, at_home));
    check_secret(object, &mut invalids);
    if let Err(invalid) = quotas(object) {
        invalids.push(invalid);
    }
    invalids
}

/// Why no resource of this type can have such a name; `None` if one can.
fn refuse_name(kind: AclResourceType, name: &str, pattern: AclPattern) -> Option<String> {
    if name == "*" {
        let why = "with pattern Prefixed it stands for names that begin with *; for all of them leave pattern out";
        return (pattern == AclPattern::Prefixed).then(|| why.to_owned());
    }
    if kind != AclResourceType::Topic {
        return None;
    }
    if let Some(prefix) = name.strip_suffix('*') {
        return Some(format!(
            "Kafka takes the * for a part of the name, and no topic has one; give {prefix} with pattern Prefixed"
        ));
    }
    let valid = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    (!valid).then(|| {
        "no topic can have this name: it is made of letters, digits, dots, _ and -; correct it"
            .to_owned()
    })
}

/// Warnings about settings that are allowed but probably not intended; the webhook uses them too.
pub fn warnings(object: &User) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, rule) in object.spec.acls.iter().enumerate() {
        let (kind, resource) = (rule.resource.kind, &rule.resource);
        let is_id = matches!(
            kind,
            AclResourceType::Group | AclResourceType::TransactionalId
        );
        if let Some(name) = resource
            .name
            .as_ref()
            .filter(|name| is_id && *name != "*" && name.contains('*'))
        {
            let field = format!("spec.acls[{index}].resource.name");
            let stem = name.trim_end_matches('*');
            warnings.push(format!("{field}: {name}: Kafka takes the * for a part of the name; for all that begin with {stem} give {stem} with pattern Prefixed"));
        }
        let of_kind = asked_of(kind);
        for operation in rule
            .operations
            .iter()
            .filter(|operation| !of_kind.contains(operation))
        {
            let all: Vec<_> = of_kind
                .iter()
                .map(|operation| format!("{operation:?}"))
                .collect();
            let field = format!("spec.acls[{index}].operations");
            warnings.push(format!(
                "{field}: Kafka asks for {operation:?} of no {kind:?}, so that it means nothing; it asks for {}",
                all.join(", ")
            ));
        }
    }
    for (index, grant) in object.spec.grants.iter().enumerate() {
        for (field, names) in named(grant) {
            for name in names
                .iter()
                .filter(|name| name.strip_suffix('*').unwrap_or(name).contains('*'))
            {
                warnings.push(format!(
                    "spec.grants[{index}].{field}: {name}: only a * at the end stands for all that begin so; others are a part of the name"
                ));
            }
        }
    }
    warnings
}

/// The operations that Kafka checks for a type of resource.
fn asked_of(kind: AclResourceType) -> &'static [AclOperation] {
    use AclOperation as Op;
    match kind {
        AclResourceType::Topic => &[
            Op::All,
            Op::Read,
            Op::Write,
            Op::Create,
            Op::Describe,
            Op::Delete,
            Op::Alter,
            Op::DescribeConfigs,
            Op::AlterConfigs,
        ],
        AclResourceType::Group => &[
            Op::All,
            Op::Read,
            Op::Describe,
            Op::Delete,
            Op::DescribeConfigs,
            Op::AlterConfigs,
        ],
        AclResourceType::Cluster => &[
            Op::All,
            Op::Create,
            Op::ClusterAction,
            Op::DescribeConfigs,
            Op::AlterConfigs,
            Op::IdempotentWrite,
            Op::Alter,
            Op::Describe,
        ],
        AclResourceType::TransactionalId => &[Op::All, Op::Describe, Op::Write],
    }
}

/// Why the cluster does not allow this object to be the principal that it names. What such an
/// object had is revoked.
pub fn refuse_principal(object: &User, cluster: &ClusterFacts, at_home: bool) -> Option<Invalid> {
    let (name, field) = object.principal_name_and_field();
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let why = access::refuse_principal(
        &cluster.access,
        &cluster.super_users,
        at_home,
        namespace,
        name,
    )?;
    Some(Invalid::new(field, why).because(Reason::NameNotAllowed))
}

/// Refuses names that are reserved for Freehold itself.
fn check_reserved(object: &User, invalids: &mut Vec<Invalid>) {
    let is_mark = |name: &String| name.starts_with(RESERVED);
    let rules = object.spec.acls.iter().enumerate().map(|(index, rule)| {
        (
            format!("spec.acls[{index}].resource.name"),
            rule.resource.name.iter().collect::<Vec<_>>(),
        )
    });
    let ids = object.spec.grants.iter().enumerate().map(|(index, grant)| {
        (
            format!("spec.grants[{index}].transactional.ids"),
            grant
                .transactional
                .iter()
                .flat_map(|grant| &grant.ids)
                .collect(),
        )
    });
    for (field, names) in rules.chain(ids) {
        if names.into_iter().any(is_mark) {
            invalids.push(Invalid::new(
                field,
                "names that begin with freehold.dev/ are Freehold's own; for shadow mode set spec.authorization.mode instead",
            ));
        }
    }
}

/// The names in a grant, by field.
fn named(grant: &crate::api::user::Grant) -> Vec<(&'static str, &[String])> {
    let mut all: Vec<(&str, &[String])> = Vec::new();
    if let Some(produce) = &grant.produce {
        all.push(("produce.topics", &produce.topics));
    }
    if let Some(consume) = &grant.consume {
        all.extend([
            ("consume.topics", consume.topics.as_slice()),
            ("consume.groups", &consume.groups),
        ]);
    }
    if let Some(transactional) = &grant.transactional {
        all.push(("transactional.ids", &transactional.ids));
    }
    if let Some(admin) = &grant.admin {
        all.extend([
            ("admin.topics", admin.topics.as_slice()),
            ("admin.groups", &admin.groups),
        ]);
    }
    all
}

fn check_secret(object: &User, invalids: &mut Vec<Invalid>) {
    let secret = &object.spec.secret;
    let given = object.spec.authentication.password_secret_ref.as_ref();
    if given.is_some_and(|given| given.name == object.secret_name()) {
        let why = "is the Secret that Freehold writes; give another, or set spec.secret.name";
        invalids.push(Invalid::new(
            "spec.authentication.passwordSecretRef.name",
            why,
        ));
    }
    let mut names = BTreeSet::new();
    for (key, name) in &secret.keys {
        let field = format!("spec.secret.keys[{key}]");
        if !SECRET_KEYS.contains(&key.as_str()) {
            invalids.push(Invalid::new(
                &field,
                format!(
                    "there is no such key; the keys are {}",
                    SECRET_KEYS.join(", ")
                ),
            ));
        }
        let valid = !name.is_empty()
            && name.len() <= 253
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !valid {
            invalids.push(Invalid::new(
                &field,
                format!("{name:?} cannot be a Secret's key; use letters, digits, -, _ and ."),
            ));
        }
        let kept = SECRET_KEYS.contains(&name.as_str()) && !secret.keys.contains_key(name);
        if kept || !names.insert(name) {
            invalids.push(Invalid::new(
                &field,
                format!("{name:?} is another key's name; choose one of its own"),
            ));
        }
    }
    let ours =
        |key: &&String| key.starts_with("freehold.dev/") || key.starts_with("app.kubernetes.io/");
    for (field, names) in [
        ("labels", &secret.metadata.labels),
        ("annotations", &secret.metadata.annotations),
    ] {
        if let Some(key) = names.keys().find(ours) {
            invalids.push(Invalid::new(
                format!("spec.secret.metadata.{field}[{key}]"),
                "Freehold sets keys of this prefix; remove it",
            ));
        }
    }
}

fn wanted(object: &User) -> Authentication {
    match object.spec.authentication.kind {
        UserAuthenticationType::ScramSha512 => Authentication::ScramSha512,
        UserAuthenticationType::MutualTls | UserAuthenticationType::ExternalTls => {
            Authentication::MutualTls
        }
    }
}

/// The listener by which a User's clients connect.
pub fn listener<'a>(object: &User, cluster: &'a ClusterFacts) -> Option<&'a ClientListener> {
    cluster.listener(wanted(object))
}

fn quotas(object: &User) -> Result<BTreeMap<String, f64>, Invalid> {
    let quotas = &object.spec.quotas;
    let mut all = BTreeMap::new();
    let rates = [
        (
            "producer_byte_rate",
            "producerByteRate",
            &quotas.producer_byte_rate,
        ),
        (
            "consumer_byte_rate",
            "consumerByteRate",
            &quotas.consumer_byte_rate,
        ),
    ];
    for (key, field, rate) in rates {
        let Some(rate) = rate else { continue };
        let bytes = quantity::bytes(rate).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(|| {
            Invalid::new(
                format!("spec.quotas.{field}"),
                format!(
                    "{:?} is not a number of bytes above 0, such as 10Mi",
                    rate.0
                ),
            )
        })?;
        all.insert(key.to_owned(), bytes as f64);
    }
    all.extend(
        quotas
            .request_percent
            .map(|percent| ("request_percentage".to_owned(), f64::from(percent))),
    );
    all.extend(
        quotas
            .controller_mutation_rate
            .map(|rate| ("controller_mutation_rate".to_owned(), f64::from(rate))),
    );
    Ok(all)
}

/// Why a password from the user's own Secret cannot be used; `None` if it can.
pub fn refuse_password(password: Option<&str>, field: &str) -> Option<Invalid> {
    let refused = |why: String| Some(Invalid::new(field, why));
    match password {
        None => refused("the Secret has no such key".into()),
        Some(password) if password.len() < PASSWORD_CHARS_MIN => {
            refused(format!("shorter than {PASSWORD_CHARS_MIN} characters; take a longer one"))
        }
        // Java reads the password from between quotes in sasl.jaas.config.
        Some(password) if !password.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\') => {
            refused("holds something else than printable ASCII, or a quote or a backslash, which client.properties cannot say".into())
        }
        Some(_) => None,
    }
}

/// Validates a User.
///
/// # Errors
/// Returns all errors, not only the first.
pub fn validate(object: &User, observed: &Observed) -> Result<ValidUser, Vec<Invalid>> {
    let mut invalids = check_itself(object, &observed.cluster, observed.at_home);
    let name = object.metadata.name.clone().unwrap_or_default();
    if let Some(other @ (Other::Holds(_) | Other::Certified(..))) = &observed.ownership.other {
        let why = ownership::words::<User>(other, "principal");
        invalids.push(
            Invalid::new(object.principal_name_and_field().1, why).because(Reason::NameTaken),
        );
    }
    if let Some(given) = &object.spec.authentication.password_secret_ref
        && observed
            .given
            .as_ref()
            .is_none_or(|facts| facts.user != name)
    {
        let label = crate::kubernetes::labels::USER;
        let why = format!(
            "there is no Secret {} with the label {label}: {name}; create it, or label it",
            given.name
        );
        invalids.push(Invalid::new(
            "spec.authentication.passwordSecretRef.name",
            why,
        ));
    }
    let secret = object.secret_name();
    if observed
        .secret
        .as_ref()
        .is_some_and(|found| !found.managed || found.user != name)
    {
        let why = format!(
            "Secret {secret} exists and is not of this User; set spec.secret.name to another"
        );
        invalids.push(Invalid::new("spec.secret.name", why).because(Reason::NotOurs));
    }
    let quotas = quotas(object).unwrap_or_default();
    let (acls, refused) = rights(object, &observed.cluster, Some(&observed.standings));
    match listener(object, &observed.cluster)
        .filter(|_| invalids.is_empty())
        .cloned()
    {
        Some(listener) => Ok(ValidUser {
            name: object.principal_name().to_owned(),
            authentication: object.spec.authentication.kind,
            secret,
            listener,
            quotas,
            acls,
            refused,
        }),
        None => Err(invalids),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::KafkaCluster;
    use serde_json::{Value, json};

    fn cluster() -> ClusterFacts {
        let cluster: KafkaCluster = serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "demo", "namespace": "kafka"},
            "spec": {"version": "4.3.1", "access": {"rights": "Any"}, "authorization": {"superUsers": ["Root@example.com"]},
                "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}],
                "nodePools": [{"name": "all", "roles": ["controller", "broker"], "replicas": 3, "zones": ["a", "b", "c"], "storage": {"size": "1Gi"}}]}
        }))
        .unwrap();
        ClusterFacts::of_spec(&cluster)
    }

    fn user(more: &Value) -> User {
        let mut spec = json!({"clusterRef": {"name": "demo", "namespace": "kafka"}, "authentication": {"type": "ScramSha512"}});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let value = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "User", "metadata": {"name": "app", "namespace": "shop"}, "spec": spec});
        serde_json::from_value(value).unwrap()
    }

    fn rule(kind: &str, name: &str, pattern: &str, host: &str, operations: &[&str]) -> User {
        user(
            &json!({"acls": [{"resource": {"type": kind, "name": name, "pattern": pattern}, "operations": operations, "host": host}]}),
        )
    }

    #[test]
    fn acls_that_match_nothing_are_refused_with_the_way_out() {
        let cluster = cluster();
        let refused = |user: &User| {
            check(user, &cluster, false)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; ")
        };
        for (user, words) in [
            (
                rule("Topic", "*", "Prefixed", "*", &["Read"]),
                "spec.acls[0].resource.name: *: with pattern Prefixed",
            ),
            (
                rule("Group", "*", "Prefixed", "*", &["Read"]),
                "leave pattern out",
            ),
            (
                rule("Topic", "orders*", "Literal", "*", &["Read"]),
                "give orders with pattern Prefixed",
            ),
            (
                rule("Topic", "orders*", "Prefixed", "*", &["Read"]),
                "give orders with pattern Prefixed",
            ),
            (
                rule("Topic", "my orders", "Literal", "*", &["Read"]),
                "no topic can have this name",
            ),
            (
                rule("Topic", "orders", "Literal", "app.example.com", &["Read"]),
                "spec.acls[0].host: \"app.example.com\" is no IP address",
            ),
            (
                rule("Topic", "orders", "Literal", "10.0.0.0/8", &["Read"]),
                "is no IP address",
            ),
            (
                rule("Topic", "orders", "Literal", "010.0.0.1", &["Read"]),
                "is no IP address",
            ),
        ] {
            assert!(
                refused(&user).contains(words),
                "{words:?} in {:?}",
                refused(&user)
            );
        }
        for user in [
            rule("Topic", "*", "Literal", "*", &["Read"]),
            rule("Topic", "orders.", "Prefixed", "10.0.0.1", &["Read"]),
            rule("Group", "any name", "Literal", "2001:db8::1", &["Read"]),
        ] {
            assert_eq!(
                (refused(&user), warnings(&user)),
                (String::new(), Vec::new())
            );
        }
    }

    #[test]
    fn acls_that_are_most_likely_not_meant_are_allowed_with_a_warning() {
        for (user, words) in [
            (
                rule("Group", "billing*", "Literal", "*", &["Read"]),
                "give billing with pattern Prefixed",
            ),
            (
                rule("TransactionalId", "a*", "Prefixed", "*", &["Write"]),
                "give a with pattern Prefixed",
            ),
            (
                rule(
                    "Topic",
                    "orders",
                    "Literal",
                    "*",
                    &["Read", "IdempotentWrite"],
                ),
                "asks for IdempotentWrite of no Topic",
            ),
            (
                rule("Group", "g", "Literal", "*", &["Write"]),
                "asks for Write of no Group",
            ),
            (
                user(&json!({"grants": [{"consume": {"topics": ["t"], "groups": ["a*b*"]}}]})),
                "spec.grants[0].consume.groups: a*b*",
            ),
        ] {
            assert_eq!(check(&user, &cluster(), false), []);
            let warnings = warnings(&user);
            assert!(
                warnings.len() == 1 && warnings[0].contains(words),
                "{words:?} in {warnings:?}"
            );
        }
    }

    #[test]
    fn a_user_may_have_a_name_that_no_object_has() {
        let named = user(&json!({"username": "Billing_App@example.com"}));
        assert_eq!(
            (named.principal_name(), check(&named, &cluster(), false)),
            ("Billing_App@example.com", Vec::new())
        );
        assert_eq!(user(&json!({})).principal_name(), "app");
        let root = check(
            &user(&json!({"username": "Root@example.com"})),
            &cluster(),
            false,
        );
        assert!(
            root.len() == 1
                && root[0].field == "spec.username"
                && root[0].reason == Reason::NameNotAllowed,
            "{root:?}"
        );
        assert_eq!(
            check(&user(&json!({"username": "ANONYMOUS"})), &cluster(), true)[0].field,
            "spec.username"
        );
    }
}
