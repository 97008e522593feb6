//! Access that is withdrawn is removed, and comes back completely; a new right is granted before
//! the old one that it replaces is removed.

use crate::load;
use crate::world::{
    LONG, Operator, Restore, access_ends, asked, block_on, client, delete_topic, endpoints,
    kafka_image, kubectl, namespace, secret, small_cluster, topic, user,
};
use anyhow::Context;
use freehold_e2e::flow;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use freehold_kafka_client::client::Client as Bare;
use freehold_kafka_client::sasl::ScramLogin;
use freehold_kafka_client::tls::TlsSettings;
use freehold_kafka_client::{Admin, AdminResult};
use serde_json::json;
use std::collections::BTreeMap;

const HOME: &str = "tenancy";
const TENANT: &str = "tenancy-tenant";

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: freehold.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: {TENANT}}}, \
         spec: {{clusterRef: {{name: own, namespace: {HOME}}}, {spec}}}}}"
    )
}

/// Logs in with what is in the Secret of a User in the tenant's namespace.
fn login(kubectl: &Kubectl, name: &str, found: &BTreeMap<String, String>) -> AdminResult<()> {
    let login = ScramLogin {
        user: name.into(),
        password: found["password"].clone(),
    };
    let tls = TlsSettings::new(&found["ca.crt"], None).unwrap();
    let brokers = endpoints(kubectl, HOME, "own", "broker", 9094);
    block_on(Bare::new(brokers, tls, Some(login)).describe_cluster()).map(|_| ())
}

/// Waits until the password of a User opens a connection.
fn opens(what: &str, kubectl: &Kubectl, name: &str) {
    shell::wait_for(what, LONG, || {
        let found = secret(kubectl, TENANT, &format!("{name}-kafka"))?;
        login(kubectl, name, &found)?;
        Ok(None)
    })
    .unwrap();
}

/// Waits until the password of a User opens nothing.
fn opens_nothing(what: &str, kubectl: &Kubectl, name: &str) {
    access_ends(what, || {
        let found = secret(kubectl, TENANT, &format!("{name}-kafka"))?;
        is_let_in(login(kubectl, name, &found))
    });
}

/// Only a refusal says that a password is not let in.
fn is_let_in(login: AdminResult<()>) -> anyhow::Result<bool> {
    match login {
        Ok(()) => Ok(true),
        Err(error) if error.is("SaslAuthenticationFailed") => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn reason(kubectl: &Kubectl, name: &str, wanted: &str) {
    shell::wait_for(wanted, LONG, || {
        let found = kubectl.get("user", TENANT, name)?.unwrap_or_default()["status"]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok((found != wanted).then_some(found))
    })
    .unwrap();
}

/// `freehold uninstall` stops the operator and releases every object while Kafka keeps running;
/// another installation takes over everything.
fn uninstalled(kubectl: &Kubectl, mut operator: Operator, watched: &str, image: &str) -> Operator {
    let pod = || {
        let pod = asked("the node's pod", || {
            let pod = kubectl.get("pod", HOME, "own-all-zone-a-0")?;
            pod.context("it is not there")
        });
        pod["metadata"]["uid"].clone()
    };
    let finalizers = || -> anyhow::Result<Vec<serde_json::Value>> {
        let of = |kind: &str, namespace: &str, name: &str| -> anyhow::Result<_> {
            Ok(
                kubectl.get(kind, namespace, name)?.unwrap_or_default()["metadata"]["finalizers"]
                    .clone(),
            )
        };
        Ok(vec![
            of("topic", TENANT, "tenants")?,
            of("kafkacluster", HOME, "own")?,
        ])
    };
    let held = asked("the finalizers", finalizers);
    assert!(held.iter().all(|all| !all.is_null()));
    let before = pod();
    let binary = std::env::var("FREEHOLD_BINARY").expect("cargo xtask test sets it");
    shell::output(&mut shell::command(
        &binary,
        [
            "uninstall",
            "--watch-namespaces",
            watched,
            "--namespace",
            HOME,
        ],
    ))
    .unwrap();
    assert!(
        !operator.0.wait().unwrap().success(),
        "the operator that led has ended"
    );
    let held = asked("the finalizers", finalizers);
    assert!(
        held.iter().all(serde_json::Value::is_null),
        "nothing holds an object back"
    );
    assert_eq!(pod(), before);
    // Nobody leads for two minutes. Only a soak waits so long: `leader` covers that an expired
    // lease is taken.
    let lease = kubectl
        .get("lease", HOME, "freehold")
        .unwrap()
        .unwrap_or_default()["spec"]
        .clone();
    assert_eq!(
        (&lease["holderIdentity"], &lease["leaseDurationSeconds"]),
        (&json!("uninstall"), &json!(120))
    );
    if !load::soaks() {
        kubectl.delete("lease", HOME, "freehold", LONG).unwrap();
    }
    let next = Operator::start(watched, "tenancy-again", image, &[]);
    shell::wait_for("the next installation to take all of it up", LONG, || {
        let now = finalizers()?;
        Ok(now
            .iter()
            .any(serde_json::Value::is_null)
            .then(|| format!("{now:?}")))
    })
    .unwrap();
    kubectl
        .wait_ready("kafkacluster", HOME, "own", LONG)
        .unwrap();
    kubectl
        .wait_ready("topic", TENANT, "tenants", LONG)
        .unwrap();
    assert_eq!(pod(), before, "nothing was restarted");
    next
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_namespace_that_is_no_longer_allowed_has_no_credential_and_gets_it_back() {
    let kubectl = kubectl();
    let image = kafka_image(&kubectl);
    let _home = namespace(&kubectl, HOME);
    let _tenant = namespace(&kubectl, TENANT);
    kubectl
        .apply(&small_cluster(
            "own",
            HOME,
            "4.3.1",
            "  deletionPolicy: Delete\n",
        ))
        .unwrap();
    let watched = format!("{HOME},{TENANT}");
    let operator = Operator::start(&watched, "tenancy", &image, &[]);
    kubectl
        .wait_ready("kafkacluster", HOME, "own", LONG)
        .unwrap();
    let rights = "authentication: {type: ScramSha512}, grants: [{produce: {topics: [tenants]}}]";
    kubectl
        .apply(&object("Topic", "tenants", "partitions: 1"))
        .unwrap();
    kubectl.apply(&object("User", "stays", rights)).unwrap();
    kubectl.apply(&object("User", "goes", rights)).unwrap();
    for (kind, name) in [("topic", "tenants"), ("user", "stays"), ("user", "goes")] {
        kubectl.wait_ready(kind, TENANT, name, LONG).unwrap();
    }
    opens("the password to open a connection", &kubectl, "stays");

    let allow = |from: &str| {
        kubectl
            .merge(
                "kafkacluster",
                HOME,
                "own",
                &json!({"spec": {"access": {"namespaces": {"from": from}}}}),
            )
            .unwrap()
    };
    allow("Same");
    opens_nothing("the password to open nothing", &kubectl, "stays");
    opens_nothing("the other password to open nothing", &kubectl, "goes");
    reason(&kubectl, "stays", "NamespaceNotAllowed");
    kubectl.delete("user", TENANT, "goes", LONG).unwrap();
    allow("All");
    kubectl.wait_ready("user", TENANT, "stays", LONG).unwrap();
    opens("the same password to open a connection", &kubectl, "stays");
    kubectl
        .wait_ready("topic", TENANT, "tenants", LONG)
        .unwrap();

    // Paused stops changes, but not the removal of access.
    let state = |state: &str| {
        kubectl
            .merge(
                "kafkacluster",
                HOME,
                "own",
                &json!({"spec": {"state": state}}),
            )
            .unwrap()
    };
    state("Paused");
    allow("Same");
    opens_nothing(
        "the password to open nothing in a Paused cluster",
        &kubectl,
        "stays",
    );
    allow("All");
    state("Running");
    opens(
        "the same password to open a connection again",
        &kubectl,
        "stays",
    );

    // Objects that are deleted while the cluster is away have no access when the cluster is back.
    kubectl
        .merge(
            "kafkacluster",
            HOME,
            "own",
            &json!({"spec": {"deletionPolicy": "Retain"}}),
        )
        .unwrap();
    kubectl.delete("kafkacluster", HOME, "own", LONG).unwrap();
    let known = secret(&kubectl, TENANT, "stays-kafka").unwrap();
    kubectl.delete("user", TENANT, "stays", LONG).unwrap();
    kubectl
        .apply(&small_cluster(
            "own",
            HOME,
            "4.3.1",
            "  deletionPolicy: Delete\n",
        ))
        .unwrap();
    kubectl
        .wait_ready("kafkacluster", HOME, "own", LONG)
        .unwrap();
    access_ends(
        "the password of a User that is gone to open nothing",
        || is_let_in(login(&kubectl, "stays", &known)),
    );
    let _operator = uninstalled(&kubectl, operator, &watched, &image);
    kubectl.delete("topic", TENANT, "tenants", LONG).unwrap();
    kubectl.delete("kafkacluster", HOME, "own", LONG).unwrap();
    crate::world::leave(&kubectl, "namespace", "", TENANT);
    crate::world::leave(&kubectl, "namespace", "", HOME);
}

/// The grant changes from a literal name to other forms and back: the producer is not disturbed.
#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_producer_goes_on_while_its_grant_is_written_otherwise() {
    let kubectl = kubectl();
    kubectl
        .apply(&topic("granted", "demo", "  partitions: 3\n"))
        .unwrap();
    let by_grant =
        "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [granted]}}\n";
    // Other ACLs for the same right: none of the old ones is left.
    let by_acl = "  authentication: {type: ScramSha512}\n  grants: []\n  acls:\n  - {resource: {type: Topic, name: granted}, operations: [All]}\n";
    kubectl.apply(&user("granted", "demo", by_grant)).unwrap();
    for kind in ["topic", "user"] {
        kubectl.wait_ready(kind, "shop", "granted", LONG).unwrap();
    }
    let client = client(&kubectl, "granted", "granted");
    let _producer = Restore::delete(&kubectl, "job", "shop", "granted-produce");
    load::start_producer(&kubectl, &client, "granted-produce", 1_000_000, 500);
    for (rights, count) in [(by_acl, 1), (by_grant, 2), (by_acl, 1), (by_grant, 2)] {
        kubectl.apply(&user("granted", "demo", rights)).unwrap();
        shell::wait_for("the rules to be in force", LONG, || {
            let found =
                kubectl.get("user", "shop", "granted")?.unwrap_or_default()["status"]["acls"]
                    .clone();
            Ok((found != count).then(|| found.to_string()))
        })
        .unwrap();
    }
    let events = asked("the producer's log", || {
        flow::events(&kubectl, &client, "granted-produce")
    });
    flow::ensure_no_error(&events).unwrap();
    kubectl
        .delete("job", "shop", "granted-produce", LONG)
        .unwrap();
    kubectl.delete("user", "shop", "granted", LONG).unwrap();
    delete_topic(&kubectl, "shop", "granted");
}
