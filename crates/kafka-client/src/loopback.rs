//! A broker on the loopback address, for tests. It speaks TLS, and answers two kinds of request or
//! stops answering.

use super::connection::{Endpoint, read_frame};
use super::tls::TlsSettings;
use bytes::{Buf, BufMut, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const HOST: &str = "broker.test";
const API_VERSIONS: i16 = 18;
const DESCRIBE_CLUSTER: i16 = 60;

/// The CA of a test's brokers.
pub struct Loopback(CertifiedIssuer<'static, KeyPair>);

/// A broker that a test observes and controls.
pub struct Broker {
    pub endpoint: Endpoint,
    /// When true, the broker reads requests but answers none, like a machine that died without
    /// closing its connections.
    pub silent: Arc<AtomicBool>,
    pub connections: Arc<AtomicU32>,
    /// Holds the address of a broker that does not serve any connection.
    _listener: Option<TcpListener>,
}

impl Loopback {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// TLS settings that trust the CA.
    pub fn tls(&self) -> TlsSettings {
        TlsSettings::new(&self.0.pem(), None).unwrap()
    }

    /// A broker that accepts TCP connections and never sends anything.
    pub async fn mute(&self, node_id: i32) -> Broker {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Broker {
            _listener: Some(listener),
            ..broker(node_id, "127.0.0.1:1".parse().unwrap())
        }
        .at_its_listener()
    }

    /// A broker that answers ApiVersions and DescribeCluster.
    pub async fn broker(&self, node_id: i32) -> Broker {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([HOST.to_owned()])
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        let config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![certificate.der().clone()],
                    PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
                )
                .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let broker = broker(node_id, listener.local_addr().unwrap());
        let (silent, connections) = (Arc::clone(&broker.silent), Arc::clone(&broker.connections));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(acceptor.clone(), stream, Arc::clone(&silent)));
            }
        });
        broker
    }
}

impl Broker {
    fn at_its_listener(mut self) -> Self {
        self.endpoint.address = self._listener.as_ref().unwrap().local_addr().unwrap();
        self
    }

    /// From now on the broker answers no request.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}

fn broker(node_id: i32, address: std::net::SocketAddr) -> Broker {
    let endpoint = Endpoint {
        node_id,
        address,
        server_name: HOST.into(),
    };
    Broker {
        endpoint,
        silent: Arc::default(),
        connections: Arc::default(),
        _listener: None,
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, silent: Arc<AtomicBool>) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    loop {
        if silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let Ok(mut request) = read_frame(&mut stream).await else {
            return;
        };
        if silent.load(Ordering::Relaxed) {
            continue;
        }
        let (api, version, correlation) = (request.get_i16(), request.get_i16(), request.get_i32());
        let mut body = BytesMut::new();
        body.put_i32(0);
        let header = m::ResponseHeader::default().with_correlation_id(correlation);
        match api {
            API_VERSIONS => {
                let known = |key| {
                    ApiVersion::default()
                        .with_api_key(key)
                        .with_min_version(0)
                        .with_max_version(2)
                };
                let answer =
                    m::ApiVersionsResponse::default().with_api_keys(vec![known(DESCRIBE_CLUSTER)]);
                header
                    .encode(&mut body, m::ApiVersionsResponse::header_version(version))
                    .unwrap();
                answer.encode(&mut body, version).unwrap();
            }
            DESCRIBE_CLUSTER => {
                let answer = m::DescribeClusterResponse::default()
                    .with_cluster_id(StrBytes::from_static_str("loopback"));
                header
                    .encode(
                        &mut body,
                        m::DescribeClusterResponse::header_version(version),
                    )
                    .unwrap();
                answer.encode(&mut body, version).unwrap();
            }
            other => panic!("API {other} is not answered here"),
        }
        let length = i32::try_from(body.len() - 4).unwrap();
        body[..4].copy_from_slice(&length.to_be_bytes());
        if stream.write_all(&body).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}
