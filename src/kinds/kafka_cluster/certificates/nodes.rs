//! Decides which certificates of nodes and of the operator are issued anew. Pure.

use crate::api::kafka_cluster::Role;
use crate::certificates;
use crate::certificates::KeyedCertificate;
use crate::kinds::kafka_cluster::disruption::Report;
use crate::kinds::kafka_cluster::model::authority::Trust;
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::observed::{Observed, SecretFacts};
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::{labels, names};
use crate::words;
use k8s_openapi::jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

/// The CA that issues nodes' certificates.
pub fn cluster_authority(cluster: &ValidCluster, observed: &Observed) -> Option<KeyedCertificate> {
    observed
        .secrets
        .get(&names::cluster_ca(&cluster.key.name))?
        .keyed("tls.crt", "tls.key")
}

/// Plans the certificates to issue: those that expire soon, that an annotation asks for, that
/// another CA signed, or that have other host names than they need.
pub fn report(cluster: &ValidCluster, observed: &Observed, trust: &Trust) -> Report {
    let mut report = Report::default();
    let own = names::operator_certificate(&cluster.key.name);
    let secret = observed.secrets.get(&own);
    let certificate = secret.and_then(|secret| secret.data.get("tls.crt"));
    let authority = cluster_authority(cluster, observed);
    let above = authority
        .as_ref()
        .map(|authority| certificates::intermediates(&authority.certificate))
        .unwrap_or_default();
    let current = certificate
        .is_some_and(|certificate| is_current(cluster, observed, trust, certificate, &[]));
    if authority.is_some() && (asked_anew(cluster, secret) || !current) {
        report
            .upkeep
            .push(Step::IssueOperatorCertificate { secret: own });
    }
    for group in &cluster.groups {
        let nodes: BTreeMap<i32, Vec<String>> = group
            .node_ids()
            .map(|id| (id, hosts(cluster, group, id)))
            .collect();
        let secret = names::node_certificates(&group.stateful_set);
        let found = observed.secrets.get(&secret);
        let same_trust = found.is_some_and(|found| {
            found.data.get("cluster-ca.crt") == Some(&trust.cluster_ca)
                && found.data.get("clients-ca.crt") == Some(&trust.clients_ca)
        });
        let stale = |id: &i32, hosts: &Vec<String>| {
            let pem = found.and_then(|found: &SecretFacts| found.data.get(&format!("{id}.pem")));
            !pem.is_some_and(|pem| {
                pem.contains(&above) && is_current(cluster, observed, trust, pem, hosts)
            })
        };
        let all = asked_anew(cluster, found);
        let mut stale: BTreeMap<_, _> = nodes
            .into_iter()
            .filter(|(id, hosts)| all || stale(id, hosts))
            .collect();
        if authority.is_none() && !stale.is_empty() {
            // The lost CA or the running rotation reports what to do about it; here only the
            // waiting nodes are named.
            report.warnings.push(format!(
                "no CA signs at present: nodes {} wait for certificates",
                words::ids(stale.keys())
            ));
            stale.clear();
        }
        if !stale.is_empty() || found.is_some() && !same_trust {
            report.upkeep.push(Step::IssueNodeCertificates {
                secret,
                nodes: stale,
                trust: trust.clone(),
            });
        }
    }
    report
}

/// True if the annotation asks for new certificates and this Secret's were issued before that.
fn asked_anew(cluster: &ValidCluster, secret: Option<&SecretFacts>) -> bool {
    let followed = secret.and_then(|secret| secret.live.annotation(labels::RENEW_CERTIFICATES));
    cluster.renew_certificates.is_some() && cluster.renew_certificates.as_deref() != followed
}

/// The host names under which a node is reached, in all their forms: clients may use any form of
/// the bootstrap Service's name.
pub fn hosts(cluster: &ValidCluster, group: &NodeGroup, node_id: i32) -> Vec<String> {
    let (pod, name) = (names::pod(&group.stateful_set, node_id), &cluster.key.name);
    let mut services = vec![format!("{pod}.{}", names::nodes_service(name))];
    if group.is(Role::Broker) {
        services.extend([pod, names::bootstrap_service(name)]);
    }
    services
        .iter()
        .flat_map(|service| {
            names::host_forms(service, &cluster.key.namespace, &cluster.cluster_domain)
        })
        .collect()
}

fn is_current(
    cluster: &ValidCluster,
    observed: &Observed,
    trust: &Trust,
    pem: &str,
    hosts: &[String],
) -> bool {
    let Ok(facts) = certificates::facts(pem) else {
        return false;
    };
    let renew_before =
        SignedDuration::from_hours(24 * i64::from(cluster.spec.certificates.renew_before_days));
    let held: BTreeSet<_> = facts.hosts.iter().collect();
    facts.not_after > observed.now + renew_before
        && held == hosts.iter().collect()
        && certificates::signed_by(pem, &trust.cluster_ca)
}
