//! Where records go to.

use crate::definition::Delivery;
use crate::duration::Duration;
use crate::endpoint::{HttpAuthentication, MqttBroker, SecretKey, SecretRef};
use crate::topics::TopicTarget;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where records go to: one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sink {
    /// A topic of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSink>,
    /// An HTTP endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSink>,
    /// A topic of an MQTT broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttSink>,
    /// A bucket of S3, or of a store with its API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Sink>,
}

impl Sink {
    /// Whether its records go outside Kafka: then a stage of its own delivers them.
    pub fn is_external(&self) -> bool {
        self.http.is_some() || self.mqtt.is_some() || self.s3.is_some()
    }
}

/// A topic. Key, headers and timestamp of a record are kept unless a program changed them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSink {
    /// The topic.
    #[serde(flatten)]
    pub target: TopicTarget,
    /// Which partition a record goes to.
    #[serde(default)]
    pub partition: Partitioning,
}

/// Which partition a record goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Partitioning {
    /// The partition that it came from, modulo the topic's number of partitions: records that were
    /// in one partition stay in order in one partition. A record whose key a program changed goes
    /// by the hash of its key.
    #[default]
    Keep,
    /// By the hash of its key, as Kafka's own clients choose it (murmur2). A record without a key
    /// keeps its partition.
    ByKey,
}

/// Sends records to an HTTP endpoint, in the order of their partition. 429, 5xx and what does not
/// answer are tried again without end, with `Retry-After` respected; another 4xx is an error of the
/// record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpSink {
    /// `https://…`, or `http://…` without TLS.
    #[schemars(length(min = 1, max = 2000))]
    pub url: String,
    #[serde(default)]
    pub method: HttpMethod,
    /// Headers of every request, but not Authorization, Connection, Content-Length, Content-Type,
    /// Host, Idempotency-Key and Transfer-Encoding. Secrets do not belong here: everybody who may
    /// read the Pipeline reads them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 20))]
    pub headers: BTreeMap<String, String>,
    /// How the endpoint knows the Pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<HttpAuthentication>,
    /// PEM certificates of the authorities that sign the endpoint's certificate. Default: those
    /// that browsers trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretKey>,
    /// Records of one request, all of one partition. 1: the body is the record. More: one record in
    /// each line (`application/x-ndjson`); records must be JSON or text without line ends.
    #[serde(default = "HttpSink::one")]
    #[schemars(range(min = 1, max = 1000))]
    pub batch: u32,
    /// How long an answer may take.
    #[serde(default = "HttpSink::ten_seconds")]
    pub timeout: Duration,
    /// An endpoint can get a record twice, after a failure: each request has an `Idempotency-Key`
    /// with the record's address, by which it can tell. In a Pipeline with `delivery: ExactlyOnce`,
    /// which is the default, say here that this is known: `AtLeastOnce`, the only value that can be
    /// promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

impl HttpSink {
    fn one() -> u32 {
        1
    }

    fn ten_seconds() -> Duration {
        Duration::of_millis(10_000)
    }
}

/// The method of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HttpMethod {
    #[default]
    #[serde(rename = "POST")]
    Post,
    #[serde(rename = "PUT")]
    Put,
}

/// Publishes records to a topic of an MQTT broker (3.1.1 or 5) at QoS 1, in the order of their
/// partition. What the broker does not acknowledge is published again without end; a record that is
/// larger than its largest packet, or whose content it refuses, is an error of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MqttSink {
    #[serde(flatten)]
    pub broker: MqttBroker,
    /// The topic of all records, such as `orders/eu`. The message is the record's value.
    #[schemars(length(min = 1, max = 1000))]
    pub topic: String,
    /// The broker can get a record twice, after a failure: with version 5 each message has a user
    /// property `idempotency-key` with the record's address, by which a subscriber can tell. In a
    /// Pipeline with `delivery: ExactlyOnce`, which is the default, say here that this is known:
    /// `AtLeastOnce`, the only value that can be promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

/// Writes files of records to a bucket: `<prefix><topic>/<partition>/<first offset>.ndjson.gz`. The
/// first offset is in the name, and a file is never overwritten: each record is in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Sink {
    /// Name of the bucket: lower-case letters, digits, dots and hyphens.
    #[schemars(
        regex(pattern = "^[a-z0-9][a-z0-9.-]*[a-z0-9]$"),
        length(min = 3, max = 63)
    )]
    pub bucket: String,
    /// What names of files begin with, such as `orders/`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 500))]
    pub prefix: String,
    /// The region of the bucket; a store that has none takes the default.
    #[serde(default = "S3Sink::us_east_1")]
    #[schemars(length(min = 1, max = 50))]
    pub region: String,
    /// The URL of a store with S3's API. Default: AWS in that region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 500))]
    pub endpoint: Option<String>,
    /// A Secret with the keys `accessKeyId` and `secretAccessKey`.
    pub credentials: SecretRef,
    /// PEM certificates of the authorities that sign the endpoint's certificate. Default: those
    /// that browsers trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretKey>,
    /// A file is written when its records have this many bytes, before compression.
    #[serde(default = "S3Sink::eight_mebibytes")]
    #[schemars(range(min = 1024, max = 33_554_432))]
    pub file_bytes: u32,
    /// … or when its first record has waited this long.
    #[serde(default = "S3Sink::five_minutes")]
    pub file_every: Duration,
    #[serde(default)]
    pub compression: FileCompression,
}

impl S3Sink {
    fn us_east_1() -> String {
        "us-east-1".to_owned()
    }

    fn eight_mebibytes() -> u32 {
        8 << 20
    }

    fn five_minutes() -> Duration {
        Duration::of_millis(300_000)
    }
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FileCompression {
    None,
    #[default]
    Gzip,
    Zstd,
}
