//! Answers one request: its records are in Kafka, or why they are not.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use freehold_pipeline::source::HttpSource;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};

use super::super::Shared;
use super::super::body::{Kind, RECORDS_MAX, Refused, records};
use super::super::room::Held;
use super::super::writer::{NewRecord, WriteError};
use super::auth::{Authenticator, Denied};

/// How long a client may take to send a body.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// Of a refused body not more than this is read, …
const REST_BYTES_MAX: usize = 16 << 20;
/// … nor for longer.
const REST_PATIENCE: Duration = Duration::from_secs(5);

/// When to come again while Kafka does not answer, in seconds.
const RETRY_SECS: u32 = 5;

/// A source by HTTPS.
pub struct Source {
    pub settings: HttpSource,
    pub authenticator: Authenticator,
    pub stage: Shared,
}

/// An answer that is not 200.
struct Refusal {
    status: StatusCode,
    why: String,
    header: Option<(HeaderName, HeaderValue)>,
}

fn refusal(status: StatusCode, why: impl Into<String>) -> Refusal {
    Refusal {
        status,
        why: why.into(),
        header: None,
    }
}

fn later(status: StatusCode, secs: u32, why: impl Into<String>) -> Refusal {
    Refusal {
        header: Some((header::RETRY_AFTER, HeaderValue::from(secs))),
        ..refusal(status, why)
    }
}

impl Source {
    /// Answers a request.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, mut body) = request.into_parts();
        let answer = match self.take(&head, &mut body).await {
            Ok(records) => respond(StatusCode::OK, &serde_json::json!({ "records": records })),
            Err(refusal) => {
                read_rest(body).await;
                let body = serde_json::json!({ "error": refusal.why });
                let mut answer = respond(refusal.status, &body);
                if let Some((name, value)) = refusal.header {
                    answer.headers_mut().insert(name, value);
                }
                answer
            }
        };
        Ok(answer)
    }

    /// Takes the records of a request, and returns how many there were.
    async fn take(&self, head: &Parts, body: &mut Incoming) -> Result<usize, Refusal> {
        self.admit(head)?;
        let of = |name: HeaderName| head.headers.get(name);
        let kind = of(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = Kind::of(self.settings.format, kind);
        let is_encoded = of(header::CONTENT_ENCODING).is_some_and(|with| with != "identity");
        let Some(kind) = kind.filter(|_| !is_encoded) else {
            let why = "Content-Type must be application/json or application/x-ndjson, without \
                       Content-Encoding";
            return Err(self.wrong(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        };
        let key = head.headers.get("record-key");
        let mut held = self.stage.writer.hold();
        let body = tokio::time::timeout(BODY_PATIENCE, self.body(body, &mut held));
        let slow = |_| self.wrong(StatusCode::REQUEST_TIMEOUT, "the body took too long");
        let body = body.await.map_err(slow)??;
        let places = records(kind, &body).map_err(|refused| match refused {
            Refused::Invalid(why) => self.wrong(StatusCode::BAD_REQUEST, why),
            Refused::TooMany => {
                let why = format!("more than {RECORDS_MAX} records; send them in several requests");
                self.wrong(StatusCode::PAYLOAD_TOO_LARGE, why)
            }
        })?;
        let key = key.map(HeaderValue::as_bytes);
        let records: Vec<_> = places
            .into_iter()
            .map(|place| NewRecord {
                key,
                value: &body[place],
            })
            .collect();
        self.write(&records, held).await
    }

    /// Refuses a request before its body is read.
    fn admit(&self, head: &Parts) -> Result<(), Refusal> {
        if head.uri.path() != "/" {
            return Err(refusal(StatusCode::NOT_FOUND, "records are sent to /"));
        }
        if head.method != Method::POST {
            return Err(Refusal {
                header: Some((header::ALLOW, HeaderValue::from_static("POST"))),
                ..refusal(StatusCode::METHOD_NOT_ALLOWED, "records are sent by POST")
            });
        }
        if self.stage.process.is_stopping() {
            let why = "this replica ends";
            return Err(later(StatusCode::SERVICE_UNAVAILABLE, 1, why));
        }
        let given = head.headers.get(header::AUTHORIZATION);
        match self.authenticator.check(given.map(HeaderValue::as_bytes)) {
            Ok(()) => Ok(()),
            // Which Secret it is is said in the status, not to everybody.
            Err(Denied::NoSecret(_)) => {
                let why = "the source cannot check who sends";
                Err(later(StatusCode::SERVICE_UNAVAILABLE, RETRY_SECS, why))
            }
            Err(Denied::Unauthorized) => {
                let scheme = HeaderValue::from_static(self.authenticator.scheme());
                let why = "Authorization is missing or wrong";
                Err(Refusal {
                    header: Some((header::WWW_AUTHENTICATE, scheme)),
                    // It is not counted: whoever reaches the port could make the block fail.
                    ..refusal(StatusCode::UNAUTHORIZED, why)
                })
            }
        }
    }

    /// Reads a body, up to the limit.
    async fn body(&self, body: &mut Incoming, held: &mut Held) -> Result<Bytes, Refusal> {
        let max = self.settings.body_bytes_max as usize;
        let too_large = || {
            let why = format!("the body is larger than {max} bytes");
            self.wrong(StatusCode::PAYLOAD_TOO_LARGE, why)
        };
        if body.size_hint().lower() > max as u64 {
            return Err(too_large());
        }
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let broken = |_| refusal(StatusCode::BAD_REQUEST, "the body ended too early");
            let Ok(data) = frame.map_err(broken)?.into_data() else {
                continue;
            };
            if whole.len() + data.len() > max {
                return Err(too_large());
            }
            if !held.grow(data.len()) {
                return Err(busy());
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    async fn write(&self, records: &[NewRecord<'_>], held: Held) -> Result<usize, Refusal> {
        if records.is_empty() {
            return Ok(0);
        }
        match self.stage.writer.write(records, held).await {
            Ok(()) => {
                let bytes = records.iter().map(|record| record.value.len() as u64).sum();
                self.stage.taken(records.len(), bytes);
                Ok(records.len())
            }
            Err(WriteError::Busy) => Err(busy()),
            Err(WriteError::TooLarge { place, why }) => {
                let why = format!("record {}: {why}", place + 1);
                Err(self.wrong(StatusCode::PAYLOAD_TOO_LARGE, why))
            }
            // Which topic it is is said in the status, not to everybody.
            Err(WriteError::Away(_)) => {
                let why = "Kafka does not take the records";
                Err(later(StatusCode::SERVICE_UNAVAILABLE, RETRY_SECS, why))
            }
        }
    }

    /// A refusal that is the client's fault: it is counted.
    fn wrong(&self, status: StatusCode, why: impl Into<String>) -> Refusal {
        let why = why.into();
        let counted = format!("{}: {why}", status.as_u16());
        self.stage.counts.failed(&self.stage.source, &counted);
        refusal(status, why)
    }
}

/// Reads what is left of a refused body, and throws it away: a client that still sends when the
/// connection is closed does not see the answer.
async fn read_rest(mut body: Incoming) {
    let rest = async {
        let mut left = REST_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(REST_PATIENCE, rest).await;
}

fn busy() -> Refusal {
    let why = "too many records wait for Kafka";
    later(StatusCode::TOO_MANY_REQUESTS, 1, why)
}

fn respond(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}
