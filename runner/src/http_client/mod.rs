//! The HTTP client of sinks and sources: keeps connections, follows no redirects, and trusts the
//! authorities of a Secret or those that browsers trust.
//!
//! [`secrets`] reads files of Secrets, [`authorization`] makes a header of them.

pub mod authorization;
#[cfg(test)]
pub mod loopback;
pub mod secrets;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use freehold_pipeline::endpoint::SecretKey;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Request, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::causes::chain;
use secrets::{Kept, Secrets};

/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// A connection without requests is closed after this time: many servers close it after 60 s.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long the body of an answer may take.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// An endpoint cannot ask for a longer wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// More of an answer is not read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

type Https = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;
/// A client, and the certificates that it was made with.
type Made = (Https, Option<Arc<Vec<u8>>>);

/// What an endpoint answered.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body, as far as it was read.
    pub body: Vec<u8>,
    /// Why the body is not whole.
    pub cut: Option<String>,
}

/// Sends requests to one endpoint.
pub struct HttpClient {
    secrets: Secrets,
    ca: Option<SecretKey>,
    /// More of an answer is not read, in bytes.
    body_bytes_max: usize,
    body_patience: Duration,
    client: Mutex<Kept<Made>>,
}

impl HttpClient {
    /// A client that trusts the authorities of `ca`.
    pub fn new(secrets: &Secrets, ca: Option<&SecretKey>) -> Self {
        Self {
            secrets: secrets.clone(),
            ca: ca.cloned(),
            body_bytes_max: ANSWER_BYTES_MAX,
            body_patience: BODY_PATIENCE,
            client: Mutex::default(),
        }
    }

    /// Reads larger bodies, for a longer time.
    #[must_use]
    pub fn reading(self, body_bytes_max: usize, body_patience: Duration) -> Self {
        Self {
            body_bytes_max,
            body_patience,
            ..self
        }
    }

    /// Sends a request, and reads the answer: its status within `patience`.
    ///
    /// # Errors
    /// What does not work, without parts of the request.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<Answer, String> {
        let client = self.client()?;
        let sent = tokio::time::timeout(patience, client.request(request)).await;
        let sent = sent.map_err(|_| format!("no answer within {patience:?}"))?;
        let (head, mut body) = sent.map_err(|error| chain(&error))?.into_parts();
        let mut read = Vec::new();
        // The connection of a body that does not end is closed with the rest in it.
        let rest = async {
            while let Some(frame) = body.frame().await {
                let data = frame.map_err(|error| chain(&error))?.into_data();
                let data = data.unwrap_or_default();
                if read.len() + data.len() > self.body_bytes_max {
                    let max = self.body_bytes_max;
                    return Err(format!("the answer is larger than {max} bytes"));
                }
                read.extend_from_slice(&data);
            }
            Ok(())
        };
        let cut = match tokio::time::timeout(self.body_patience, rest).await {
            Ok(whole) => whole.err(),
            Err(_) => Some(format!(
                "the answer does not end within {:?}",
                self.body_patience
            )),
        };
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: read,
            cut,
        })
    }

    fn client(&self) -> Result<Https, String> {
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        let made = kept.get(|before| {
            let read = |ca: &SecretKey| self.secrets.bytes(&ca.name, &ca.key).map(Arc::new);
            let ca = self.ca.as_ref().map(read).transpose()?;
            match before {
                // Its connections stay.
                Some((client, known)) if known == ca => Ok((client, ca)),
                _ => Ok((https(ca.as_deref().map(Vec::as_slice))?, ca)),
            }
        })?;
        Ok(made.0)
    }
}

/// How long an endpoint asks to wait: seconds, or a date (RFC 9110, 10.2.3).
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?;
            until.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

fn https(ca: Option<&[u8]>) -> Result<Https, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|_| "the ca is not PEM certificates")?;
                let added = roots.add(certificate);
                added.map_err(|error| format!("a certificate of the ca: {error}"))?;
            }
            if roots.is_empty() {
                return Err("the ca has no PEM certificate".to_owned());
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_PATIENCE));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_MAX)
        .build(connector))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Serves TLS with a certificate of its own until the runtime ends; returns the URL and the
    /// certificate.
    async fn serve() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A client that does not trust it closes the connection.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let _ = stream.read(&mut [0; 1_000]).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            }
        });
        (url, made.cert.pem())
    }

    #[test]
    fn a_wait_is_seconds_or_a_date_and_has_a_limit() {
        let of = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("86400"), Some(RETRY_AFTER_MAX));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = SystemTime::now() + Duration::from_secs(200);
        let wait = of(&httpdate::fmt_http_date(soon)).unwrap();
        assert!(wait > Duration::from_secs(100) && wait <= Duration::from_secs(200));
        assert_eq!(of("soon"), None);
    }

    #[tokio::test]
    async fn only_the_authorities_of_the_secret_are_trusted() {
        let (url, certificate) = serve().await;
        let folder = std::env::temp_dir().join(format!("runner-ca-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("ca")).unwrap();
        let ca = SecretKey {
            name: "ca".to_owned(),
            key: "ca.crt".to_owned(),
        };
        let secrets = Secrets::of(&folder);
        let send = async |client: &HttpClient| {
            let request = Request::post(&url).body(Full::default()).unwrap();
            let answer = client.send(request, Duration::from_secs(60)).await;
            answer.map(|answer| answer.status)
        };
        let client = HttpClient::new(&secrets, Some(&ca));
        let missing = send(&client).await.unwrap_err();
        assert!(missing.contains("Secret ca, key ca.crt"), "{missing}");
        std::fs::write(folder.join("ca/ca.crt"), "no PEM").unwrap();
        assert_eq!(
            send(&client).await.unwrap_err(),
            "the ca has no PEM certificate"
        );
        std::fs::write(folder.join("ca/ca.crt"), certificate).unwrap();
        assert_eq!(send(&client).await, Ok(StatusCode::OK));
        let unknown = send(&HttpClient::new(&secrets, None)).await.unwrap_err();
        assert!(unknown.contains("UnknownIssuer"), "{unknown}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
