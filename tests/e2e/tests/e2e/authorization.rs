//! Shadow mode, CAs that a user manages, and certificates that Freehold issues, on a cluster of its
//! own.

use crate::kafka;
use crate::load;
use crate::world::{
    LONG, Operator, access_ends, asked, block_on, endpoints, kafka_image, kubectl, namespace,
    secret, small_cluster,
};
use freehold::certificates::{KeyedCertificate, new_authority};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::{promise, shell};
use freehold_kafka_client::client::Client as Bare;
use freehold_kafka_client::sasl::ScramLogin;
use freehold_kafka_client::tls::TlsSettings;
use freehold_kafka_client::{Admin, NewTopic};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "authorization";

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn shadow_mode_reports_and_a_further_ca_is_trusted_without_a_restart() {
    let kubectl = kubectl();
    let image = kafka_image(&kubectl);
    let _pods = namespace(&kubectl, NAMESPACE);
    kubectl
        .apply(&small_cluster(
            "own",
            NAMESPACE,
            "4.3.1",
            "  deletionPolicy: Delete\n",
        ))
        .unwrap();
    let operator = Operator::start(NAMESPACE, "authorization", &image, &[]);
    kubectl
        .wait_ready("kafkacluster", NAMESPACE, "own", LONG)
        .unwrap();
    shadow(&kubectl);
    foreign_ca(&kubectl);
    stores(&kubectl);
    new_authorities(&kubectl);
    deleted_keys(&kubectl);
    drop(operator);
    let _operator = lost_key(&kubectl, &image);
    kubectl.delete("user", NAMESPACE, "--all", LONG).unwrap();
    kubectl
        .delete("kafkacluster", NAMESPACE, "own", LONG)
        .unwrap();
    crate::world::leave(&kubectl, "namespace", "", NAMESPACE);
}

fn user(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: freehold.dev/v1alpha1, kind: User, metadata: {{name: {name}, namespace: {NAMESPACE}}}, \
         spec: {{clusterRef: {{name: own}}, {spec}}}}}"
    )
}

fn patch(kubectl: &Kubectl, kind: &str, name: &str, spec: &serde_json::Value) {
    kubectl
        .merge(kind, NAMESPACE, name, &json!({"spec": spec}))
        .unwrap();
}

fn new_topic(name: &str) -> NewTopic {
    NewTopic {
        name: name.into(),
        partitions: 1,
        replicas: 1,
        config: BTreeMap::new(),
    }
}

/// Waits until the status of the User lists exactly the operations that would be denied.
fn reported(kubectl: &Kubectl, wanted: impl Fn(&str) -> bool) {
    shell::wait_for("the report of what would be refused", LONG, || {
        let refused = kubectl.get("user", NAMESPACE, "mover")?.unwrap_or_default()["status"]["wouldBeRefused"].to_string();
        Ok((!wanted(&refused)).then_some(refused))
    })
    .unwrap();
}

fn shadow(kubectl: &Kubectl) {
    kubectl
        .apply(&user(
            "mover",
            "authentication: {type: ScramSha512}, authorization: {mode: Shadow}",
        ))
        .unwrap();
    let (_, message) = kubectl
        .wait_condition("user", NAMESPACE, "mover", "Stalled", LONG)
        .unwrap();
    assert!(
        message.contains("spec.authorization.mode")
            && message.contains("spec.authorization.shadow"),
        "{message}"
    );
    patch(
        kubectl,
        "kafkacluster",
        "own",
        &json!({"authorization": {"shadow": "Allowed"}}),
    );
    kubectl
        .wait_ready("user", NAMESPACE, "mover", LONG)
        .unwrap();

    let secret = secret(kubectl, NAMESPACE, "mover-kafka").unwrap();
    let login = ScramLogin {
        user: "mover".into(),
        password: secret["password"].clone(),
    };
    let tls = TlsSettings::new(&secret["ca.crt"], None).unwrap();
    let client = Bare::new(
        endpoints(kubectl, NAMESPACE, "own", "broker", 9094),
        tls,
        Some(login),
    );
    // The broker knows of the credential and of the mode a little later than the operator.
    shell::wait_for("the topic to be made", LONG, || {
        block_on(client.create_topics(&[new_topic("moved")])).remove(0)?;
        Ok(None)
    })
    .unwrap();
    // A request for the topic by name is reported. A list of all topics is filtered, not denied, so
    // nothing is reported for it.
    asked("the topic", || {
        Ok(block_on(kafka::topic(&client, "moved"))?)
    });
    reported(kubectl, |refused| {
        refused.contains("Create, Describe on Topic moved")
    });
    shell::wait_for("an event that tells of what is new", LONG, || {
        let words = ["get", "events", "--namespace", NAMESPACE];
        let refused = ["--field-selector", "reason=WouldBeRefused", "-o", "name"];
        let events = kubectl.run(&[words, refused].concat())?;
        Ok(events.is_empty().then(|| "no event".into()))
    })
    .unwrap();
    // A right that is granted is no longer listed.
    patch(
        kubectl,
        "user",
        "mover",
        &json!({"grants": [{"consume": {"topics": ["moved"]}}]}),
    );
    reported(kubectl, |refused| {
        refused.contains("\"Create on Topic moved")
    });
    patch(
        kubectl,
        "user",
        "mover",
        &json!({"authorization": {"mode": "Enforce"}}),
    );
    reported(kubectl, |refused| refused == "null");
    access_ends("what is not granted to be refused", || {
        match block_on(client.create_topics(&[new_topic("another")])).remove(0) {
            Ok(_) => Ok(true),
            Err(error) if error.is("TopicAuthorizationFailed") => Ok(false),
            // It was let in before.
            Err(error) if error.is("TopicAlreadyExists") => Ok(true),
            Err(error) => Err(error.into()),
        }
    });
    shell::wait_for("what is granted to be allowed", LONG, || {
        let found = block_on(kafka::topic(&client, "moved"))?;
        Ok(found.is_none().then(|| "it is not there".into()))
    })
    .unwrap();
}

/// A certificate as openssl makes it: its common name is the first attribute, so in the text form
/// it is the last one, `O=house,CN=partner`.
fn partner(authority: &KeyedCertificate) -> KeyedCertificate {
    let folder = std::env::temp_dir().join(format!("freehold-partner-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let openssl = |words: &str| {
        shell::run(shell::command("openssl", words.split_whitespace()).current_dir(&folder))
            .unwrap()
    };
    std::fs::write(folder.join("ca.crt"), &authority.certificate).unwrap();
    std::fs::write(folder.join("ca.key"), &authority.key).unwrap();
    // Without an extension openssl 3.0 creates a certificate of version 1, which TLS libraries
    // reject.
    std::fs::write(folder.join("own.ext"), "extendedKeyUsage=clientAuth\n").unwrap();
    openssl(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout own.key -out own.csr -subj /CN=partner/O=house",
    );
    openssl(
        "x509 -req -in own.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile own.ext -out own.crt",
    );
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let issued = KeyedCertificate {
        certificate: read("own.crt"),
        key: read("own.key"),
    };
    std::fs::remove_dir_all(&folder).unwrap();
    issued
}

/// A CA is added to those that the listeners trust: the broker loads it without a restart.
fn foreign_ca(kubectl: &Kubectl) {
    let authority = new_authority("of another house", Timestamp::now()).unwrap();
    let issued = partner(&authority);
    let spec = "authentication: {type: ExternalTls, subject: partner}, grants: [{consume: {topics: [moved]}}]";
    kubectl.apply(&user("outsider", spec)).unwrap();
    kubectl
        .wait_ready("user", NAMESPACE, "outsider", LONG)
        .unwrap();
    let trust = secret(kubectl, NAMESPACE, "outsider-kafka").unwrap()["ca.crt"].clone();
    let tls = TlsSettings::new(&trust, Some((&issued.certificate, &issued.key))).unwrap();
    let client = || {
        Bare::new(
            endpoints(kubectl, NAMESPACE, "own", "broker", 9093),
            tls.clone(),
            None,
        )
    };
    promise!(
        block_on(kafka::topic(&client(), "moved")).is_err(),
        "a CA that nobody named is trusted"
    );

    let restarts = || {
        let words = [
            "get",
            "pods",
            "--namespace",
            NAMESPACE,
            "--selector",
            "freehold.dev/cluster=own",
        ];
        let pods = asked("the pods", || kubectl.json(&words));
        let pods = pods["items"].as_array().unwrap().iter();
        pods.map(|pod| {
            (
                pod["metadata"]["uid"].to_string(),
                pod["status"]["containerStatuses"][0]["restartCount"].to_string(),
            )
        })
        .collect::<Vec<_>>()
    };
    let before = restarts();
    patch(
        kubectl,
        "kafkacluster",
        "own",
        &json!({"certificates": {"clientAuthorities": [{"name": "partner-ca"}]}}),
    );
    let (_, message) = kubectl
        .wait_condition("kafkacluster", NAMESPACE, "own", "Stalled", LONG)
        .unwrap();
    assert!(
        message.contains("spec.certificates.clientAuthorities[partner-ca]"),
        "{message}"
    );
    let given = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "partner-ca", "namespace": NAMESPACE,
        "labels": {"freehold.dev/cluster": "own"}}, "stringData": {"ca.crt": authority.certificate}});
    kubectl.apply(&given.to_string()).unwrap();
    kubectl
        .wait_ready("kafkacluster", NAMESPACE, "own", LONG)
        .unwrap();
    shell::wait_for("the broker to trust the other CA", LONG, || {
        Ok(block_on(kafka::topic(&client(), "moved")).map_or_else(
            |error| Some(error.to_string()),
            |found| found.is_none().then(String::new),
        ))
    })
    .unwrap();
    assert_eq!(restarts(), before, "nothing was restarted for it");
}

/// The JVM's keytool can open the key store and the trust store of a User with a certificate.
fn stores(kubectl: &Kubectl) {
    kubectl
        .apply(&user(
            "keyed",
            "authentication: {type: MutualTls}, secret: {pkcs12: true}",
        ))
        .unwrap();
    kubectl
        .wait_ready("user", NAMESPACE, "keyed", LONG)
        .unwrap();
    use base64::prelude::{BASE64_STANDARD, Engine};
    let found = kubectl
        .get("secret", NAMESPACE, "keyed-kafka")
        .unwrap()
        .unwrap();
    let bytes = |key: &str| {
        BASE64_STANDARD
            .decode(found["data"][key].as_str().unwrap())
            .unwrap()
    };
    let password = String::from_utf8(bytes("pkcs12.password")).unwrap();
    for (store, entry) in [
        ("truststore.p12", "trustedCertEntry"),
        ("keystore.p12", "PrivateKeyEntry"),
    ] {
        let file = std::env::temp_dir().join(format!("freehold-{}-{store}", std::process::id()));
        std::fs::write(&file, bytes(store)).unwrap();
        let listed = shell::output(
            shell::command(
                "keytool",
                [
                    "-list",
                    "-storetype",
                    "PKCS12",
                    "-keystore",
                    &file.to_string_lossy(),
                ],
            )
            .args(["-storepass:env", "STORE_PASSWORD"])
            .env("STORE_PASSWORD", &password),
        );
        std::fs::remove_file(&file).unwrap();
        assert!(listed.unwrap().contains(entry), "{store} has no {entry}");
    }
}

/// Both CAs are replaced while clients connect all the time with what is in their Secrets: none is
/// refused, no node restarts, and a password stays the same.
fn new_authorities(kubectl: &Kubectl) {
    let ca = |which: &str| {
        let name = format!("own-{which}-ca");
        asked(&name, || secret(kubectl, NAMESPACE, &name))
    };
    let before = (
        ca("cluster"),
        ca("clients"),
        secret(kubectl, NAMESPACE, "mover-kafka").unwrap()["password"].clone(),
    );
    let words = [
        "get",
        "pods",
        "--namespace",
        NAMESPACE,
        "-o",
        "jsonpath={.items[*].metadata.uid}",
    ];
    let uids = || asked("the pods", || kubectl.run(&words));
    let pods = uids();
    kubectl
        .apply(&user("certified", "authentication: {type: MutualTls}"))
        .unwrap();
    kubectl
        .wait_ready("user", NAMESPACE, "certified", LONG)
        .unwrap();
    // First only the nodes' own certificates are renewed: their CA stays.
    let nodes = || {
        asked("the nodes' certificates", || {
            secret(kubectl, NAMESPACE, "own-all-zone-a-tls")
        })
    };
    let served = nodes();
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "own",
            "--namespace",
            NAMESPACE,
            "freehold.dev/renew-certificates=1",
        ])
        .unwrap();
    shell::wait_for("new certificates of the nodes", LONG, || {
        Ok((nodes() == served).then(|| "they are the old ones".into()))
    })
    .unwrap();
    assert!(
        nodes()["cluster-ca.crt"] == served["cluster-ca.crt"],
        "the CA stays"
    );
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "own",
            "--namespace",
            NAMESPACE,
            "freehold.dev/rotate-ca=1",
        ])
        .unwrap();
    shell::wait_for("both CAs to be trusted for a week", LONG, || {
        let warnings = kubectl.get("kafkacluster", NAMESPACE, "own")?.unwrap_or_default()["status"]["warnings"].to_string();
        let told = |which: &str| {
            warnings.contains(&format!("the {which} CA is being replaced: the next one is trusted beside it; this lasts until 2"))
        };
        Ok((!told("cluster") || !told("clients")).then_some(warnings))
    })
    .unwrap();
    // These clients read their Secrets again for each connection, so a short overlap is enough.
    let overlap_minutes = u32::from(load::soaks());
    patch(
        kubectl,
        "kafkacluster",
        "own",
        &json!({"certificates": {"overlapMinutes": overlap_minutes}}),
    );
    let (mut connected, start) = (0, Instant::now());
    // Without a pause, so that no moment is missed in which a client would be refused.
    shell::wait_paced("both CAs to be replaced", 2 * LONG, Duration::ZERO, || {
        for (user, port) in [("mover", 9094), ("certified", 9093)] {
            connected += connect(kubectl, user, port, connected)?;
        }
        let (nodes, clients) = (ca("cluster"), ca("clients"));
        let done = |now: &BTreeMap<String, String>, before: &BTreeMap<String, String>| {
            now["tls.crt"] != before["tls.crt"]
                && !now.contains_key("previous.crt")
                && !now.contains_key("next.crt")
        };
        let both = done(&nodes, &before.0) && done(&clients, &before.1);
        Ok((!both).then(|| format!("{:?} {:?}", nodes.keys(), clients.keys())))
    })
    .unwrap();
    let took = start.elapsed().as_secs_f64();
    kubectl
        .wait_ready("kafkacluster", NAMESPACE, "own", LONG)
        .unwrap();
    assert_eq!(uids(), pods, "nothing was restarted for it");
    let mut now = BTreeMap::new();
    shell::wait_for("the new CA to stand alone", LONG, || {
        now = secret(kubectl, NAMESPACE, "mover-kafka")?;
        let trusted = now["ca.crt"].trim();
        Ok((trusted != ca("cluster")["tls.crt"].trim()).then(|| trusted.to_owned()))
    })
    .unwrap();
    assert_eq!(now["password"], before.2, "the password outlives the CA");
    println!(
        "authorities: both CAs replaced in {took:.0} s, {connected} connections meanwhile, none refused, nothing restarted"
    );
}

/// Connects with what is in the User's Secret at the moment; returns the number of connections.
fn connect(kubectl: &Kubectl, user: &str, port: u16, before: u32) -> anyhow::Result<u32> {
    let found = secret(kubectl, NAMESPACE, &format!("{user}-kafka"))?;
    let login = found.get("password").map(|password| ScramLogin {
        user: user.into(),
        password: password.clone(),
    });
    let own = found.get("user.crt").zip(found.get("user.key"));
    let tls = TlsSettings::new(
        &found["ca.crt"],
        own.map(|(certificate, key)| (certificate.as_str(), key.as_str())),
    )?;
    let brokers = endpoints(kubectl, NAMESPACE, "own", "broker", port);
    let Err(error) = block_on(Bare::new(brokers, tls, login).describe_cluster()) else {
        return Ok(1);
    };
    // Read before a change, and used after the next one.
    let now = asked("the Secret as it is now", || {
        secret(kubectl, NAMESPACE, &format!("{user}-kafka"))
    });
    assert!(now != found, "{user} after {before} connections: {error}");
    Ok(0)
}

const KEYS: [&str; 3] = ["own-cluster-ca", "own-clients-ca", "own-passwords"];

/// A user deletes the Secrets with keys: the operator restores them unchanged. Then it replaces the
/// key of the passwords.
fn deleted_keys(kubectl: &Kubectl) {
    let keys = || KEYS.map(|name| secret(kubectl, NAMESPACE, name).ok());
    let password = || {
        let found = asked("the User's Secret", || {
            secret(kubectl, NAMESPACE, "mover-kafka")
        });
        found["password"].clone()
    };
    let (before, old) = (keys(), password());
    assert!(before.iter().all(Option::is_some));
    KEYS.iter()
        .for_each(|name| kubectl.delete("secret", NAMESPACE, name, LONG).unwrap());
    shell::wait_for("the keys that were deleted", LONG, || {
        Ok((keys() != before).then(|| "not all are back as they were".into()))
    })
    .unwrap();
    kubectl
        .wait_ready("kafkacluster", NAMESPACE, "own", LONG)
        .unwrap();
    assert!(password() == old, "the same key, the same password");
    shell::wait_for("an event that tells of it", LONG, || {
        let events = kubectl.run(&[
            "get",
            "events",
            "--namespace",
            NAMESPACE,
            "-o",
            "jsonpath={.items[*].message}",
        ])?;
        Ok((!KEYS
            .iter()
            .any(|name| events.contains(&format!("Secret {name} was deleted or overwritten"))))
        .then_some(events))
    })
    .unwrap();
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "own",
            "--namespace",
            NAMESPACE,
            "freehold.dev/rotate-passwords=1",
        ])
        .unwrap();
    shell::wait_for("another password", LONG, || {
        Ok((password() == old).then(|| "it is the old one".into()))
    })
    .unwrap();
    let trust = secret(kubectl, NAMESPACE, "mover-kafka").unwrap()["ca.crt"].clone();
    let connects = |password: String| {
        let (tls, login) = (
            TlsSettings::new(&trust, None).unwrap(),
            ScramLogin {
                user: "mover".into(),
                password,
            },
        );
        block_on(
            Bare::new(
                endpoints(kubectl, NAMESPACE, "own", "broker", 9094),
                tls,
                Some(login),
            )
            .describe_cluster(),
        )
    };
    shell::wait_for("the new password to be in force", LONG, || {
        connects(password())?;
        Ok(None)
    })
    .unwrap();
    access_ends("the old password to be refused", || {
        match connects(old.clone()) {
            Ok(_) => Ok(true),
            Err(error) if error.is("SaslAuthenticationFailed") => Ok(false),
            Err(error) => Err(error.into()),
        }
    });
}

/// An operator that has never read such a Secret creates no new key: it reports the loss, and
/// continues once the Secret is back.
fn lost_key(kubectl: &Kubectl, image: &str) -> Operator {
    let before = secret(kubectl, NAMESPACE, "own-clients-ca").unwrap();
    let mut backup = kubectl
        .get("secret", NAMESPACE, "own-clients-ca")
        .unwrap()
        .unwrap();
    let metadata = json!({"name": "own-clients-ca", "namespace": NAMESPACE, "labels": backup["metadata"]["labels"],
        "annotations": backup["metadata"]["annotations"]});
    backup["metadata"] = metadata;
    kubectl
        .delete("secret", NAMESPACE, "own-clients-ca", LONG)
        .unwrap();
    let operator = Operator::start(NAMESPACE, "authorization-again", image, &[]);
    let (reason, message) = kubectl
        .wait_condition("kafkacluster", NAMESPACE, "own", "Stalled", LONG)
        .unwrap();
    assert!(
        reason == "SecretLost"
            && message.contains("Secret own-clients-ca")
            && message.contains("freehold.dev/replace-lost="),
        "{message}"
    );
    kubectl
        .feed(&["create", "-f", "-"], &backup.to_string())
        .unwrap();
    kubectl
        .wait_ready("kafkacluster", NAMESPACE, "own", LONG)
        .unwrap();
    assert!(
        secret(kubectl, NAMESPACE, "own-clients-ca").unwrap() == before,
        "nobody made another"
    );
    operator
}
