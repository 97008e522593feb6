//! Spec and observed world -> a valid user, or everything that is wrong. Pure.

use super::api::{AclPattern, AclResourceType, AuthorizationMode, User, UserAuthenticationType};
use super::observe::Observed;
use crate::conditions::Reason;
use crate::kafka::grants;
use crate::kinds::access;
use crate::kinds::error::Invalid;
use crate::kinds::kafka_cluster::api::{Authentication, RightsPolicy, ShadowPolicy};
use crate::names;
use crate::quantity;
use crate::runtime::clusters::{ClientListener, ClusterFacts};
use std::collections::{BTreeMap, BTreeSet};

/// A user that can be made.
#[derive(Clone, Debug)]
pub struct ValidUser {
    /// The principal's name.
    pub name: String,
    pub authentication: UserAuthenticationType,
    pub secret: String,
    pub listener: ClientListener,
    /// By Kafka's names.
    pub quotas: BTreeMap<String, f64>,
}

/// What a given password may not be shorter than.
const PASSWORD_CHARS_MIN: usize = 12;

/// Keys of the Secret that may be given other names.
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

/// The principal's name: the certificate's common name where somebody else issues it.
pub fn principal_name(object: &User) -> &str {
    let authentication = &object.spec.authentication;
    let subject = authentication.subject.as_deref().filter(|_| authentication.kind == UserAuthenticationType::ExternalTls);
    subject.or(object.metadata.name.as_deref()).unwrap_or_default()
}

/// The principal as Kafka writes it.
pub fn principal(name: &str) -> String {
    format!("User:{name}")
}

/// The Secret of the user's credentials.
pub fn secret_name(object: &User) -> String {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    object.spec.secret.name.clone().unwrap_or_else(|| names::user_secret(name))
}

/// What is wrong whatever the world is: for the webhook too.
pub fn check(object: &User, cluster: &ClusterFacts, at_home: bool) -> Vec<Invalid> {
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
                invalids.push(Invalid::new(field, "there is one Cluster, and it has no name; leave it out"));
            }
            (AclResourceType::Cluster, None) | (_, Some(_)) => {}
            (_, None) => invalids.push(Invalid::new(field, "missing; give a name, a prefix with pattern Prefixed, or *")),
        }
    }
    check_shadow(object, cluster, &mut invalids);
    let name = principal_name(object);
    if !at_home && cluster.super_users.iter().any(|user| user == name) {
        let why =
            format!("{name} is a super user of the cluster, which only a User in the cluster's own namespace may be; take another name");
        invalids.push(Invalid::new("metadata.name", why).because(Reason::NameNotAllowed));
    }
    if cluster.access.rights == RightsPolicy::OwnNames && !at_home {
        check_rights(object, cluster, &mut invalids);
    }
    check_secret(object, &mut invalids);
    if let Err(invalid) = quotas(object) {
        invalids.push(invalid);
    }
    invalids
}

/// Shadow mode lets everything through: the cluster decides whether it may be.
fn check_shadow(object: &User, cluster: &ClusterFacts, invalids: &mut Vec<Invalid>) {
    if object.spec.authorization.mode == AuthorizationMode::Shadow && cluster.shadow == ShadowPolicy::Denied {
        let why = "Shadow lets through what the user has no right to, which the cluster does not allow; set Enforce, or the KafkaCluster's spec.authorization.shadow to Allowed";
        invalids.push(Invalid::new("spec.authorization.mode", why));
    }
    let is_mark = |name: &String| name.trim_end_matches('*') == grants::SHADOW_MARK;
    let rules = object
        .spec
        .acls
        .iter()
        .enumerate()
        .map(|(index, rule)| (format!("spec.acls[{index}].resource.name"), rule.resource.name.iter().collect::<Vec<_>>()));
    let ids = object.spec.grants.iter().enumerate().map(|(index, grant)| {
        (format!("spec.grants[{index}].transactional.ids"), grant.transactional.iter().flat_map(|grant| &grant.ids).collect())
    });
    for (field, names) in rules.chain(ids) {
        if names.into_iter().any(is_mark) {
            invalids.push(Invalid::new(field, "this name means shadow mode; set spec.authorization.mode instead"));
        }
    }
}

/// Rights on nothing but names that are the namespace's own.
fn check_rights(object: &User, cluster: &ClusterFacts, invalids: &mut Vec<Invalid>) {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let mut check = |field: String, name: &str, prefix: bool| {
        let why = match &cluster.access.topic_names {
            _ if name == "*" => Some("the cluster allows rights on this namespace's own names only".to_owned()),
            None => Some("the cluster allows rights on own names only and has no access.topicNames that tells which those are".to_owned()),
            Some(policy) => access::refuse_name(policy, namespace, name, prefix),
        };
        invalids.extend(why.map(|why| Invalid::new(field, format!("{name}: {why}")).because(Reason::NameNotAllowed)));
    };
    for (index, grant) in object.spec.grants.iter().enumerate() {
        for (field, names) in named(grant) {
            for name in names {
                let (text, pattern) = grants::pattern(name);
                check(format!("spec.grants[{index}].{field}"), &text, pattern == grants::PREFIXED);
            }
        }
    }
    for (index, rule) in object.spec.acls.iter().enumerate() {
        let name = rule.resource.name.as_deref().unwrap_or("*");
        check(format!("spec.acls[{index}].resource.name"), name, rule.resource.pattern == AclPattern::Prefixed);
    }
}

/// The names in a grant, by field.
fn named(grant: &super::api::Grant) -> Vec<(&'static str, &[String])> {
    let mut all: Vec<(&str, &[String])> = Vec::new();
    if let Some(produce) = &grant.produce {
        all.push(("produce.topics", &produce.topics));
    }
    if let Some(consume) = &grant.consume {
        all.extend([("consume.topics", consume.topics.as_slice()), ("consume.groups", &consume.groups)]);
    }
    if let Some(transactional) = &grant.transactional {
        all.push(("transactional.ids", &transactional.ids));
    }
    if let Some(admin) = &grant.admin {
        all.extend([("admin.topics", admin.topics.as_slice()), ("admin.groups", &admin.groups)]);
    }
    all
}

fn check_secret(object: &User, invalids: &mut Vec<Invalid>) {
    let secret = &object.spec.secret;
    let given = object.spec.authentication.password_secret_ref.as_ref();
    if given.is_some_and(|given| given.name == secret_name(object)) {
        let why = "is the Secret that Freehold writes; give another, or set spec.secret.name";
        invalids.push(Invalid::new("spec.authentication.passwordSecretRef.name", why));
    }
    let mut names = BTreeSet::new();
    for (key, name) in &secret.keys {
        let field = format!("spec.secret.keys[{key}]");
        if !SECRET_KEYS.contains(&key.as_str()) {
            invalids.push(Invalid::new(&field, format!("there is no such key; the keys are {}", SECRET_KEYS.join(", "))));
        }
        let valid = !name.is_empty() && name.len() <= 253 && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !valid {
            invalids.push(Invalid::new(&field, format!("{name:?} cannot be a Secret's key; use letters, digits, -, _ and .")));
        }
        let kept = SECRET_KEYS.contains(&name.as_str()) && !secret.keys.contains_key(name);
        if kept || !names.insert(name) {
            invalids.push(Invalid::new(&field, format!("{name:?} is another key's name; choose one of its own")));
        }
    }
    let ours = |key: &&String| key.starts_with("freehold.dev/") || key.starts_with("app.kubernetes.io/");
    for (field, names) in [("labels", &secret.metadata.labels), ("annotations", &secret.metadata.annotations)] {
        if let Some(key) = names.keys().find(ours) {
            invalids.push(Invalid::new(format!("spec.secret.metadata.{field}[{key}]"), "Freehold sets keys of this prefix; remove it"));
        }
    }
}

fn wanted(object: &User) -> Authentication {
    match object.spec.authentication.kind {
        UserAuthenticationType::ScramSha512 => Authentication::ScramSha512,
        UserAuthenticationType::MutualTls | UserAuthenticationType::ExternalTls => Authentication::MutualTls,
    }
}

fn listener(object: &User, cluster: &ClusterFacts) -> Option<ClientListener> {
    let wanted = wanted(object);
    cluster.listeners.iter().find(|listener| listener.authentication == wanted).cloned()
}

fn quotas(object: &User) -> Result<BTreeMap<String, f64>, Invalid> {
    let quotas = &object.spec.quotas;
    let mut all = BTreeMap::new();
    let rates = [
        ("producer_byte_rate", "producerByteRate", &quotas.producer_byte_rate),
        ("consumer_byte_rate", "consumerByteRate", &quotas.consumer_byte_rate),
    ];
    for (key, field, rate) in rates {
        let Some(rate) = rate else { continue };
        let bytes = quantity::bytes(rate).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or_else(|| {
            Invalid::new(format!("spec.quotas.{field}"), format!("{:?} is not a number of bytes above 0, such as 10Mi", rate.0))
        })?;
        all.insert(key.to_owned(), bytes as f64);
    }
    all.extend(quotas.request_percent.map(|percent| ("request_percentage".to_owned(), f64::from(percent))));
    all.extend(quotas.controller_mutation_rate.map(|rate| ("controller_mutation_rate".to_owned(), f64::from(rate))));
    Ok(all)
}

/// Why a password that somebody gave cannot be taken.
pub fn refuse_password(password: Option<&str>, field: &str) -> Option<Invalid> {
    let refused = |why: String| Some(Invalid::new(field, why));
    match password {
        None => refused("the Secret has no such key".into()),
        Some(password) if password.len() < PASSWORD_CHARS_MIN => {
            refused(format!("shorter than {PASSWORD_CHARS_MIN} characters; take a longer one"))
        }
        // Java reads it from between quotes in sasl.jaas.config.
        Some(password) if !password.chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\') => {
            refused("holds something else than printable ASCII, or a quote or a backslash, which client.properties cannot say".into())
        }
        Some(_) => None,
    }
}

/// Checks everything.
///
/// # Errors
/// All that is wrong, not only the first.
pub fn validate(object: &User, observed: &Observed) -> Result<ValidUser, Vec<Invalid>> {
    let mut invalids = check(object, &observed.cluster, observed.at_home);
    let name = object.metadata.name.clone().unwrap_or_default();
    if let Some(older) = &observed.older {
        let field = if object.spec.authentication.kind == UserAuthenticationType::ExternalTls {
            "spec.authentication.subject"
        } else {
            "metadata.name"
        };
        let why = format!("User {older} is older and has this name in the cluster; take another name or delete one of the two");
        invalids.push(Invalid::new(field, why).because(Reason::NameTaken));
    }
    if let Some(given) = &object.spec.authentication.password_secret_ref
        && observed.given.as_ref().is_none_or(|facts| facts.user != name)
    {
        let label = crate::labels::USER;
        let why = format!("there is no Secret {} with the label {label}: {name}; create it, or label it", given.name);
        invalids.push(Invalid::new("spec.authentication.passwordSecretRef.name", why));
    }
    let secret = secret_name(object);
    if observed.secret.as_ref().is_some_and(|found| !found.managed || found.user != name) {
        let why = format!("Secret {secret} exists and is not of this User; set spec.secret.name to another");
        invalids.push(Invalid::new("spec.secret.name", why).because(Reason::NotOurs));
    }
    let quotas = quotas(object).unwrap_or_default();
    match listener(object, &observed.cluster).filter(|_| invalids.is_empty()) {
        Some(listener) => Ok(ValidUser {
            name: principal_name(object).to_owned(),
            authentication: object.spec.authentication.kind,
            secret,
            listener,
            quotas,
        }),
        None => Err(invalids),
    }
}
