//! Finds Secrets of CAs that somebody overwrote. Pure.
//!
//! The nodes trust a CA before it signs: each rotation begins with that. So a Secret whose CA no
//! node trusts, or whose key is not that of its certificate, is not as Freehold wrote it. With it,
//! every node and User would get a certificate that the others do not accept.

use crate::certificates::{self, CertificateError};
use crate::kinds::kafka_cluster::certificates::authorities::{NEXT, PREVIOUS, PROBE, TRUST};
use crate::kinds::kafka_cluster::model::authority::Issuer;
use crate::kinds::kafka_cluster::observed::SecretFacts;
use std::collections::BTreeMap;

/// The keys in the Secret of a CA that Freehold writes at times only.
pub const KEYS: [&str; 6] = ["tls.key", NEXT.0, NEXT.1, PROBE.0, PROBE.1, PREVIOUS];

type Secrets = BTreeMap<String, SecretFacts>;

/// Removes the Secrets of CAs that were overwritten: they count as gone, so that they are put back
/// as they were, or the loss is told. Returns their names. `given`: Secrets with further CAs of
/// clients.
pub fn set_aside(cluster: &str, secrets: &mut Secrets, given: &Secrets) -> Vec<String> {
    let mut aside = Vec::new();
    for issuer in Issuer::ALL {
        let name = issuer.secret(cluster);
        if let Some(secret) = secrets.get_mut(&name) {
            // A restored Secret has them empty where somebody else wrote them.
            secret.data.retain(|_, value| !value.is_empty());
        }
        let found = secrets.get(&name);
        if found.is_some_and(|secret| is_overwritten(issuer, secret, secrets, given)) {
            secrets.remove(&name);
            aside.push(name);
        }
    }
    aside
}

fn is_overwritten(
    issuer: Issuer,
    secret: &SecretFacts,
    secrets: &Secrets,
    given: &Secrets,
) -> bool {
    let Some(certificate) = secret.data.get("tls.crt") else {
        return false;
    };
    let known = certificates::without(&by_nodes(issuer, secrets), &of_clients(given));
    let is_known = |pem: String| certificates::holds(&known, &pem);
    let is_trusted = known.is_empty() || certificates::first(certificate).is_some_and(is_known);
    !is_trusted || has_other_key(secret)
}

/// The CAs that nodes trust as this issuer.
fn by_nodes(issuer: Issuer, secrets: &Secrets) -> String {
    let keys = TRUST.into_iter().filter(|(of, _)| *of == issuer);
    keys.flat_map(|(_, key)| secrets.values().filter_map(|secret| secret.data.get(key)))
        .map(|pem| format!("{}\n", pem.trim_end()))
        .collect()
}

fn of_clients(given: &Secrets) -> String {
    let all = given
        .values()
        .filter_map(|secret| secret.data.get("ca.crt"));
    all.map(|pem| format!("{}\n", pem.trim_end())).collect()
}

/// A CA without a key signs nothing, as one that was lost does while it is replaced.
fn has_other_key(secret: &SecretFacts) -> bool {
    let keyed = secret.keyed("tls.crt", "tls.key");
    keyed.is_some_and(|keyed| {
        matches!(
            certificates::check_authority(&keyed),
            Err(CertificateError::KeyMismatch | CertificateError::Key(_))
        )
    })
}
