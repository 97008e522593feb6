//! Writes files of records to a bucket. The object is the commit.
//!
//! A partition's files are a chain: a file's name has the offset at which it begins, its metadata
//! `next-offset` the one at which the next one begins. It is written with `If-None-Match: *`, so that
//! of two writers at one link the first one wins; the other one reads where its link ends, and goes
//! on from there. So each record is in one file, whatever becomes of the committed offsets: they only
//! say at which link a new process begins.
//!
//! A link is an offset to read from, not that of the first record in the file: that one can be gone
//! from the topic later, and the name must be the same. Records without a value are left out: a line
//! has no place for their keys. A file can be empty, if only such records came: without it the chain
//! would have two ways on.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use freehold_pipeline::sink::S3Sink;
use freehold_pipeline::source::Format;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Request, StatusCode};

use crate::deliver::file::{self, Writer};
use crate::deliver::lines;
use crate::deliver::signature::{Signer, authorization, escaped, hash};
use crate::deliver::sink::{OwnedRecord, Parcel, Sink, Then};
use crate::http_client::secrets::{Kept, Secrets};
use crate::http_client::{Answer, HttpClient};
use crate::record::Record;

/// How long an answer may take: a file can have 32 MiB.
const PATIENCE: Duration = Duration::from_secs(60);

const NEXT_OFFSET: &str = "x-amz-meta-next-offset";
/// The uid of the Pipeline whose own topic the file is from.
const OWNER: &str = "x-amz-meta-pipeline";
/// Offset and time of a file's first record, as `42/1700000000000`: a topic that was deleted and made
/// again has other times at the same offsets.
const FIRST_RECORD: &str = "x-amz-meta-first-record";

/// A file that grows, or is whole.
#[derive(Default)]
pub struct Package {
    writer: Option<Writer>,
    /// The whole file.
    file: Bytes,
    /// Bytes of its lines before compression.
    bytes: usize,
    lines: usize,
    /// Offset and time of its first record.
    first: Option<(i64, i64)>,
    /// The compressor has failed: the file cannot be used.
    failed: bool,
}

/// The sink.
pub struct S3 {
    sink: S3Sink,
    format: Format,
    /// The uid of the Pipeline whose own topic it reads.
    owner: Option<String>,
    /// What stands before the path of an object: `scheme://host:port`.
    endpoint: String,
    /// What stands before an object's name in the path.
    path: String,
    secrets: Secrets,
    client: HttpClient,
    credentials: Mutex<Kept<Credentials>>,
}

#[derive(Clone)]
struct Credentials {
    access_key_id: String,
    secret_access_key: String,
}

impl S3 {
    /// A sink for records of a format.
    pub fn new(sink: S3Sink, format: Format, secrets: &Secrets, owner: Option<String>) -> Self {
        let (endpoint, path) = address(&sink);
        Self {
            endpoint,
            path,
            client: HttpClient::new(secrets, sink.ca.as_ref()),
            secrets: secrets.clone(),
            credentials: Mutex::default(),
            sink,
            format,
            owner: owner.filter(|uid| !uid.is_empty()),
        }
    }

    /// The path of the file that begins at an offset of a partition.
    fn path_of(&self, parcel: &Parcel<Package>) -> String {
        let Parcel {
            topic,
            partition,
            first,
            ..
        } = parcel;
        let (prefix, ending) = (&self.sink.prefix, file::ending(self.sink.compression));
        escaped(&format!(
            "{}/{prefix}{topic}/{partition}/{first:020}.{ending}",
            self.path
        ))
    }

    /// Sends a signed request.
    async fn send(
        &self,
        method: &str,
        path: &str,
        more: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Answer, String> {
        let problem = |why: String| format!("{}: {why}", self.endpoint);
        let credentials = self.credentials()?;
        let time = jiff::Timestamp::now()
            .strftime("%Y%m%dT%H%M%SZ")
            .to_string();
        let host = self.endpoint.split("://").nth(1).unwrap_or_default();
        let mut headers = vec![
            ("host", host.to_owned()),
            ("x-amz-content-sha256", hash(&body)),
            ("x-amz-date", time.clone()),
        ];
        headers.extend(more.iter().cloned());
        headers.sort();
        let signer = Signer {
            access_key_id: &credentials.access_key_id,
            secret_access_key: &credentials.secret_access_key,
            region: &self.sink.region,
            time: &time,
        };
        let signed = authorization(&signer, method, path, &headers);
        let url = format!("{}{path}", self.endpoint);
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in &headers {
            request = request.header(*name, value);
        }
        request = request.header(AUTHORIZATION, signed);
        if method == "PUT" {
            request = request.header(CONTENT_TYPE, file::media_type(self.sink.compression));
        }
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| problem(error.to_string()))?;
        self.client.send(request, PATIENCE).await.map_err(problem)
    }

    fn credentials(&self) -> Result<Credentials, String> {
        let kept = self.credentials.lock();
        kept.unwrap_or_else(PoisonError::into_inner).get(|_| {
            let secret = &self.sink.credentials.name;
            Ok(Credentials {
                access_key_id: self.secrets.text(secret, "accessKeyId")?,
                secret_access_key: self.secrets.text(secret, "secretAccessKey")?,
            })
        })
    }

    /// What an answer that does not help says.
    fn refusal(&self, answer: &Answer) -> Then {
        if matches!(
            answer.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            let kept = self.credentials.lock();
            kept.unwrap_or_else(PoisonError::into_inner).forget();
        }
        let code = code(&answer.body);
        let space = if code.is_empty() { "" } else { ": " };
        let status = answer.status;
        let bucket = &self.sink.bucket;
        let endpoint = &self.endpoint;
        let why = format!("bucket {bucket} at {endpoint} answers {status}{space}{code}");
        match status {
            StatusCode::NOT_IMPLEMENTED => Then::retry(format!(
                "{why}; it must know If-None-Match, else a file could be written over another"
            )),
            _ => Then::retry(why),
        }
    }

    /// The name is taken: by an earlier try or by another process. Says where its file ends.
    async fn taken(&self, path: &str, parcel: &Parcel<Package>) -> Then {
        let answer = match self.send("HEAD", path, &[], Bytes::new()).await {
            Ok(answer) => answer,
            Err(why) => return Then::retry(why),
        };
        if !answer.status.is_success() {
            return self.refusal(&answer);
        }
        let header = |name| answer.headers.get(name)?.to_str().ok();
        let next = header(NEXT_OFFSET).and_then(|next| next.parse().ok());
        let why = match next.filter(|next| *next > parcel.first) {
            None => "that no Pipeline has written",
            Some(_) if is_foreign(header(FIRST_RECORD), parcel.package.first) => {
                "with records of an earlier topic of this name"
            }
            Some(_) if header(OWNER) != self.owner.as_deref() => {
                "with records of an earlier Pipeline of this name"
            }
            Some(next) => return Then::Until { next },
        };
        let bucket = &self.sink.bucket;
        Then::retry(format!(
            "bucket {bucket} has an object {path} {why}; use another prefix"
        ))
    }
}

impl Sink for S3 {
    type Package = Package;
    const FLUSHES: bool = true;

    fn open(&self) -> Package {
        let writer = Writer::new(self.sink.compression).ok();
        Package {
            failed: writer.is_none(),
            writer,
            ..Package::default()
        }
    }

    fn add(&self, package: &mut Package, record: &Record<'_>) -> Result<(), String> {
        let value = record.value.unwrap_or_default();
        let mut line = Vec::with_capacity(value.len() + 1);
        lines::append(&mut line, value, self.format)?;
        package.bytes += line.len();
        package.lines += 1;
        let time = record.timestamp.unwrap_or_default();
        package.first.get_or_insert((record.offset, time));
        if let Some(writer) = &mut package.writer {
            package.failed |= writer.write(&line).is_err();
        }
        Ok(())
    }

    fn held(&self, package: &Package) -> usize {
        package.writer.as_ref().map_or(0, Writer::held) + package.file.len()
    }

    fn is_full(&self, package: &Package) -> bool {
        package.bytes >= self.sink.file_bytes as usize
    }

    fn is_due(&self, age: Duration) -> bool {
        age.as_millis() >= u128::from(self.sink.file_every.as_millis())
    }

    fn seal(&self, package: &mut Package) {
        match package.writer.take().map(Writer::finish) {
            Some(Ok(file)) => package.file = file.into(),
            _ => package.failed = true,
        }
    }

    async fn deliver(&self, parcel: &Parcel<Package>) -> Then {
        if parcel.package.failed {
            // What is before this offset is delivered: the records are read again.
            return Then::Until { next: parcel.first };
        }
        let path = self.path_of(parcel);
        let mut headers = vec![
            ("if-none-match", "*".to_owned()),
            (NEXT_OFFSET, parcel.next.to_string()),
        ];
        let first = parcel.package.first;
        headers.extend(first.map(|(offset, time)| (FIRST_RECORD, format!("{offset}/{time}"))));
        headers.extend(self.owner.clone().map(|uid| (OWNER, uid)));
        let file = parcel.package.file.clone();
        let answer = match self.send("PUT", &path, &headers, file).await {
            Ok(answer) => answer,
            Err(why) => return Then::retry(why),
        };
        match answer.status {
            status if status.is_success() => {
                parcel.set_done(parcel.package.lines);
                Then::Done
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => {
                self.taken(&path, parcel).await
            }
            _ => self.refusal(&answer),
        }
    }

    fn record<'p>(&self, _: &'p Package, _: usize) -> Option<&'p OwnedRecord> {
        None
    }

    fn reached(&self, parcel: &Parcel<Package>, done: usize) -> i64 {
        match done {
            0 => parcel.first,
            _ => parcel.next,
        }
    }
}

/// The endpoint, and what stands before an object's name in the path. At AWS the bucket is in the
/// host's name, unless a dot in it would not fit the host's certificate.
fn address(sink: &S3Sink) -> (String, String) {
    let (bucket, region) = (&sink.bucket, &sink.region);
    match &sink.endpoint {
        Some(endpoint) => {
            let (scheme, rest) = endpoint.split_once("://").unwrap_or(("https", endpoint));
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let path = path.trim_matches('/');
            let slash = if path.is_empty() { "" } else { "/" };
            (
                format!("{scheme}://{host}"),
                format!("{slash}{path}/{bucket}"),
            )
        }
        None if bucket.contains('.') => (
            format!("https://s3.{region}.amazonaws.com"),
            format!("/{bucket}"),
        ),
        None => (
            format!("https://{bucket}.s3.{region}.amazonaws.com"),
            String::new(),
        ),
    }
}

/// Whether a file's first record is another one than that of the same offset in the topic.
fn is_foreign(written: Option<&str>, first: Option<(i64, i64)>) -> bool {
    let number = |text: &str| text.parse::<i64>().ok();
    let written = written.and_then(|text| {
        let (offset, time) = text.split_once('/')?;
        Some((number(offset)?, number(time)?))
    });
    match (written, first) {
        (Some(written), Some(first)) => written.0 == first.0 && written.1 != first.1,
        // A first record can be gone from the topic.
        _ => false,
    }
}

/// The code of an error of S3, such as `NoSuchBucket`; empty if there is none.
fn code(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let code = text.split_once("<Code>").map(|(_, rest)| rest);
    let code = code.unwrap_or_default().chars();
    code.take_while(char::is_ascii_alphanumeric)
        .take(60)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(more: &str) -> S3Sink {
        let text = format!(r#"{{"bucket": "files", "credentials": {{"name": "s"}} {more}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn where_a_bucket_is() {
        let of = |more| address(&sink(more));
        let aws = (
            "https://files.s3.us-east-1.amazonaws.com".to_owned(),
            String::new(),
        );
        assert_eq!(of(""), aws);
        let own = ("http://10.0.0.1:9000".to_owned(), "/files".to_owned());
        assert_eq!(of(r#", "endpoint": "http://10.0.0.1:9000""#), own);
        assert_eq!(of(r#", "endpoint": "http://10.0.0.1:9000/""#), own);
        let below = ("https://a".to_owned(), "/s3/files".to_owned());
        assert_eq!(of(r#", "endpoint": "https://a/s3/""#), below);
        let mut dotted = sink("");
        dotted.bucket = "my.files".into();
        assert_eq!(address(&dotted).1, "/my.files");
    }

    #[test]
    fn a_files_name_has_the_offset_at_which_it_begins() {
        let sink = sink(r#", "endpoint": "http://a", "prefix": "all=/""#);
        let s3 = S3::new(sink, Format::Json, &Secrets::of("/".as_ref()), None);
        let parcel = Parcel::new(&"t".into(), 3, 42, s3.open());
        let expected = "/files/all%3D/t/3/00000000000000000042.ndjson.gz";
        assert_eq!(s3.path_of(&parcel), expected);
    }

    #[test]
    fn the_code_of_an_error_is_letters_only() {
        assert_eq!(
            code(b"<Error><Code>NoSuchBucket</Code></Error>"),
            "NoSuchBucket"
        );
        assert_eq!(code(b"<Code>a\nb"), "a");
        assert_eq!(code(b"<html>"), "");
    }

    /// What becomes of a file of one record, and the requests, if the store answers so.
    async fn delivered(answers: Vec<&'static str>) -> (Then, Vec<String>) {
        let (url, requests) = crate::http_client::loopback::answering(answers);
        // A folder of its own: another test may write the same files at this moment.
        let port = url.rsplit(':').next().unwrap();
        let folder = std::env::temp_dir().join(format!("runner-s3-{port}"));
        std::fs::create_dir_all(folder.join("s")).unwrap();
        for key in ["accessKeyId", "secretAccessKey"] {
            std::fs::write(folder.join("s").join(key), "hush").unwrap();
        }
        let sink = sink(&format!(r#", "endpoint": "{url}", "compression": "None""#));
        let s3 = S3::new(sink, Format::Json, &Secrets::of(&folder), None);
        let mut parcel = Parcel::new(&"t".into(), 0, 5, s3.open());
        let record = Record {
            value: Some(b"[1,\n2]"),
            timestamp: Some(1_000),
            ..Record::at("t", 0, 7, 0)
        };
        s3.add(&mut parcel.package, &record).unwrap();
        s3.seal(&mut parcel.package);
        parcel.next = 8;
        let then = s3.deliver(&parcel).await;
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(parcel.done(), usize::from(then == Then::Done));
        (then, requests.join().unwrap())
    }

    #[tokio::test]
    async fn a_name_that_is_taken_says_where_its_file_ends() {
        let taken = "412 Precondition Failed\r\ncontent-length: 0";
        let head = "200 OK\r\nx-amz-meta-next-offset: 42\r\ncontent-length: 9";
        let (then, requests) = delivered(vec![taken, head]).await;
        assert_eq!(then, Then::Until { next: 42 });
        let put = &requests[0];
        assert!(
            put.starts_with("put /files/t/0/00000000000000000005.ndjson http/1.1"),
            "{put}"
        );
        assert!(
            put.contains("if-none-match: *") && put.contains("next-offset: 8"),
            "{put}"
        );
        assert!(!put.contains("hush\r\n"), "{put}");
        assert!(
            requests[1].starts_with("head /files/t/0/"),
            "{}",
            requests[1]
        );

        let head = concat!(
            "200 OK\r\nx-amz-meta-next-offset: 42\r\ncontent-length: 9\r\n",
            "x-amz-meta-first-record: 7/999"
        );
        let (then, _) = delivered(vec![taken, head]).await;
        assert!(matches!(then, Then::Retry { why, .. } if why.contains("an earlier topic")));

        let head = concat!(
            "200 OK\r\nx-amz-meta-next-offset: 42\r\ncontent-length: 9\r\n",
            "x-amz-meta-pipeline: another"
        );
        let (then, _) = delivered(vec![taken, head]).await;
        assert!(matches!(then, Then::Retry { why, .. } if why.contains("an earlier Pipeline")));

        // Another program has written it.
        let head = "200 OK\r\ncontent-length: 9";
        let (then, _) = delivered(vec![taken, head]).await;
        assert!(matches!(then, Then::Retry { why, .. } if why.contains("no Pipeline")));
    }

    #[tokio::test]
    async fn a_store_that_does_not_know_the_condition_is_named() {
        let (then, _) = delivered(vec!["501 Not Implemented\r\ncontent-length: 0"]).await;
        let Then::Retry { why, .. } = then else {
            panic!("{then:?}");
        };
        assert!(
            why.contains("http://127.0.0.1:") && why.contains("If-None-Match"),
            "{why}"
        );
    }
}
