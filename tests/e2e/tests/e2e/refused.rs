//! Proof 2: each kind of client that must be refused is refused.

use crate::kafka;
use crate::world::{block_on, endpoints, kubectl, scram_admin, secret};
use freehold::certificates::{Purpose, issue, new_authority};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::promise;
use freehold_kafka_client::client::Client;
use freehold_kafka_client::connection::Endpoint;
use freehold_kafka_client::sasl::ScramLogin;
use freehold_kafka_client::tls::TlsSettings;
use freehold_kafka_client::{Admin, AdminError};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

struct World {
    kubectl: Kubectl,
    ca: String,
    password: String,
}

fn world() -> World {
    let kubectl = kubectl();
    let secret = secret(&kubectl, "shop", "shop-app-kafka").unwrap();
    World {
        kubectl,
        ca: secret["ca.crt"].clone(),
        password: secret["password"].clone(),
    }
}

fn endpoint(world: &World, port: u16) -> Endpoint {
    endpoints(&world.kubectl, "kafka", "demo", "broker", port).remove(0)
}

fn login(world: &World) -> Option<ScramLogin> {
    Some(ScramLogin {
        user: "shop-app".into(),
        password: world.password.clone(),
    })
}

/// Asks for the brokers. `the_right_password_is_let_in` checks that this works with a valid login.
fn ask(
    endpoint: Endpoint,
    tls: TlsSettings,
    login: Option<ScramLogin>,
) -> Result<usize, AdminError> {
    block_on(async {
        Client::new(vec![endpoint], tls, login)
            .describe_cluster()
            .await
            .map(|cluster| cluster.brokers.len())
    })
}

/// The error of a request that must not be answered.
fn refused<T>(who: &str, asked: Result<T, AdminError>) -> AdminError {
    promise!(asked.is_err(), "{who} is let in");
    asked.err().unwrap()
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn the_right_password_is_let_in() {
    let world = world();
    let tls = TlsSettings::new(&world.ca, None).unwrap();
    assert_eq!(ask(endpoint(&world, 9094), tls, login(&world)).unwrap(), 3);
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn no_tls_is_refused_on_every_port() {
    let world = world();
    // ApiVersions v0, correlation id 1, no client id: the first request of any plaintext client.
    let request = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    for port in [9090, 9091, 9093, 9094] {
        let mut stream = TcpStream::connect(endpoint(&world, port).address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(&request).unwrap();
        let mut answer = Vec::new();
        // The stream ends or is reset; there is never an answer with this correlation id.
        let _ = stream.read_to_end(&mut answer);
        promise!(
            answer.get(4..8) != Some(&[0, 0, 0, 1]),
            "port {port} answered plaintext: {answer:?}"
        );
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_broker_of_another_ca_is_refused_by_the_client() {
    let world = world();
    let other = new_authority("other", "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
    let tls = TlsSettings::new(&other.certificate, None).unwrap();
    let asked = ask(endpoint(&world, 9094), tls, login(&world));
    let error = refused("a broker of another CA", asked);
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_broker_under_another_host_name_is_refused_by_the_client() {
    let world = world();
    let wrong = Endpoint {
        server_name: "another.kafka.svc".into(),
        ..endpoint(&world, 9094)
    };
    let tls = TlsSettings::new(&world.ca, None).unwrap();
    let asked = ask(wrong, tls, login(&world));
    let error = refused("a broker under another name", asked);
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_broker_is_trusted_under_every_form_of_the_bootstrap_name() {
    let world = world();
    for name in [
        "demo-bootstrap",
        "demo-bootstrap.kafka",
        "demo-bootstrap.kafka.svc",
        "demo-bootstrap.kafka.svc.cluster.local",
    ] {
        let named = Endpoint {
            server_name: name.into(),
            ..endpoint(&world, 9094)
        };
        assert_eq!(
            ask(
                named,
                TlsSettings::new(&world.ca, None).unwrap(),
                login(&world)
            )
            .unwrap(),
            3,
            "{name}"
        );
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_wrong_password_is_refused() {
    let world = world();
    let wrong = ScramLogin {
        user: "shop-app".into(),
        password: "wrong".into(),
    };
    let tls = TlsSettings::new(&world.ca, None).unwrap();
    let asked = ask(endpoint(&world, 9094), tls, Some(wrong));
    let error = refused("a wrong password", asked);
    assert!(error.is("SaslAuthenticationFailed"), "{error}");
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn the_right_user_is_refused_a_topic_without_acl() {
    let world = world();
    let admin = scram_admin(&world.kubectl, "shop-app", &world.password);
    assert!(
        block_on(kafka::topic(&admin, "orders")).unwrap().is_some(),
        "its own topic is shown"
    );
    let admin = scram_admin(&world.kubectl, "shop-app", &world.password);
    let asked = block_on(kafka::topic(&admin, "__consumer_offsets"));
    let error = refused("a User without ACL", asked);
    assert!(error.is("TopicAuthorizationFailed"), "{error}");
    let admin = scram_admin(&world.kubectl, "shop-app", &world.password);
    let error = refused(
        "a User without rights on the cluster",
        block_on(admin.describe_quorum()),
    );
    assert!(error.is("ClusterAuthorizationFailed"), "{error}");
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn the_anonymous_and_other_cas_are_refused_on_the_controller_and_internal_ports() {
    let world = world();
    let clients = new_authority(
        "not the clients' CA",
        "2026-01-01T00:00:00Z".parse().unwrap(),
    )
    .unwrap();
    let now = k8s_openapi::jiff::Timestamp::now();
    let forged = issue(
        &clients,
        Some("freehold.dev"),
        "freehold-operator",
        &Purpose::Client,
        now,
        30,
    )
    .unwrap();
    for port in [9090, 9091] {
        let anonymous = TlsSettings::new(&world.ca, None).unwrap();
        let asked = ask(endpoint(&world, port), anonymous, None);
        let error = refused("a client without a certificate", asked);
        assert!(
            matches!(error, AdminError::Unavailable(_)),
            "port {port}: {error}"
        );
        let forged = TlsSettings::new(&world.ca, Some((&forged.certificate, &forged.key))).unwrap();
        let asked = ask(endpoint(&world, port), forged, None);
        let error = refused("a certificate of another CA", asked);
        assert!(
            matches!(error, AdminError::Unavailable(_)),
            "port {port}: {error}"
        );
    }
}
