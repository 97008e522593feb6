//! An HTTP endpoint that fails in many ways.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;

use crate::support::serve;

/// What an endpoint does.
pub struct Behaviour {
    /// Whether it fails: by status, by silence, by closing the connection.
    pub fails: bool,
    /// The header `Authorization` that it wants.
    pub authorization: Option<String>,
}

/// What it has taken.
#[derive(Default)]
pub struct Taken {
    pub requests: u64,
    /// The number of each record by partition and offset, as it was first taken.
    pub numbers: BTreeMap<(i32, i64), u64>,
    /// Offsets in the order in which they were first taken, by partition.
    pub order: BTreeMap<i32, Vec<i64>>,
    /// Requests that had other keys or other content types than they should.
    pub wrong: Vec<String>,
}

pub struct Endpoint {
    pub url: String,
    pub behaviour: Mutex<Behaviour>,
    taken: Mutex<Taken>,
    topic: String,
    batch: usize,
}

/// The records that it refuses.
pub fn is_refused(number: u64) -> bool {
    number % 50 == 49
}

impl Endpoint {
    /// Serves until the test process ends.
    pub fn start(topic: &str, batch: usize, behaviour: Behaviour) -> Arc<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Arc::new(Self {
            url: format!("http://{}/hook", listener.local_addr().unwrap()),
            behaviour: Mutex::new(behaviour),
            taken: Mutex::default(),
            topic: topic.to_owned(),
            batch,
        });
        let routes = Router::new().route("/hook", post(take));
        let routes = routes.with_state(Arc::clone(&endpoint));
        serve(listener, routes);
        endpoint
    }

    pub fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Partition, first and last offset of `Idempotency-Key`.
    fn key(&self, headers: &HeaderMap) -> Option<(i32, i64, i64)> {
        let key = headers.get("idempotency-key")?.to_str().ok()?;
        let rest = key.strip_prefix(&self.topic)?.strip_prefix('/')?;
        let (partition, offsets) = rest.split_once('/')?;
        let (first, last) = offsets.split_once('-').unwrap_or((offsets, offsets));
        let number = |text: &str| text.parse().ok();
        Some((partition.parse().ok()?, number(first)?, number(last)?))
    }

    /// Takes records, or refuses them all.
    fn answer(&self, headers: &HeaderMap, body: &str) -> Response {
        let numbers: Vec<u64> = body
            .lines()
            .map(|line| line.trim().parse().unwrap())
            .collect();
        let mut taken = self.taken();
        let kind = headers.get("content-type").map(|kind| kind.as_bytes());
        let expected: &[u8] = match self.batch {
            1 => b"application/json",
            _ => b"application/x-ndjson",
        };
        let Some((partition, first, last)) = self.key(headers) else {
            taken.wrong.push(format!("{headers:?}"));
            return StatusCode::OK.into_response();
        };
        let count = usize::try_from(last - first + 1).unwrap();
        if kind != Some(expected) || count != numbers.len() || count > self.batch {
            taken.wrong.push(format!("{headers:?}"));
        }
        if numbers.iter().any(|number| is_refused(*number)) {
            return StatusCode::UNPROCESSABLE_ENTITY.into_response();
        }
        for (offset, number) in (first..=last).zip(numbers) {
            match taken.numbers.insert((partition, offset), number) {
                None => taken.order.entry(partition).or_default().push(offset),
                Some(before) if before != number => taken.wrong.push(format!("{offset}")),
                Some(_) => {}
            }
        }
        (StatusCode::OK, "thank you ".repeat(100)).into_response()
    }
}

async fn take(State(endpoint): State<Arc<Endpoint>>, headers: HeaderMap, body: String) -> Response {
    let request = {
        let mut taken = endpoint.taken();
        taken.requests += 1;
        taken.requests
    };
    let (fails, wants) = {
        let behaviour = endpoint.behaviour.lock().unwrap();
        (behaviour.fails, behaviour.authorization.clone())
    };
    let given = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    if wants.is_some() && given != wants.as_deref() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if fails {
        if request % 101 == 5 {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        if request % 499 == 7 {
            return (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response();
        }
        if request % 701 == 9 {
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        if request % 211 == 11 {
            // The connection closes without an answer.
            std::panic::resume_unwind(Box::new(()));
        }
        if request % 307 == 13 {
            // … or after the record was taken.
            let _ = endpoint.answer(&headers, &body);
            std::panic::resume_unwind(Box::new(()));
        }
    }
    endpoint.answer(&headers, &body)
}
