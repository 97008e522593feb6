//! Secrets with keys are deleted: an operator that has cached them restores them; one that has not
//! requires a confirmation before it creates new keys.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;

use fixture::{Kafka, Pod, World, cluster, observe};
use freehold::api::conditions::{Reason, State};
use freehold::api::kafka_cluster::{
    Authentication, KafkaCluster, KafkaClusterStatus, RightsPolicy,
};
use freehold::certificates;
use freehold::kinds::kafka_cluster::certificates::authorities;
use freehold::kinds::kafka_cluster::certificates::overwritten::set_aside;
use freehold::kinds::kafka_cluster::identity::password_key;
use freehold::kinds::kafka_cluster::observed::{Observed, SecretFacts};
use freehold::kinds::kafka_cluster::plan::{Plan, Step};
use freehold::kinds::kafka_cluster::retained_secrets::RetainedSecrets;
use freehold::kinds::kafka_cluster::status;
use freehold::kinds::kafka_cluster::validate::validate;
use freehold::kubernetes::{labels, names};
use std::collections::BTreeMap;

const CLUSTER: &str = "apiVersion: freehold.dev/v1alpha1
kind: KafkaCluster
metadata: {name: demo, namespace: kafka, uid: u, generation: 1, finalizers: [freehold.dev/finalizer]}
spec:
  version: 4.3.1
  nodePools:
  - {name: all, roles: [controller, broker], replicas: 3, zones: [a, b, c], storage: {size: 1Gi}}
  listeners:
  - {name: tls, port: 9093, authentication: MutualTls}
";

fn object() -> KafkaCluster {
    cluster(CLUSTER)
}

/// A cluster as desired.
fn settled() -> Observed {
    let nodes = [0, 100, 200];
    let kafka = Kafka {
        unfenced: nodes.to_vec(),
        leader: 0,
        voters: nodes.iter().map(|id| (*id, 100)).collect(),
        partitions: vec![(nodes.to_vec(), nodes.to_vec())],
        ..Kafka::default()
    };
    observe(
        &object(),
        &World::running(nodes.into_iter().map(Pod::up), kafka),
    )
    .0
}

fn planned(object: &KafkaCluster, observed: &Observed) -> (Vec<String>, State, Plan) {
    let valid = validate(object, observed).unwrap();
    let plan = linter::plan(object, &valid, observed);
    (
        plan.steps.iter().map(ToString::to_string).collect(),
        status::state(object, observed, &plan),
        plan,
    )
}

fn annotated(annotations: &[(&str, &str)]) -> KafkaCluster {
    let mut object = object();
    let all = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    object
        .metadata
        .annotations
        .get_or_insert_default()
        .extend(all);
    object
}

/// The mark that the state asks the user to confirm.
fn mark(state: &State) -> String {
    let State::Stalled {
        reason: Reason::SecretLost,
        message,
    } = state
    else {
        panic!("{state:?}")
    };
    let (_, rest) = message
        .split_once(&format!("{}=", labels::REPLACE_LOST))
        .expect("the way out");
    rest.split([',', ' ']).next().unwrap().to_owned()
}

const KEYS: [&str; 3] = ["demo-cluster-ca", "demo-clients-ca", "demo-passwords"];

#[test]
fn a_cluster_with_all_its_keys_is_ready_and_a_new_one_makes_them() {
    let (steps, state, _) = planned(&object(), &settled());
    assert!(
        steps.is_empty() && state == State::Ready,
        "{steps:?} {state:?}"
    );
    let (steps, _, plan) = planned(&object(), &observe(&object(), &World::default()).0);
    assert_eq!(
        steps[..3],
        [
            "create the CA in Secret demo-cluster-ca",
            "create the CA in Secret demo-clients-ca",
            "create the key of passwords in Secret demo-passwords"
        ]
    );
    assert!(plan.lost.is_empty());
}

#[test]
fn an_operator_that_has_seen_a_secret_puts_it_back_as_it_was() {
    for name in KEYS {
        let mut observed = settled();
        let (seen, names) = (RetainedSecrets::default(), KEYS.map(str::to_owned));
        assert!(seen.keep("u", &names, &observed.secrets).is_empty());
        let was = observed.secrets.remove(name).unwrap();
        observed.retained = seen.keep("u", &names, &observed.secrets);
        assert!(observed.retained.keys().eq([name]) && observed.retained[name].data == was.data);
        assert!(
            seen.keep("another", &names, &observed.secrets).is_empty(),
            "a cluster made anew under the name"
        );
        let (steps, state, _) = planned(&object(), &observed);
        assert_eq!(
            steps,
            [format!("put Secret {name} back as it was")],
            "and no certificate is issued meanwhile"
        );
        assert!(!matches!(state, State::Stalled { .. }));
        seen.forget("u");
        assert!(seen.keep("u", &names, &observed.secrets).is_empty());
    }
}

/// The ways in which somebody overwrites the Secret of a CA: with another CA, as from an old
/// backup, with another key, with another certificate, or with what is none.
fn overwritten(secret: &SecretFacts) -> Vec<(&'static str, SecretFacts)> {
    let other = certificates::new_authority("other", k8s_openapi::jiff::Timestamp::now()).unwrap();
    let with = |data: &[(&str, &String)]| {
        let mut secret = secret.clone();
        for (key, value) in data {
            secret.data.insert((*key).to_owned(), (*value).clone());
        }
        secret
    };
    let (certificate, key, junk) = (&other.certificate, &other.key, &"junk".to_owned());
    vec![
        ("CA", with(&[("tls.crt", certificate), ("tls.key", key)])),
        ("key", with(&[("tls.key", key)])),
        ("certificate", with(&[("tls.crt", certificate)])),
        ("junk", with(&[("tls.crt", junk)])),
        ("junk as key", with(&[("tls.key", junk)])),
    ]
}

/// It would sign everything anew, and brokers with certificates of one and trust of another would
/// be cut off from each other.
#[test]
fn a_ca_that_somebody_overwrote_signs_nothing_and_is_put_back_or_told() {
    for name in ["demo-cluster-ca", "demo-clients-ca"] {
        let whole = settled();
        let before = authorities::trust("demo", &whole).unwrap();
        for (how, other) in overwritten(&whole.secrets[name]) {
            let mut observed = settled();
            observed.secrets.clone_from(&whole.secrets);
            observed.objects = whole.objects.clone();
            let (seen, names) = (RetainedSecrets::default(), KEYS.map(str::to_owned));
            seen.keep("u", &names, &observed.secrets);
            observed.secrets.insert(name.to_owned(), other);
            let aside = set_aside("demo", &mut observed.secrets, &BTreeMap::new());
            assert_eq!(aside, [name], "{how}");
            let (steps, state, _) = planned(&object(), &observed);
            assert!(steps.is_empty(), "{how}: {steps:?}");
            let mark = mark(&state);
            let now = authorities::trust("demo", &observed).unwrap();
            assert!(now.cluster_ca == before.cluster_ca && now.clients_ca == before.clients_ca);
            let accepted = annotated(&[(labels::REPLACE_LOST, &mark)]);
            let beside = format!("create the CA in Secret {name} beside the one that is lost");
            assert_eq!(planned(&accepted, &observed).0, [beside], "{how}");
            observed.retained = seen.keep("u", &names, &observed.secrets);
            let kept = &observed.retained[name].data;
            assert!(*kept == whole.secrets[name].data, "{how}");
            let (steps, _, _) = planned(&object(), &observed);
            assert_eq!(
                steps,
                [format!("put Secret {name} back as it was")],
                "{how}"
            );
        }
    }
}

/// Also where no listener asks clients for certificates, so that no node is asked whether it knows
/// the next CA: an operator that dies then would take it for that of somebody else.
#[test]
fn a_ca_does_not_sign_before_all_nodes_are_given_it() {
    let mut object = object();
    object.spec.listeners[0].authentication = Authentication::ScramSha512;
    let mut observed = settled();
    let next = certificates::new_authority("next", observed.now).unwrap();
    let secret = observed.secrets.get_mut("demo-clients-ca").unwrap();
    secret
        .data
        .insert("next.crt".into(), next.certificate.clone());
    secret.data.insert("next.key".into(), next.key);
    secret.live.value["metadata"]["annotations"][labels::CA_SINCE] =
        serde_json::json!("2020-01-01T00:00:00Z");
    let signs = |observed: &Observed| {
        let (steps, _, _) = planned(&object, observed);
        steps
            .iter()
            .any(|step| step.contains("Secret demo-clients-ca"))
    };
    assert!(!signs(&observed));
    for secret in observed.secrets.values_mut() {
        if let Some(trust) = secret.data.get_mut("clients-ca.crt") {
            trust.push_str(&next.certificate);
        }
    }
    assert!(signs(&observed));
}

/// What the steps of a rotation leave in a Secret is not taken for that.
#[test]
fn a_ca_as_freehold_wrote_it_is_not_set_aside() {
    let mut observed = settled();
    let is_kept = |secrets: &mut BTreeMap<String, SecretFacts>| {
        set_aside("demo", secrets, &BTreeMap::new()).is_empty()
    };
    assert!(is_kept(&mut observed.secrets));
    let next = certificates::new_authority("next", observed.now).unwrap();
    let secret = observed.secrets.get_mut("demo-cluster-ca").unwrap();
    let old = secret.data["tls.crt"].clone();
    secret.data.extend(
        [
            ("next.crt", next.certificate.clone()),
            ("next.key", next.key.clone()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    assert!(is_kept(&mut observed.secrets), "the next one is made");
    for secret in observed.secrets.values_mut() {
        if let Some(trust) = secret.data.get_mut("cluster-ca.crt") {
            trust.push_str(&next.certificate);
        }
    }
    let secret = observed.secrets.get_mut("demo-cluster-ca").unwrap();
    secret.data.extend(
        [
            ("previous.crt", old.clone()),
            ("tls.crt", next.certificate),
            ("tls.key", next.key),
            ("next.crt", String::new()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    assert!(is_kept(&mut observed.secrets), "the next one signs");
    let secret = observed.secrets.get_mut("demo-cluster-ca").unwrap();
    assert!(!secret.data.contains_key("next.crt"), "empty is none");
    secret.data.insert("tls.crt".into(), old);
    secret.data.remove("tls.key");
    assert!(
        is_kept(&mut observed.secrets),
        "a lost one, beside its next"
    );
    // Before there are nodes, nobody trusts anything.
    observed
        .secrets
        .retain(|name, _| KEYS.contains(&name.as_str()));
    assert!(is_kept(&mut observed.secrets));
}

#[test]
fn an_operator_that_has_not_seen_it_changes_nothing_and_says_what_there_is_to_do() {
    for name in KEYS {
        let mut observed = settled();
        observed.secrets.remove(name);
        let (steps, state, plan) = planned(&object(), &observed);
        assert!(steps.is_empty(), "{steps:?}");
        assert!(
            plan.lost[0].contains(&format!("Secret {name}"))
                && plan.lost[0].contains("from a backup"),
            "{:?}",
            plan.lost
        );
        let mark = mark(&state);
        // The annotation confirms no other loss.
        let (steps, _, _) = planned(
            &annotated(&[(labels::REPLACE_LOST, "another"), (labels::ROTATE_CA, "1")]),
            &observed,
        );
        assert!(
            !steps
                .iter()
                .any(|step| step.contains(&format!("in Secret {name}"))),
            "{steps:?}"
        );
        let (steps, state, _) = planned(
            &annotated(&[(labels::REPLACE_LOST, &format!("another, {mark}"))]),
            &observed,
        );
        let made = if name == "demo-passwords" {
            "create the key of passwords in Secret demo-passwords".to_owned()
        } else {
            format!("create the CA in Secret {name} beside the one that is lost")
        };
        assert_eq!(steps, [made]);
        assert!(!matches!(state, State::Stalled { .. }));
    }
}

#[test]
fn nodes_go_on_with_what_they_have_while_a_ca_is_lost() {
    let (whole, mut observed) = (settled(), settled());
    // Both CAs are created again with new keys.
    observed.secrets = whole.secrets.clone();
    let before = authorities::trust("demo", &whole).unwrap();
    observed
        .secrets
        .retain(|name, _| !KEYS.contains(&name.as_str()));
    observed.objects = whole.objects.clone();
    let now = authorities::trust("demo", &observed).unwrap();
    assert!(
        (now.cluster_ca == before.cluster_ca) && now.clients_ca == before.clients_ca,
        "nobody is trusted less"
    );
    let lost = authorities::of_clients("demo", &observed).unwrap();
    let had = whole.secrets["demo-clients-ca"].data["tls.crt"].as_str();
    assert!(certificates::is_same(&lost.certificate, had) && lost.key.is_empty());
    let (steps, state, plan) = planned(&object(), &observed);
    assert!(
        steps.is_empty() && plan.lost.len() == 3,
        "{steps:?} {:?}",
        plan.lost
    );
    assert!(matches!(state, State::Stalled { .. }));
}

#[test]
fn a_new_ca_beside_a_lost_one_goes_the_way_of_a_rotation() {
    let mut observed = settled();
    let lost = observed.secrets.get_mut("demo-cluster-ca").unwrap();
    // The Secret as apply leaves it: the old certificate without a key, and the next CA.
    let next = certificates::new_authority("next", observed.now).unwrap();
    lost.data.remove("tls.key");
    lost.data.extend([
        ("next.crt".to_owned(), next.certificate.clone()),
        ("next.key".to_owned(), next.key),
    ]);
    lost.live.value["metadata"]["annotations"][labels::CA_SINCE] =
        serde_json::json!(observed.now.to_string());
    let (steps, state, plan) = planned(&object(), &observed);
    assert!(!matches!(state, State::Stalled { .. }));
    // Nodes trust both CAs and keep their certificates: the CA without a key signs nothing.
    assert!(
        steps
            .iter()
            .all(|step| step.starts_with("let nodes trust other CAs")
                || step == "apply ConfigMap demo-ca"),
        "{steps:?}"
    );
    assert_eq!(steps.len(), 4, "{steps:?}");
    assert!(
        plan.warnings
            .iter()
            .any(|warning| warning.contains("the cluster CA is being replaced")),
        "{:?}",
        plan.warnings
    );
    assert!(
        authorities::trust("demo", &observed)
            .unwrap()
            .cluster_ca
            .ends_with(&next.certificate)
    );
}

#[test]
fn passwords_keep_the_key_that_they_had_until_another_is_asked_for() {
    let mut observed = settled();
    observed.secrets.remove("demo-passwords");
    observed.identity.as_mut().unwrap().password_key = None;
    let (steps, _, _) = planned(&object(), &observed);
    assert_eq!(
        steps,
        ["keep the key of passwords in Secret demo-passwords"],
        "a cluster from before there was such a Secret"
    );
    let used = password_key::of_clients_authority(&observed, "demo");
    assert_eq!(
        used,
        observed.secrets[&names::clients_ca("demo")]
            .data
            .get("tls.key")
            .cloned()
    );

    let asked = annotated(&[(labels::ROTATE_PASSWORDS, "1")]);
    let mut observed = settled();
    assert_eq!(
        planned(&asked, &observed).0,
        ["make another key of passwords in Secret demo-passwords"]
    );
    let secret = observed.secrets.get_mut("demo-passwords").unwrap();
    secret.live.value["metadata"]["annotations"][labels::ROTATE_PASSWORDS] = serde_json::json!("1");
    assert!(
        planned(&asked, &observed).0.is_empty(),
        "each value is followed once"
    );
    secret_changes_the_identity(&mut observed);
}

/// The identity records which key existed, so that a key that is lost later is not taken for one
/// that never existed.
fn secret_changes_the_identity(observed: &mut Observed) {
    observed
        .secrets
        .get_mut("demo-passwords")
        .unwrap()
        .data
        .insert(password_key::KEY.into(), "another".into());
    assert_eq!(
        planned(&object(), observed).0,
        ["update the identity: quorum formed: true"]
    );
}

/// A deleted ConfigMap of the identity does not change the rights of the cluster's Users.
#[test]
fn a_lost_identity_changes_nobodys_rights() {
    let rights = |rights: Option<RightsPolicy>, is_new: bool| {
        let (mut object, mut observed) = (object(), settled());
        observed.identity = None;
        object.status = (!is_new).then(|| KafkaClusterStatus {
            cluster_id: Some("ID".into()),
            rights,
            ..KafkaClusterStatus::default()
        });
        let valid = validate(&object, &observed).unwrap();
        let steps = linter::plan(&object, &valid, &observed).steps;
        steps.iter().find_map(|step| {
            if let Step::CreateIdentity { own_rights, .. } = step {
                Some(*own_rights)
            } else {
                None
            }
        })
    };
    assert_eq!(rights(Some(RightsPolicy::Own), false), Some(true));
    assert_eq!(rights(Some(RightsPolicy::Any), false), Some(false));
    assert_eq!(
        rights(None, false),
        Some(false),
        "from before Own was the default"
    );
    assert_eq!(rights(None, true), Some(true), "a new cluster");
}
