//! Sources and sinks outside Kafka: what is wrong with them (a field below the block, and the
//! words), what they need, and what they reach.

use crate::block::Block;
use crate::definition::Delivery;
use crate::endpoint::{HttpAuthentication, MqttBroker, host_and_port};
use crate::mqtt;
use crate::sink::{HttpSink, S3Sink, Sink};
use crate::source::{Format, HttpPollSource, Source};
use std::collections::BTreeMap;

/// Fields below the block, each with what is wrong with it.
pub(crate) type Wrong = Vec<(String, String)>;

const HTTP: [(&str, u16); 2] = [("https", 443), ("http", 80)];

/// Shortest time between two questions, in milliseconds.
const INTERVAL_MS_MIN: u64 = 1_000;

/// Keys of a Secret with a name and a password (`kubernetes.io/basic-auth`).
const BASIC_KEYS: [&str; 2] = ["username", "password"];
/// Keys of a Secret with a key of S3.
const S3_KEYS: [&str; 2] = ["accessKeyId", "secretAccessKey"];

/// Headers that a request has for other reasons.
const TAKEN_HEADERS: [&str; 6] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
];

/// A Secret that a block needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeededSecret {
    pub secret: String,
    pub keys: Vec<String>,
}

/// The Secrets that a block names.
pub fn secrets(block: &Block) -> Vec<NeededSecret> {
    let mut needed = Vec::new();
    let mut add = |secret: &str, keys: &[&str]| {
        needed.push(NeededSecret {
            secret: secret.to_owned(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        });
    };
    let source = block.source.as_ref();
    let http_source = source.and_then(|source| source.http.as_ref());
    let mqtt = broker(block);
    let sink = block.sink.as_ref();
    let http_sink = sink.and_then(|sink| sink.http.as_ref());
    let s3 = sink.and_then(|sink| sink.s3.as_ref());
    let of_source = http_source.map(|http| &http.authentication);
    let of_sink = http_sink.and_then(|http| http.authentication.as_ref());
    let poll = source.and_then(|source| source.http_poll.as_ref());
    let of_poll = poll.and_then(|poll| poll.authentication.as_ref());
    for authentication in of_source.into_iter().chain(of_sink).chain(of_poll) {
        if let Some(token) = &authentication.token {
            add(&token.name, &[&token.key]);
        }
        if let Some(basic) = &authentication.basic {
            add(&basic.name, &BASIC_KEYS);
        }
    }
    if let Some(basic) = mqtt.and_then(|mqtt| mqtt.basic.as_ref()) {
        add(&basic.name, &BASIC_KEYS);
    }
    if let Some(s3) = s3 {
        add(&s3.credentials.name, &S3_KEYS);
    }
    let authorities = [
        mqtt.and_then(|mqtt| mqtt.ca.as_ref()),
        http_sink.and_then(|http| http.ca.as_ref()),
        poll.and_then(|poll| poll.ca.as_ref()),
        s3.and_then(|s3| s3.ca.as_ref()),
    ];
    for ca in authorities.into_iter().flatten() {
        add(&ca.name, &[&ca.key]);
    }
    needed
}

/// The MQTT broker of a block.
fn broker(block: &Block) -> Option<&MqttBroker> {
    let source = block
        .source
        .as_ref()
        .and_then(|source| source.mqtt.as_ref());
    let sink = block.sink.as_ref().and_then(|sink| sink.mqtt.as_ref());
    let of_source = source.map(|source| &source.broker);
    of_source.or(sink.map(|sink| &sink.broker))
}

/// The Secret with the certificate of an HTTP source, if the block names one.
pub fn tls(block: &Block) -> Option<NeededSecret> {
    let given = block.source.as_ref()?.http.as_ref()?.tls.as_ref()?;
    Some(NeededSecret {
        secret: given.name.clone(),
        keys: ["tls.crt", "tls.key"].map(str::to_owned).to_vec(),
    })
}

/// The host and the port that a block connects to, beside Kafka.
pub fn reaches(block: &Block) -> Option<(String, u16)> {
    if let Some(broker) = broker(block) {
        return host_and_port(&broker.url, &mqtt::SCHEMES).ok();
    }
    let source = block.source.as_ref();
    if let Some(poll) = source.and_then(|source| source.http_poll.as_ref()) {
        return host_and_port(&poll.url, &HTTP).ok();
    }
    let sink = block.sink.as_ref()?;
    if let Some(http) = &sink.http {
        return host_and_port(&http.url, &HTTP).ok();
    }
    let s3 = sink.s3.as_ref()?;
    match &s3.endpoint {
        Some(endpoint) => host_and_port(endpoint, &HTTP).ok(),
        None => Some((format!("s3.{}.amazonaws.com", s3.region), 443)),
    }
}

/// What a block takes records from, or delivers them to, outside Kafka: `http`, `mqtt <host>`,
/// `http <host>` or `s3 <bucket>`.
pub fn place(block: &Block) -> Option<String> {
    let host = || reaches(block).map(|(host, _)| host).unwrap_or_default();
    let source = block.source.as_ref();
    let sink = block.sink.as_ref();
    if source.is_some_and(|source| source.http.is_some()) {
        return Some("http".to_owned());
    }
    if broker(block).is_some() {
        return Some(format!("mqtt {}", host()));
    }
    if let Some(s3) = sink.and_then(|sink| sink.s3.as_ref()) {
        return Some(format!("s3 {}", s3.bucket));
    }
    let is_http = sink.is_some_and(|sink| sink.http.is_some())
        || source.is_some_and(|source| source.http_poll.is_some());
    is_http.then(|| format!("http {}", host()))
}

/// Checks a source.
pub(crate) fn source(source: &Source) -> Wrong {
    let given = [
        ("kafka", source.kafka.is_some()),
        ("http", source.http.is_some()),
        ("mqtt", source.mqtt.is_some()),
        ("httpPoll", source.http_poll.is_some()),
    ];
    let mut wrong = one_of("source", &given);
    if let Some(http) = &source.http {
        let way_out = "nobody may send without it";
        let field = ".source.http.authentication";
        wrong.extend(authentication(field, &http.authentication, way_out));
    }
    wrong.extend(source.mqtt.iter().flat_map(mqtt::source));
    wrong.extend(source.http_poll.iter().flat_map(poll));
    wrong
}

/// Checks a sink of a Pipeline with this delivery.
pub(crate) fn sink(sink: &Sink, delivery: Delivery) -> Wrong {
    let given = [
        ("kafka", sink.kafka.is_some()),
        ("http", sink.http.is_some()),
        ("mqtt", sink.mqtt.is_some()),
        ("s3", sink.s3.is_some()),
    ];
    let mut wrong = one_of("sink", &given);
    wrong.extend(sink.http.iter().flat_map(|sink| http(sink, delivery)));
    wrong.extend(sink.mqtt.iter().flat_map(|sink| mqtt::sink(sink, delivery)));
    wrong.extend(sink.s3.iter().flat_map(s3));
    wrong
}

/// Checks that a sink can write records of this format.
pub(crate) fn format(sink: &Sink, format: Format) -> Option<(&'static str, String)> {
    if format != Format::Bytes {
        return None;
    }
    if sink.s3.is_some() {
        let why = "its records are Bytes, and a file has a record in each line; set output: Text or \
                   Json in a transform before it";
        return Some(("sink.s3", why.to_owned()));
    }
    let batch = sink.http.as_ref().map_or(1, |http| http.batch);
    (batch > 1).then(|| {
        let why = "its records are Bytes, and a batch has a record in each line; set batch: 1";
        ("sink.http.batch", why.to_owned())
    })
}

/// Sinks that write files of the same names, each with the one before it. A sink has its name, the
/// Kafka source whose topic it reads itself, and its settings.
pub(crate) fn same_names<'a>(sinks: &[(&'a str, usize, &S3Sink)]) -> Vec<(&'a str, &'a str)> {
    let mut same = Vec::new();
    for (place, (name, reads, sink)) in sinks.iter().enumerate() {
        let is_same = |(_, other_reads, other): &&(&str, usize, &S3Sink)| {
            let one = (&sink.endpoint, &sink.bucket, &sink.prefix);
            reads == other_reads && one == (&other.endpoint, &other.bucket, &other.prefix)
        };
        let before = sinks[..place].iter().find(is_same);
        same.extend(before.map(|(before, _, _)| (*name, *before)));
    }
    same
}

/// Exactly one of these fields is to be given.
fn one_of(field: &str, given: &[(&str, bool)]) -> Wrong {
    let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
    let mut present = given.iter().filter(|(_, given)| *given);
    match (present.next(), present.next()) {
        (Some(_), None) => Vec::new(),
        (None, _) => vec![(
            format!(".{field}"),
            format!("give one of {}", names.join(", ")),
        )],
        (Some((first, _)), Some((second, _))) => vec![(
            format!(".{field}.{second}"),
            format!("the {field} has {first} already; make {second} another block"),
        )],
    }
}

fn authentication(field: &str, given: &HttpAuthentication, without: &str) -> Wrong {
    let why = match (&given.token, &given.basic) {
        (None, None) => format!(
            "give token: {{name: <Secret>, key: <key>}}, or basic: {{name: <Secret>}}; {without}"
        ),
        (Some(_), Some(_)) => "token and basic both say who the client is; remove one".to_owned(),
        _ => return Vec::new(),
    };
    vec![(field.to_owned(), why)]
}

/// What is wrong with a URL. `secrets`: the field that names the Secret of this place.
pub(crate) fn url(url: &str, schemes: &[(&str, u16)], secrets: &str) -> Option<String> {
    let why = host_and_port(url, schemes).err()?;
    Some(match why.ends_with("name a Secret") {
        true => format!("{why} in {secrets}"),
        false => why,
    })
}

fn poll(source: &HttpPollSource) -> Wrong {
    let field = ".source.httpPoll";
    let mut wrong = endpoint(field, &source.url, source.authentication.as_ref());
    wrong.extend(headers(field, &source.headers, "if-none-match"));
    if source.interval.as_millis() < INTERVAL_MS_MIN {
        let why = "at least 1s: a shorter one would only load the endpoint";
        wrong.push((format!("{field}.interval"), why.to_owned()));
    }
    wrong
}

fn http(sink: &HttpSink, delivery: Delivery) -> Wrong {
    let mut wrong = endpoint(".sink.http", &sink.url, sink.authentication.as_ref());
    wrong.extend(headers(".sink.http", &sink.headers, "idempotency-key"));
    let why = promise(("an endpoint", "Idempotency-Key"), delivery, sink.delivery);
    wrong.extend(why.map(|why| (".sink.http.delivery".into(), why)));
    wrong
}

/// What is wrong with where an endpoint is, and how it knows the Pipeline.
fn endpoint(field: &str, address: &str, given: Option<&HttpAuthentication>) -> Wrong {
    let why = url(address, &HTTP, "authentication");
    let mut wrong: Wrong = why
        .map(|why| (format!("{field}.url"), why))
        .into_iter()
        .collect();
    if let Some(given) = given {
        let field = format!("{field}.authentication");
        wrong.extend(authentication(&field, given, "or remove authentication"));
    }
    wrong
}

/// What is wrong with headers of requests. `own`: the one that only these requests have.
fn headers(of: &str, headers: &BTreeMap<String, String>, own: &str) -> Wrong {
    let mut wrong = Wrong::new();
    for (name, value) in headers {
        let field = format!("{of}.headers.{name}");
        let is_name = |taken: &&str| name.eq_ignore_ascii_case(taken);
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            let why = "not a name of a header: letters, digits and hyphens";
            wrong.push((field, why.to_owned()));
        } else if TAKEN_HEADERS.iter().chain([&own]).any(is_name) {
            let why = match name.eq_ignore_ascii_case("authorization") {
                true => "remove it, and name a Secret in authentication.token or .basic",
                false => "every request has this header already, with another value; remove it",
            };
            wrong.push((field, why.to_owned()));
        } else if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            let why = "not a value of a header: letters of ASCII without line ends";
            wrong.push((field, why.to_owned()));
        }
    }
    wrong
}

/// What is wrong with what a sink promises in a Pipeline with this delivery. `gets`: who can get a
/// record twice, and by what it can tell.
pub(crate) fn promise(
    (gets, tells): (&str, &str),
    pipeline: Delivery,
    sink: Option<Delivery>,
) -> Option<String> {
    match (pipeline, sink) {
        (Delivery::ExactlyOnce, None) => Some(format!(
            "{gets} can get a record twice, after a failure, and the Pipeline says delivery: \
             ExactlyOnce; say delivery: AtLeastOnce here: it can tell by {tells}"
        )),
        (_, Some(Delivery::ExactlyOnce)) => Some(format!(
            "{gets} can get a record twice, after a failure; only AtLeastOnce can be promised"
        )),
        _ => None,
    }
}

fn s3(sink: &S3Sink) -> Wrong {
    let mut wrong = Wrong::new();
    let endpoint = sink.endpoint.as_ref();
    let why = endpoint.and_then(|endpoint| url(endpoint, &HTTP, "credentials"));
    wrong.extend(why.map(|why| (".sink.s3.endpoint".into(), why)));
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"/!-_.*'()=".contains(&byte);
    let climbs = sink.prefix.split('/').any(|part| part == "..");
    if !sink.prefix.bytes().all(letters) || sink.prefix.starts_with('/') || climbs {
        let why = format!(
            "{:?}: letters, digits and /!-_.*'()= , not beginning with a slash: orders/",
            sink.prefix
        );
        wrong.push((".sink.s3.prefix".into(), why));
    }
    wrong
}
