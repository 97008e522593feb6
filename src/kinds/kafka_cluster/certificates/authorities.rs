//! Plans how the CAs of a cluster are created, restored and rotated. A rotation has three steps:
//! first nodes and clients trust the next CA beside the signing one; then the next CA signs and the
//! old one is still trusted; then the old one is removed. Each step waits until all nodes are known
//! to have taken the previous step, and until clients have had the overlap time of the spec. Pure.
//!
//! The Secret of a CA holds the whole state of its rotation.

use crate::api::kafka_cluster::{Authentication, Role};
use crate::api::kafka_cluster::{CertificateIssuer, KafkaCluster};
use crate::certificates;
use crate::certificates::KeyedCertificate;
use crate::kinds::kafka_cluster::disruption::Report;
use crate::kinds::kafka_cluster::model::authority::Issuer;
use crate::kinds::kafka_cluster::model::authority::Rotation;
use crate::kinds::kafka_cluster::model::authority::Trust;
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::observed::{Observed, Probes, SecretFacts};
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::{labels, names};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The next CA is made this many days before the current one expires, so that a client which
/// updates its trust store once a year gets it in time.
const RENEW_BEFORE_DAYS: i64 = 400;

/// Keys of a CA's Secret for the next CA. `tls.crt` and `tls.key` hold the CA that signs.
pub const NEXT: (&str, &str) = ("next.crt", "next.key");
/// Keys of a client certificate that the next CA issued. A node that accepts this certificate
/// trusts the next CA.
pub const PROBE: (&str, &str) = ("probe.crt", "probe.key");
/// The key of a CA's Secret for the old CA, which is still trusted.
pub const PREVIOUS: &str = "previous.crt";
/// Keys of the Secret of a node group, for the CAs that its nodes trust.
pub const TRUST: [(Issuer, &str); 2] = [
    (Issuer::Nodes, "cluster-ca.crt"),
    (Issuer::Clients, "clients-ca.crt"),
];

fn parts(secret: &SecretFacts) -> Option<Vec<String>> {
    let part = |key: &str| {
        secret
            .data
            .get(key)
            .map(|pem| format!("{}\n", pem.trim_end()))
    };
    let others = [NEXT.0, PREVIOUS].into_iter().filter_map(part);
    Some(std::iter::once(part("tls.crt")?).chain(others).collect())
}

/// All certificates to trust according to a CA's Secret, the signing one first.
pub fn trusted(secret: &SecretFacts) -> Option<String> {
    Some(parts(secret)?.concat())
}

/// The CAs with which nodes and the operator authenticate each other: from the CA's Secret or, if
/// that is gone, from the nodes' Secrets.
pub fn trusted_by_nodes(cluster: &str, secrets: &BTreeMap<String, SecretFacts>) -> Option<String> {
    let signing = |pem: String| {
        Some(certificates::signing(&pem))
            .filter(|signing| !signing.is_empty())
            .unwrap_or(pem)
    };
    let secret = secrets.get(&Issuer::Nodes.secret(cluster)).and_then(parts);
    secret
        .map(|parts| parts.into_iter().map(signing).collect())
        .or_else(|| in_force(Issuer::Nodes, secrets))
}

/// The certificates of this CA that the nodes' Secrets contain.
fn in_force(issuer: Issuer, secrets: &BTreeMap<String, SecretFacts>) -> Option<String> {
    let (_, key) = TRUST.into_iter().find(|(of, _)| *of == issuer)?;
    secrets
        .values()
        .find_map(|secret| secret.data.get(key))
        .cloned()
}

/// The certificates that each party must trust. `None` until the CAs exist. If the Secret of a CA
/// is gone, its certificates come from the nodes' Secrets.
pub fn trust(cluster: &str, observed: &Observed) -> Option<Trust> {
    let bundle = |issuer: Issuer| {
        observed
            .secrets
            .get(&issuer.secret(cluster))
            .and_then(trusted)
    };
    let given = observed
        .client_authorities
        .values()
        .filter_map(|secret| Some(format!("{}\n", secret.data.get("ca.crt")?.trim_end())));
    let clients_ca = match bundle(Issuer::Clients) {
        Some(own) => std::iter::once(own).chain(given).collect(),
        None => in_force(Issuer::Clients, &observed.secrets)?,
    };
    let cluster_ca = trusted_by_nodes(cluster, &observed.secrets)?;
    let bundle = bundle(Issuer::Nodes)
        .or_else(|| published(cluster, observed))
        .unwrap_or_else(|| cluster_ca.clone());
    Some(Trust {
        cluster_ca,
        clients_ca,
        bundle,
    })
}

/// The certificates in the ConfigMap that clients take their trust from.
fn published(cluster: &str, observed: &Observed) -> Option<String> {
    let bundle = observed
        .objects
        .config(&names::trust_bundle(cluster), "ca.crt");
    bundle.map(str::to_owned)
}

/// The CA that signs clients' certificates. If its Secret is gone, the key is empty.
pub fn of_clients(cluster: &str, observed: &Observed) -> Option<KeyedCertificate> {
    if let Some(secret) = observed
        .secrets
        .get(&Issuer::Clients.secret(cluster))
        .filter(|secret| secret.is_whole())
    {
        let key = secret.data.get("tls.key").cloned().unwrap_or_default();
        return Some(KeyedCertificate {
            certificate: secret.data.get("tls.crt")?.clone(),
            key,
        });
    }
    Some(KeyedCertificate {
        certificate: certificates::first(&lost(Issuer::Clients, observed)?)?,
        key: String::new(),
    })
}

/// The certificates of a CA whose Secret is gone, as the nodes' Secrets still have them.
fn lost(issuer: Issuer, observed: &Observed) -> Option<String> {
    let given = observed
        .client_authorities
        .values()
        .filter(|_| issuer == Issuer::Clients)
        .filter_map(|secret| secret.data.get("ca.crt"));
    let given: String = given.map(|pem| format!("{}\n", pem.trim_end())).collect();
    Some(certificates::without(
        &in_force(issuer, &observed.secrets)?,
        &given,
    ))
    .filter(|own| !own.is_empty())
}

/// True for a cluster that existed before. If an object of it is missing, the object has been lost;
/// it is not simply still to be created.
pub fn is_known(object: &KafkaCluster, observed: &Observed) -> bool {
    observed.identity.is_some()
        || object
            .status
            .as_ref()
            .is_some_and(|status| status.cluster_id.is_some())
}

/// True if the annotation on the cluster accepts that the lost object with this mark is replaced.
pub fn is_accepted(object: &KafkaCluster, mark: &str) -> bool {
    let marks = object
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(labels::REPLACE_LOST));
    marks.is_some_and(|marks| marks.split(',').any(|one| one.trim() == mark))
}

/// Plans the CAs that are missing. A new cluster gets new ones. A Secret that this operator has
/// seen is restored from its copy. Otherwise a new CA is made only after a person accepts it by
/// annotation; then the old CA is trusted beside it for as long as in a rotation.
pub fn missing(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Report {
    let mut report = Report::default();
    for issuer in Issuer::ALL {
        let secret = issuer.secret(&cluster.key.name);
        if observed
            .secrets
            .get(&secret)
            .is_some_and(SecretFacts::is_whole)
        {
            continue;
        }
        if observed.retained.contains_key(&secret) {
            report.upkeep.push(Step::RestoreSecret(secret));
            continue;
        }
        let given = given(issuer, cluster, observed);
        let old = lost(issuer, observed);
        let mark = old
            .as_deref()
            .map_or_else(|| secret.clone(), certificates::fingerprint);
        if !is_known(object, observed) || given.is_some() || is_accepted(object, &mark) {
            let beside = old.filter(|old| {
                !given.is_some_and(|given| certificates::is_same(old, &given.certificate))
            });
            report.upkeep.push(Step::CreateAuthority {
                secret,
                issuer,
                beside,
            });
            continue;
        }
        let what = match issuer {
            Issuer::Nodes => "which signs certificates of nodes",
            Issuer::Clients => "which signs certificates of Users",
        };
        report.lost.push(format!(
            "Secret {secret}, the {} CA {what}, is gone or was overwritten: put it back from a backup, or annotate the cluster with {}={mark}, and a new CA \
             takes its place, with the old one trusted beside it for as long as in a rotation",
            issuer.word(),
            labels::REPLACE_LOST
        ));
    }
    report
}

/// The certificate of the next CA with which the operator probes whether nodes trust that CA.
pub fn probe(secret: &SecretFacts) -> Option<KeyedCertificate> {
    secret.keyed(PROBE.0, PROBE.1)
}

/// The CA for nodes from the Secret that the spec names, if it names one, with the certificates
/// above it, from `tls.crt` or `ca.crt`.
pub fn given(
    issuer: Issuer,
    cluster: &ValidCluster,
    observed: &Observed,
) -> Option<KeyedCertificate> {
    let is_given =
        issuer == Issuer::Nodes && cluster.spec.certificates.issuer == CertificateIssuer::Secret;
    let secret = observed.given_ca.as_ref().filter(|_| is_given)?;
    let KeyedCertificate { certificate, key } = secret.keyed("tls.crt", "tls.key")?;
    let others = secret
        .data
        .get("ca.crt")
        .map(String::as_str)
        .unwrap_or_default();
    Some(KeyedCertificate {
        certificate: certificates::chain(&certificate, others),
        key,
    })
}

/// Plans the next step of each CA rotation.
pub fn report(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Report {
    let mut report = Report::default();
    for issuer in Issuer::ALL {
        let name = issuer.secret(&cluster.key.name);
        let Some(secret) = observed.secrets.get(&name) else {
            continue;
        };
        let since = secret
            .live
            .annotation(labels::CA_SINCE)
            .and_then(|since| since.parse::<Timestamp>().ok())
            .unwrap_or(observed.now);
        let overlap = SignedDuration::from_mins(cluster.spec.certificates.overlap_minutes.into());
        // Only nodes trust the clients' CA. If it has no key, it signs nothing, so there is no
        // overlap time to wait for.
        let unsigned = issuer == Issuer::Clients && !secret.data.contains_key("tls.key");
        let over = unsigned || observed.now >= since + overlap;
        let seen = taken(issuer, cluster, &observed.probes, secret)
            && is_given_to_nodes(issuer, secret, observed);
        let asked = object
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(labels::ROTATE_CA));
        let given = given(issuer, cluster, observed);
        let next = match &given {
            None => step(secret, asked, observed.now, over && seen),
            Some(given) => step_to_given(secret, given, over && seen),
        };
        if given
            .as_ref()
            .is_some_and(|given| !certificates::has_root(&given.certificate))
        {
            report.warnings.push(
                "the CA that spec.certificates.secretRef gives is signed by another, which is not in that Secret: clients that go by OpenSSL's \
                 rules refuse the nodes; put the certificates above it, up to the root, under ca.crt there"
                    .into(),
            );
        }
        if let Some(end) = given
            .and_then(|given| certificates::facts(&given.certificate).ok())
            .map(|facts| facts.not_after)
            && end <= observed.now + SignedDuration::from_hours(24 * RENEW_BEFORE_DAYS)
        {
            report.warnings.push(format!("the CA that spec.certificates.secretRef gives ends at {end}: put another into that Secret"));
        }
        if let Some(rotation) = next {
            report.upkeep.push(Step::RotateAuthority {
                secret: name,
                issuer,
                rotation,
            });
        } else if let Some(stands) = stands(secret) {
            let until = if over {
                "every node is seen to know it".to_owned()
            } else {
                format!("{}", since + overlap)
            };
            report.warnings.push(format!(
                "the {} CA is being replaced: {stands}; this lasts until {until}",
                issuer.word()
            ));
        }
    }
    report
}

fn stands(secret: &SecretFacts) -> Option<&'static str> {
    if secret.data.contains_key(NEXT.0) {
        Some("the next one is trusted beside it")
    } else {
        secret
            .data
            .contains_key(PREVIOUS)
            .then_some("the next one signs, the old one is still trusted")
    }
}

/// The next step of one CA's rotation. `ready`: the overlap time for clients is over, and all nodes
/// have taken the previous step.
fn step(
    secret: &SecretFacts,
    asked: Option<&String>,
    now: Timestamp,
    ready: bool,
) -> Option<Rotation> {
    if secret.data.contains_key(NEXT.0) {
        return ready.then_some(Rotation::Promote);
    }
    if secret.data.contains_key(PREVIOUS) {
        return ready.then_some(Rotation::Drop);
    }
    let followed = secret.live.annotation(labels::CA_ROTATED);
    let is_asked = asked.is_some_and(|asked| Some(asked.as_str()) != followed);
    let end = secret
        .data
        .get("tls.crt")
        .and_then(|pem| certificates::facts(pem).ok())
        .map(|facts| facts.not_after);
    let ends =
        end.is_some_and(|end| end <= now + SignedDuration::from_hours(24 * RENEW_BEFORE_DAYS));
    (is_asked || ends).then(|| Rotation::Prepare {
        asked: asked.cloned(),
    })
}

/// The next step for a CA that the user provides in a Secret: a rotation begins when that Secret
/// changes.
fn step_to_given(secret: &SecretFacts, given: &KeyedCertificate, ready: bool) -> Option<Rotation> {
    let is = |key: &str| {
        secret
            .data
            .get(key)
            .is_some_and(|pem| certificates::is_same(pem, &given.certificate))
    };
    if secret.data.contains_key(NEXT.0) {
        // The user's Secret has changed again. The next CA has signed nothing yet, so it can be
        // replaced.
        return if is(NEXT.0) {
            ready.then_some(Rotation::Promote)
        } else {
            Some(Rotation::Prepare { asked: None })
        };
    }
    if secret.data.contains_key(PREVIOUS) {
        return ready.then_some(Rotation::Drop);
    }
    if !is("tls.crt") {
        return Some(Rotation::Prepare { asked: None });
    }
    (secret.data.get("tls.crt") != Some(&given.certificate)).then_some(Rotation::Chain)
}

/// True if every node has taken the result of the last step.
fn taken(issuer: Issuer, cluster: &ValidCluster, probes: &Probes, secret: &SecretFacts) -> bool {
    let all = |groups: Vec<&NodeGroup>| {
        groups
            .into_iter()
            .flat_map(NodeGroup::node_ids)
            .collect::<BTreeSet<i32>>()
    };
    let next = secret.data.contains_key(NEXT.0);
    match issuer {
        Issuer::Nodes if next => probes
            .trust_next
            .is_superset(&all(cluster.groups.iter().collect())),
        Issuer::Nodes => probes
            .serve_current
            .is_superset(&all(cluster.groups.iter().collect())),
        Issuer::Clients => {
            let asked = cluster
                .spec
                .listeners
                .iter()
                .any(|listener| listener.authentication == Authentication::MutualTls);
            !next
                || !asked
                || probes
                    .trust_next_clients
                    .is_superset(&all(cluster.groups_of(Role::Broker).collect()))
        }
    }
}

/// True if the Secrets of all nodes have the next CA, if there is one. It must not sign before: a CA
/// that no node is to trust counts as written by somebody else
/// ([`crate::kinds::kafka_cluster::certificates::overwritten`]).
fn is_given_to_nodes(issuer: Issuer, secret: &SecretFacts, observed: &Observed) -> bool {
    let Some(next) = secret
        .data
        .get(NEXT.0)
        .and_then(|pem| certificates::first(pem))
    else {
        return true;
    };
    let keys = TRUST.into_iter().filter(|(of, _)| *of == issuer);
    let mut given = keys.flat_map(|(_, key)| {
        let secrets = observed.secrets.values();
        secrets.filter_map(move |secret| secret.data.get(key))
    });
    given.all(|trust| certificates::holds(trust, &next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::{Live, resource};
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn secret(keys: &[&str], rotated: Option<&str>) -> SecretFacts {
        let now: Timestamp = NOW.parse().unwrap();
        let authority = certificates::new_authority("test", now).unwrap();
        let value =
            json!({"metadata": {"name": "ca", "annotations": {labels::CA_ROTATED: rotated}}});
        let mut data = std::collections::BTreeMap::from([
            ("tls.crt".to_owned(), authority.certificate),
            ("tls.key".to_owned(), authority.key),
        ]);
        data.extend(
            keys.iter()
                .map(|key| ((*key).to_owned(), format!("{key} of the test"))),
        );
        SecretFacts {
            live: Live {
                resource: resource::<Secret>(),
                value,
            },
            data,
        }
    }

    fn next(
        keys: &[&str],
        rotated: Option<&str>,
        asked: Option<&str>,
        ready: bool,
    ) -> Option<Rotation> {
        step(
            &secret(keys, rotated),
            asked.map(str::to_owned).as_ref(),
            NOW.parse().unwrap(),
            ready,
        )
    }

    #[test]
    fn a_rotation_goes_one_step_at_a_time_and_each_waits() {
        assert_eq!(next(&[], None, None, true), None, "nobody asked");
        assert_eq!(
            next(&[], None, Some("1"), true),
            Some(Rotation::Prepare {
                asked: Some("1".into())
            })
        );
        assert_eq!(
            next(&["next.crt", "next.key"], Some("1"), Some("1"), false),
            None
        );
        assert_eq!(
            next(&["next.crt", "next.key"], Some("1"), Some("1"), true),
            Some(Rotation::Promote)
        );
        assert_eq!(
            next(&["previous.crt"], Some("1"), Some("2"), false),
            None,
            "one after the other"
        );
        assert_eq!(
            next(&["previous.crt"], Some("1"), Some("1"), true),
            Some(Rotation::Drop)
        );
        assert_eq!(
            next(&[], Some("1"), Some("1"), true),
            None,
            "each value is followed once"
        );
    }

    #[test]
    fn a_ca_that_a_secret_gives_takes_the_same_steps() {
        let (one, two) = (secret(&[], None), secret(&[], None));
        let given = one.keyed("tls.crt", "tls.key").unwrap();
        assert_eq!(step_to_given(&one, &given, true), None);
        assert_eq!(
            step_to_given(&two, &given, true),
            Some(Rotation::Prepare { asked: None })
        );
        let mut prepared = secret(&["next.key"], None);
        prepared
            .data
            .insert("next.crt".into(), given.certificate.clone());
        assert_eq!(step_to_given(&prepared, &given, false), None, "not yet");
        assert_eq!(
            step_to_given(&prepared, &given, true),
            Some(Rotation::Promote)
        );
        let other = two.keyed("tls.crt", "tls.key").unwrap();
        assert_eq!(
            step_to_given(&prepared, &other, true),
            Some(Rotation::Prepare { asked: None }),
            "the Secret has changed again"
        );
        let chained = KeyedCertificate {
            certificate: format!("{}{}", given.certificate, other.certificate),
            ..given.clone()
        };
        assert_eq!(
            step_to_given(&one, &chained, true),
            Some(Rotation::Chain),
            "the same CA, with another above it"
        );
        assert_eq!(
            step_to_given(&secret(&["previous.crt"], None), &given, false),
            None,
            "one after the other"
        );
    }

    #[test]
    fn a_ca_that_ends_is_replaced_unasked() {
        let late = NOW.parse::<Timestamp>().unwrap()
            + SignedDuration::from_hours(24 * (3650 - RENEW_BEFORE_DAYS + 1));
        assert_eq!(
            step(&secret(&[], None), None, late, true),
            Some(Rotation::Prepare { asked: None })
        );
    }

    #[test]
    fn what_signs_is_trusted_first_and_the_others_beside_it() {
        let both = secret(&["next.crt", "next.key"], None);
        let bundle = trusted(&both).unwrap();
        assert!(
            bundle.starts_with(both.data["tls.crt"].as_str())
                && bundle.ends_with("next.crt of the test\n")
        );
    }
}
