//! Asks the endpoint once.

use std::time::Duration;

use bytes::Bytes;
use freehold_pipeline::endpoint::host_and_port;
use freehold_pipeline::source::HttpPollSource;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use hyper::{Request, StatusCode};
use ring::digest::{Digest, SHA256, digest};

use crate::http_client::authorization::Authorization;
use crate::http_client::secrets::Secrets;
use crate::http_client::{HttpClient, retry_after};
use crate::ingest::body::{Kind, RECORDS_MAX, Refused, records};

/// What tells an answer from the next one.
#[derive(Default)]
pub struct Seen {
    etag: Option<HeaderValue>,
    hash: Option<Digest>,
}

/// Why an answer has no records.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    pub why: String,
    /// How long the endpoint asks to wait.
    pub after: Option<Duration>,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { why, after: None }
    }
}

/// An answer, and its records if it was not seen before.
pub struct Answered {
    pub body: Vec<u8>,
    pub places: Vec<std::ops::Range<usize>>,
    pub seen: Seen,
}

/// An endpoint that is asked.
pub struct Endpoint {
    settings: HttpPollSource,
    /// `scheme://host:port`: what problems name. The rest of the URL may be secret.
    pub place: String,
    client: HttpClient,
    authorization: Authorization,
}

impl Endpoint {
    /// An endpoint with the Secrets of a folder.
    pub fn new(settings: HttpPollSource, secrets: &Secrets) -> Self {
        let scheme = settings.url.split("://").next().unwrap_or_default();
        let place = host_and_port(&settings.url, &[("https", 443), ("http", 80)]);
        let (host, port) = place.unwrap_or_default();
        let timeout = Duration::from_millis(settings.timeout.as_millis());
        let client = HttpClient::new(secrets, settings.ca.as_ref());
        Self {
            place: format!("{scheme}://{host}:{port}"),
            client: client.reading(settings.body_bytes_max as usize, timeout),
            authorization: Authorization::new(settings.authentication.clone(), secrets),
            settings,
        }
    }

    /// Asks once; `None`: it says that nothing has changed.
    ///
    /// # Errors
    /// What does not work, without a secret and without content.
    pub async fn ask(&self, seen: &Seen) -> Result<Option<Answered>, Failure> {
        let named = |why: String| format!("{}: {why}", self.place);
        let timeout = Duration::from_millis(self.settings.timeout.as_millis());
        let answer = self.client.send(self.request(seen)?, timeout).await;
        let answer = answer.map_err(named)?;
        let status = answer.status;
        if status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        if status == StatusCode::UNAUTHORIZED {
            self.authorization.forget();
        }
        if !status.is_success() {
            return Err(Failure {
                why: format!("{} answers {status}", self.place),
                after: retry_after(&answer.headers),
            });
        }
        if let Some(why) = answer.cut {
            return Err(named(why).into());
        }
        let hash = digest(&SHA256, &answer.body);
        let is_seen = |known: &Digest| known.as_ref() == hash.as_ref();
        let is_seen = seen.hash.as_ref().is_some_and(is_seen);
        let now = Seen {
            etag: answer.headers.get(ETAG).cloned(),
            hash: Some(hash),
        };
        if answer.body.is_empty() || is_seen {
            // Without records it is an answer all the same: what comes after it is another one.
            return Ok(Some(Answered {
                body: Vec::new(),
                places: Vec::new(),
                seen: now,
            }));
        }
        let content_type = answer.headers.get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let kind = Kind::of_answer(self.settings.format, content_type);
        let places = records(kind, &answer.body).map_err(|refused| match refused {
            Refused::Invalid(why) => named(why),
            Refused::TooMany => named(format!("its answer has more than {RECORDS_MAX} records")),
        })?;
        Ok(Some(Answered {
            body: answer.body,
            places,
            seen: now,
        }))
    }

    fn request(&self, seen: &Seen) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::get(&self.settings.url);
        for (name, value) in &self.settings.headers {
            request = request.header(name, value);
        }
        let mut names = self.settings.headers.keys();
        if !names.any(|name| name.eq_ignore_ascii_case("accept")) {
            request = request.header(ACCEPT, "application/json, application/x-ndjson, */*;q=0.5");
        }
        if let Some(etag) = &seen.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        if let Some(value) = self.authorization.header()? {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Full::default());
        request.map_err(|error| format!("{}: {error}", self.place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_client::loopback::answering;

    fn endpoint(url: &str) -> Endpoint {
        let text = format!(r#"{{"url": "{url}/secret-path?key=hush", "headers": {{"X-A": "b"}}}}"#);
        Endpoint::new(
            serde_json::from_str(&text).unwrap(),
            &Secrets::of("/".as_ref()),
        )
    }

    async fn failure(endpoint: &Endpoint) -> Failure {
        let answered = endpoint.ask(&Seen::default()).await;
        let failure = answered.err().unwrap();
        assert!(!failure.why.contains("hush"), "{}", failure.why);
        failure
    }

    #[tokio::test]
    async fn answers_without_records_are_told_from_failures() {
        let (url, requests) = answering(vec![
            "304 Not Modified",
            "204 No Content",
            "200 OK\r\ncontent-length: 0",
            "503 Service Unavailable\r\nretry-after: 7\r\ncontent-length: 0",
            "302 Found\r\nlocation: /other\r\ncontent-length: 0",
            "200 OK\r\ncontent-length: 9000000",
        ]);
        let endpoint = endpoint(&url);
        let seen = Seen {
            etag: Some(HeaderValue::from_static("\"one\"")),
            hash: None,
        };
        assert!(endpoint.ask(&seen).await.unwrap().is_none());
        for _ in 0..2 {
            let answered = endpoint.ask(&seen).await.unwrap().unwrap();
            assert!(answered.places.is_empty() && answered.seen.etag.is_none());
        }
        let busy = failure(&endpoint).await;
        assert_eq!(busy.why, format!("{url} answers 503 Service Unavailable"));
        assert_eq!(busy.after, Some(Duration::from_secs(7)));
        let moved = failure(&endpoint).await;
        assert_eq!(moved.why, format!("{url} answers 302 Found"));
        let cut = failure(&endpoint).await;
        assert!(cut.why.starts_with(&format!("{url}: ")), "{}", cut.why);
        let requests = requests.join().unwrap();
        assert!(requests[0].starts_with("get /secret-path?key=hush http/1.1"));
        assert!(
            requests[0].contains("if-none-match: \"one\"\r\n"),
            "{}",
            requests[0]
        );
        assert!(!requests[3].contains("if-none-match") && requests[3].contains("x-a: b\r\n"));
    }
}
