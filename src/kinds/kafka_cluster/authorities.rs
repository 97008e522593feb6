//! The CAs that Freehold makes or is given, and how one takes the place of another: first the next one is trusted beside the one that
//! signs, then it signs and the old one is still trusted, then it stands alone. Each step waits until every node is known to
//! have taken the one before, and until clients have had their time to. Pure.
//!
//! The Secret of a CA holds all that there is to know of where it stands.

use super::api::{CertificateIssuer, KafkaCluster};
use super::observe::{Observed, Probes, SecretFacts};
use super::plan::{Plan, Step};
use super::validate::{NodeGroup, ValidCluster};
use crate::certificates::{self, KeyedCertificate};
use crate::kinds::kafka_cluster::api::{Authentication, Role};
use crate::{labels, names};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// Before the end of a CA the next one is made: a client that is looked at once a year sees it.
const RENEW_BEFORE_DAYS: i64 = 400;

/// Which of a cluster's CAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signs {
    /// Nodes and operator; clients trust it.
    Nodes,
    /// Users; listeners trust it.
    Clients,
}

impl Signs {
    pub const ALL: [Self; 2] = [Self::Nodes, Self::Clients];

    pub fn secret(self, cluster: &str) -> String {
        match self {
            Self::Nodes => names::cluster_ca(cluster),
            Self::Clients => names::clients_ca(cluster),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Nodes => "cluster",
            Self::Clients => "clients",
        }
    }

    pub fn common_name(self, cluster: &str) -> String {
        format!("{} CA of {cluster}", self.word()).chars().take(64).collect()
    }
}

/// One step of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Makes the next CA; nobody uses it yet. With the annotation's value that asked for it.
    Prepare { asked: Option<String> },
    /// The next CA signs from now on.
    Promote,
    /// The old CA is trusted no more.
    Drop,
}

/// Keys of a CA's Secret beside `tls.crt` and `tls.key`, which sign.
pub const NEXT: (&str, &str) = ("next.crt", "next.key");
/// A certificate of the next CA: who lets it in trusts that CA.
pub const PROBE: (&str, &str) = ("probe.crt", "probe.key");
pub const PREVIOUS: &str = "previous.crt";
/// What passwords are derived from: it outlives the CA.
pub const PASSWORDS: &str = "passwords.key";

/// Everything that a CA's Secret says is to be trusted, the one that signs first.
pub fn trusted(secret: &SecretFacts) -> Option<String> {
    let part = |key: &str| secret.data.get(key).map(|pem| format!("{}\n", pem.trim_end()));
    let others = [NEXT.0, PREVIOUS].into_iter().filter_map(part);
    Some(std::iter::once(part("tls.crt")?).chain(others).collect())
}

/// The certificate of the next CA with which nodes are asked whether they trust it.
pub fn probe(secret: &SecretFacts) -> Option<KeyedCertificate> {
    secret.keyed(PROBE.0, PROBE.1)
}

/// What passwords are derived from.
pub fn password_key(secret: &SecretFacts) -> Option<String> {
    secret.data.get(PASSWORDS).or_else(|| secret.data.get("tls.key")).cloned()
}

/// The CA that a Secret gives for nodes, where the spec names one.
pub fn given(signs: Signs, cluster: &ValidCluster, observed: &Observed) -> Option<KeyedCertificate> {
    let is_given = signs == Signs::Nodes && cluster.spec.certificates.issuer == CertificateIssuer::Secret;
    observed.given_ca.as_ref().filter(|_| is_given)?.keyed("tls.crt", "tls.key")
}

/// Plans the rotations' next steps.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    for signs in Signs::ALL {
        let name = signs.secret(&cluster.key.name);
        let Some(secret) = observed.secrets.get(&name) else { continue };
        let since = secret.live.annotation(labels::CA_SINCE).and_then(|since| since.parse::<Timestamp>().ok()).unwrap_or(observed.now);
        let overlap = SignedDuration::from_mins(cluster.spec.certificates.overlap_minutes.into());
        let over = observed.now >= since + overlap;
        let seen = taken(signs, cluster, &observed.probes, secret);
        let asked = object.metadata.annotations.as_ref().and_then(|all| all.get(labels::ROTATE_CA));
        let given = given(signs, cluster, observed);
        let next = match &given {
            None => step(secret, asked, observed.now, over && seen),
            Some(given) => step_to_given(secret, given, over && seen),
        };
        if let Some(end) = given.and_then(|given| certificates::facts(&given.certificate).ok()).map(|facts| facts.not_after)
            && end <= observed.now + SignedDuration::from_hours(24 * RENEW_BEFORE_DAYS)
        {
            plan.warnings.push(format!("the CA that spec.certificates.secretRef gives ends at {end}: put another into that Secret"));
        }
        if let Some(rotation) = next {
            plan.steps.push(Step::RotateAuthority { secret: name, signs, rotation });
        } else if let Some(stands) = stands(secret) {
            let until = if over { "every node is seen to know it".to_owned() } else { format!("{}", since + overlap) };
            plan.warnings.push(format!("the {} CA is being replaced: {stands}; this lasts until {until}", signs.word()));
        }
    }
}

fn stands(secret: &SecretFacts) -> Option<&'static str> {
    if secret.data.contains_key(NEXT.0) {
        Some("the next one is trusted beside it")
    } else {
        secret.data.contains_key(PREVIOUS).then_some("the next one signs, the old one is still trusted")
    }
}

/// The next step of one CA. `ready`: clients have had their time, and nodes have taken the step before.
fn step(secret: &SecretFacts, asked: Option<&String>, now: Timestamp, ready: bool) -> Option<Rotation> {
    if secret.data.contains_key(NEXT.0) {
        return ready.then_some(Rotation::Promote);
    }
    if secret.data.contains_key(PREVIOUS) {
        return ready.then_some(Rotation::Drop);
    }
    let followed = secret.live.annotation(labels::CA_ROTATED);
    let is_asked = asked.is_some_and(|asked| Some(asked.as_str()) != followed);
    let end = secret.data.get("tls.crt").and_then(|pem| certificates::facts(pem).ok()).map(|facts| facts.not_after);
    let ends = end.is_some_and(|end| end <= now + SignedDuration::from_hours(24 * RENEW_BEFORE_DAYS));
    (is_asked || ends).then(|| Rotation::Prepare { asked: asked.cloned() })
}

/// The same where a Secret gives the CA: the Secret says when another takes its place.
fn step_to_given(secret: &SecretFacts, given: &KeyedCertificate, ready: bool) -> Option<Rotation> {
    let is = |key: &str| secret.data.get(key) == Some(&given.certificate);
    if secret.data.contains_key(NEXT.0) {
        // Another one by now: nobody has used the one before.
        return if is(NEXT.0) { ready.then_some(Rotation::Promote) } else { Some(Rotation::Prepare { asked: None }) };
    }
    if secret.data.contains_key(PREVIOUS) {
        return ready.then_some(Rotation::Drop);
    }
    (!is("tls.crt")).then_some(Rotation::Prepare { asked: None })
}

/// Whether every node has taken what the last step made.
fn taken(signs: Signs, cluster: &ValidCluster, probes: &Probes, secret: &SecretFacts) -> bool {
    let all = |groups: Vec<&NodeGroup>| groups.into_iter().flat_map(NodeGroup::node_ids).collect::<BTreeSet<i32>>();
    let next = secret.data.contains_key(NEXT.0);
    match signs {
        Signs::Nodes if next => probes.trust_next.is_superset(&all(cluster.groups.iter().collect())),
        Signs::Nodes => probes.serve_current.is_superset(&all(cluster.groups.iter().collect())),
        Signs::Clients => {
            let asked = cluster.spec.listeners.iter().any(|listener| listener.authentication == Authentication::MutualTls);
            !next || !asked || probes.trust_next_clients.is_superset(&all(cluster.groups_of(Role::Broker).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_io::{Live, resource};
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn secret(keys: &[&str], rotated: Option<&str>) -> SecretFacts {
        let now: Timestamp = NOW.parse().unwrap();
        let authority = certificates::new_authority("test", now).unwrap();
        let value = json!({"metadata": {"name": "ca", "annotations": {labels::CA_ROTATED: rotated}}});
        let mut data =
            std::collections::BTreeMap::from([("tls.crt".to_owned(), authority.certificate), ("tls.key".to_owned(), authority.key)]);
        data.extend(keys.iter().map(|key| ((*key).to_owned(), format!("{key} of the test"))));
        SecretFacts { live: Live { resource: resource::<Secret>(), value }, data }
    }

    fn next(keys: &[&str], rotated: Option<&str>, asked: Option<&str>, ready: bool) -> Option<Rotation> {
        step(&secret(keys, rotated), asked.map(str::to_owned).as_ref(), NOW.parse().unwrap(), ready)
    }

    #[test]
    fn a_rotation_goes_one_step_at_a_time_and_each_waits() {
        assert_eq!(next(&[], None, None, true), None, "nobody asked");
        assert_eq!(next(&[], None, Some("1"), true), Some(Rotation::Prepare { asked: Some("1".into()) }));
        assert_eq!(next(&["next.crt", "next.key"], Some("1"), Some("1"), false), None);
        assert_eq!(next(&["next.crt", "next.key"], Some("1"), Some("1"), true), Some(Rotation::Promote));
        assert_eq!(next(&["previous.crt"], Some("1"), Some("2"), false), None, "one after the other");
        assert_eq!(next(&["previous.crt"], Some("1"), Some("1"), true), Some(Rotation::Drop));
        assert_eq!(next(&[], Some("1"), Some("1"), true), None, "each value is followed once");
    }

    #[test]
    fn a_ca_that_a_secret_gives_takes_the_same_steps() {
        let (one, two) = (secret(&[], None), secret(&[], None));
        let given = one.keyed("tls.crt", "tls.key").unwrap();
        assert_eq!(step_to_given(&one, &given, true), None);
        assert_eq!(step_to_given(&two, &given, true), Some(Rotation::Prepare { asked: None }));
        let mut prepared = secret(&["next.key"], None);
        prepared.data.insert("next.crt".into(), given.certificate.clone());
        assert_eq!(step_to_given(&prepared, &given, false), None, "not yet");
        assert_eq!(step_to_given(&prepared, &given, true), Some(Rotation::Promote));
        let other = two.keyed("tls.crt", "tls.key").unwrap();
        assert_eq!(step_to_given(&prepared, &other, true), Some(Rotation::Prepare { asked: None }), "the Secret has changed again");
        assert_eq!(step_to_given(&secret(&["previous.crt"], None), &given, false), None, "one after the other");
    }

    #[test]
    fn a_ca_that_ends_is_replaced_unasked() {
        let late = NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(24 * (3650 - RENEW_BEFORE_DAYS + 1));
        assert_eq!(step(&secret(&[], None), None, late, true), Some(Rotation::Prepare { asked: None }));
    }

    #[test]
    fn what_signs_is_trusted_first_and_the_others_beside_it() {
        let both = secret(&["next.crt", "next.key"], None);
        let bundle = trusted(&both).unwrap();
        assert!(bundle.starts_with(both.data["tls.crt"].as_str()) && bundle.ends_with("next.crt of the test\n"));
        assert_eq!(password_key(&both), both.data.get("tls.key").cloned());
        assert_eq!(password_key(&secret(&["passwords.key"], None)).as_deref(), Some("passwords.key of the test"));
    }
}
