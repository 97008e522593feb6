//! Sends records to an HTTP endpoint, in the order of their partition.
//!
//! A record without a value is left out: a body has no place for its key. What the endpoint answers
//! is read, so that the connection can be used again, and thrown away.

use std::time::Duration;

use bytes::Bytes;
use freehold_pipeline::endpoint::host_and_port;
use freehold_pipeline::sink::{HttpMethod, HttpSink};
use freehold_pipeline::source::Format;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};

use crate::deliver::lines;
use crate::deliver::package::Package;
use crate::deliver::sink::{OwnedRecord, Parcel, Sink, Then};
use crate::http_client::authorization::Authorization;
use crate::http_client::secrets::Secrets;
use crate::http_client::{HttpClient, retry_after};
use crate::record::Record;

/// Records of a package, if a batch is smaller.
const PACKAGE_RECORDS: usize = 500;

/// The sink.
pub struct Http {
    sink: HttpSink,
    format: Format,
    /// `scheme://host:port`: what problems name. The rest of the URL may be secret.
    endpoint: String,
    client: HttpClient,
    authorization: Authorization,
}

/// What became of one request.
enum Sent {
    Taken,
    Again(Then),
    Refused(String),
}

impl Http {
    /// A sink for records of a format.
    pub fn new(sink: HttpSink, format: Format, secrets: &Secrets) -> Self {
        let scheme = sink.url.split("://").next().unwrap_or_default();
        let place = host_and_port(&sink.url, &[("https", 443), ("http", 80)]);
        let (host, port) = place.unwrap_or_default();
        Self {
            endpoint: format!("{scheme}://{host}:{port}"),
            client: HttpClient::new(secrets, sink.ca.as_ref()),
            authorization: Authorization::new(sink.authentication.clone(), secrets),
            sink,
            format,
        }
    }

    fn batch(&self) -> usize {
        self.sink.batch.max(1) as usize
    }

    /// Sends records in one request.
    async fn send(&self, parcel: &Parcel<Package>, records: &[OwnedRecord]) -> Sent {
        let request = match self.request(parcel, records) {
            Ok(request) => request,
            Err(why) => return Sent::Again(Then::retry(why)),
        };
        let patience = Duration::from_millis(self.sink.timeout.as_millis());
        let answer = match self.client.send(request, patience).await {
            Ok(answer) => answer,
            Err(why) => return Sent::Again(Then::retry(format!("{}: {why}", self.endpoint))),
        };
        let status = answer.status;
        if status.is_success() {
            return Sent::Taken;
        }
        let why = format!("{} answers {status}", self.endpoint);
        if is_refusal(status) {
            return Sent::Refused(why);
        }
        if status == StatusCode::UNAUTHORIZED {
            self.authorization.forget();
        }
        let after = retry_after(&answer.headers);
        Sent::Again(Then::Retry { after, why })
    }

    fn request(
        &self,
        parcel: &Parcel<Package>,
        records: &[OwnedRecord],
    ) -> Result<Request<Full<Bytes>>, String> {
        let method = match self.sink.method {
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
        };
        let kind = match self.format {
            _ if self.batch() > 1 => "application/x-ndjson",
            Format::Json => "application/json",
            Format::Text => "text/plain; charset=utf-8",
            Format::Bytes => "application/octet-stream",
        };
        let mut request = Request::builder().method(method).uri(&self.sink.url);
        for (name, value) in &self.sink.headers {
            request = request.header(name, value);
        }
        request = request
            .header(CONTENT_TYPE, kind)
            .header("idempotency-key", idempotency_key(parcel, records));
        if let Some(value) = self.authorization.header()? {
            request = request.header(AUTHORIZATION, value);
        }
        let body = match records {
            [one] if self.batch() == 1 => one.value.clone().unwrap_or_default(),
            many => {
                let mut body = Vec::new();
                for record in many {
                    let value = record.value.as_deref().unwrap_or_default();
                    lines::append(&mut body, value, self.format)?;
                }
                body.into()
            }
        };
        let request = request.body(Full::new(body));
        request.map_err(|error| format!("{}: {error}", self.endpoint))
    }

    /// Sends records of which the endpoint has refused one, one by one, until it refuses one.
    async fn one_by_one(&self, parcel: &Parcel<Package>, places: std::ops::Range<usize>) -> Then {
        for place in places {
            match self
                .send(parcel, &parcel.package.records[place..=place])
                .await
            {
                Sent::Taken => parcel.set_done(place + 1),
                Sent::Again(then) => return then,
                Sent::Refused(why) => return Then::Refused { why },
            }
            if parcel.is_halted() {
                break;
            }
        }
        Then::Done
    }
}

impl Sink for Http {
    type Package = Package;
    const FLUSHES: bool = false;

    fn open(&self) -> Package {
        Package::default()
    }

    fn add(&self, package: &mut Package, record: &Record<'_>) -> Result<(), String> {
        let owned = OwnedRecord::of(record);
        if self.batch() > 1 {
            lines::append(
                &mut Vec::new(),
                record.value.unwrap_or_default(),
                self.format,
            )?;
        }
        package.push(owned);
        Ok(())
    }

    fn held(&self, package: &Package) -> usize {
        package.bytes
    }

    fn is_full(&self, package: &Package) -> bool {
        package.is_full(PACKAGE_RECORDS.max(self.batch()))
    }

    fn is_due(&self, _: Duration) -> bool {
        true
    }

    fn seal(&self, _: &mut Package) {}

    async fn deliver(&self, parcel: &Parcel<Package>) -> Then {
        let records = &parcel.package.records;
        while parcel.done() < records.len() && !parcel.is_halted() {
            let first = parcel.done();
            let end = records.len().min(first + self.batch());
            match self.send(parcel, &records[first..end]).await {
                Sent::Taken => parcel.set_done(end),
                Sent::Again(then) => return then,
                Sent::Refused(why) if end - first == 1 => return Then::Refused { why },
                Sent::Refused(_) => match self.one_by_one(parcel, first..end).await {
                    Then::Done => {}
                    then => return then,
                },
            }
        }
        Then::Done
    }

    fn record<'p>(&self, package: &'p Package, place: usize) -> Option<&'p OwnedRecord> {
        package.records.get(place)
    }

    fn reached(&self, parcel: &Parcel<Package>, done: usize) -> i64 {
        parcel.package.reached(parcel, done)
    }
}

/// The same for each try: an endpoint can tell a record that it has already.
fn idempotency_key(parcel: &Parcel<Package>, records: &[OwnedRecord]) -> String {
    let offset = |record: Option<&OwnedRecord>| record.map_or(parcel.first, |record| record.offset);
    let (first, last) = (offset(records.first()), offset(records.last()));
    let place = format!("{}/{}/{first}", parcel.topic, parcel.partition);
    match first == last {
        true => place,
        false => format!("{place}-{last}"),
    }
}

/// Whether the record is at fault. The other answers of 4xx are about the client, the URL or the
/// moment.
fn is_refusal(status: StatusCode) -> bool {
    let passes = [401, 403, 404, 408, 409, 425, 429];
    status.is_client_error() && !passes.contains(&status.as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_that_are_about_the_record() {
        let refused = |code| is_refusal(StatusCode::from_u16(code).unwrap());
        assert!([400, 405, 410, 413, 415, 422].into_iter().all(refused));
        let others = [302, 401, 403, 404, 408, 409, 425, 429, 500, 503];
        assert!(!others.into_iter().any(refused));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed_and_names_no_path() {
        let (url, requests) = crate::http_client::loopback::answering(vec![
            "302 Found\r\nlocation: /other\r\ncontent-length: 0",
        ]);
        let text = format!(r#"{{"url": "{url}/secret-path?key=hush", "method": "PUT"}}"#);
        let sink: HttpSink = serde_json::from_str(&text).unwrap();
        let http = Http::new(sink, Format::Text, &Secrets::of("/".as_ref()));
        let mut parcel = Parcel::new(&"t".into(), 2, 5, http.open());
        let record = Record {
            value: Some(b"hello"),
            ..Record::at("t", 2, 7, 0)
        };
        http.add(&mut parcel.package, &record).unwrap();
        parcel.next = 8;
        let then = http.deliver(&parcel).await;
        let why = format!("{url} answers 302 Found");
        assert_eq!(then, Then::retry(why));
        let request = &requests.join().unwrap()[0];
        assert!(
            request.starts_with("put /secret-path?key=hush http/1.1"),
            "{request}"
        );
        assert!(request.contains("idempotency-key: t/2/7\r\n"), "{request}");
        assert!(request.contains("content-type: text/plain"), "{request}");
        assert_eq!((http.reached(&parcel, 0), http.reached(&parcel, 1)), (5, 8));
    }
}
