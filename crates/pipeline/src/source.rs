//! Where records come from.

use crate::duration::Duration;
use crate::endpoint::{HttpAuthentication, MqttBroker, SecretKey, SecretRef};
use crate::topics::TopicTarget;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where records come from: one of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// A topic of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSource>,
    /// A Service that takes records by HTTPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// Topics of an MQTT broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttSource>,
    /// An HTTP endpoint that is asked again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_poll: Option<HttpPollSource>,
}

impl Source {
    /// What its records are.
    pub fn format(&self) -> Format {
        let kafka = self.kafka.as_ref().map(|kafka| kafka.format);
        let http = self.http.as_ref().map(|http| http.format);
        let mqtt = self.mqtt.as_ref().map(|mqtt| mqtt.format);
        let poll = self.http_poll.as_ref().map(|poll| poll.format);
        kafka.or(http).or(mqtt).or(poll).unwrap_or_default()
    }

    /// Whether its records come from outside Kafka: then a stage of its own writes them to an
    /// internal topic.
    pub fn is_external(&self) -> bool {
        self.http.is_some() || self.mqtt.is_some() || self.http_poll.is_some()
    }
}

/// A topic that is read by a consumer group of the Pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSource {
    /// The topic.
    #[serde(flatten)]
    pub target: TopicTarget,
    /// What its values are.
    #[serde(default)]
    pub format: Format,
    /// Where a partition is read from that the Pipeline has not read yet.
    #[serde(default)]
    pub start: Start,
    /// What happens when the Pipeline's offsets do not tell where to go on: the topic was deleted and
    /// made anew, or its records were deleted before they were read.
    #[serde(default)]
    pub on_gap: OnGap,
}

/// Takes records by `POST https://<pipeline>-<block>.<namespace>.svc:8443/`. An answer of 200 means
/// that Kafka has them: until then the client sends them again. So a record can be there twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpSource {
    /// What a record is. Json: a body is one document, or an array of them, or, with
    /// `Content-Type: application/x-ndjson`, one in each line. Text and Bytes: a body is one record.
    #[serde(default)]
    pub format: Format,
    /// Who may send: give `token` or `basic`.
    pub authentication: HttpAuthentication,
    /// A Secret with the certificate and the key of the Service (`kubernetes.io/tls`). Default: one
    /// is made, signed by the cluster's CA, which is `ca.crt` in the Secret of every User.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<SecretRef>,
    /// The largest body, in bytes. A larger one is answered with 413.
    #[serde(default = "HttpSource::one_mebibyte")]
    #[schemars(range(min = 1024, max = 10_485_760))]
    pub body_bytes_max: u32,
}

impl HttpSource {
    fn one_mebibyte() -> u32 {
        1 << 20
    }
}

/// Asks an endpoint by `GET` every `interval`. An answer that was seen before, by its ETag or its
/// content, gives no records; after a start of the pod the present one is read once more. The first
/// replica asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpPollSource {
    /// `https://…`, or `http://…` without TLS.
    #[schemars(length(min = 1, max = 2000))]
    pub url: String,
    /// Time between two questions, at least 1s. After a failure the next one comes earlier, or when
    /// `Retry-After` says.
    #[serde(default = "HttpPollSource::one_minute")]
    pub interval: Duration,
    /// What a record is. Json: an answer is one document, or an array of them, or, with
    /// `Content-Type: application/x-ndjson`, one in each line. Text and Bytes: an answer is one
    /// record.
    #[serde(default)]
    pub format: Format,
    /// Headers of every request, but not Authorization, Connection, Content-Length, Content-Type,
    /// Host, If-None-Match and Transfer-Encoding. Secrets do not belong here: everybody who may read
    /// the Pipeline reads them.
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
    /// How long an answer may take.
    #[serde(default = "HttpPollSource::ten_seconds")]
    pub timeout: Duration,
    /// The largest answer, in bytes. A larger one is a failure.
    #[serde(default = "HttpPollSource::one_mebibyte")]
    #[schemars(range(min = 1024, max = 10_485_760))]
    pub body_bytes_max: u32,
}

impl HttpPollSource {
    fn one_minute() -> Duration {
        Duration::of_millis(60_000)
    }

    fn ten_seconds() -> Duration {
        Duration::of_millis(10_000)
    }

    fn one_mebibyte() -> u32 {
        1 << 20
    }
}

/// Subscribes to topics of an MQTT broker (3.1.1 or 5) at QoS 1, with a persistent session. A
/// message is acknowledged when Kafka has it, so a record can be there twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MqttSource {
    #[serde(flatten)]
    pub broker: MqttBroker,
    /// Topic filters, such as `sensors/+/temperature`.
    #[schemars(length(min = 1, max = 50), inner(length(min = 1, max = 1000)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub topics: Vec<String>,
    /// All replicas read: the broker gives each message to one of them (`$share`), so messages of
    /// one topic can come out of order, and retained ones do not come. Not every broker can do it,
    /// and one of version 3.1.1 that cannot does not say so. Default: only the first replica reads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// What a message is. Its topic is the record's key.
    #[serde(default)]
    pub format: Format,
}

/// What the value of a record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// A JSON document: `.` is it.
    #[default]
    Json,
    /// UTF-8 text: `.` is a string.
    Text,
    /// Bytes of any kind: `.` is them, as a string.
    Bytes,
}

/// Where a topic is read from when there is a gap behind what was read of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnGap {
    /// The stage stops until somebody decides: nothing is skipped, and nothing is read twice.
    #[default]
    Stop,
    /// From the first record that the partition has.
    Earliest,
    /// Only what is written from then on.
    Latest,
}

/// Where a partition is read from that has no committed offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Start {
    /// From its first record.
    #[default]
    Earliest,
    /// Only what is written from now on.
    Latest,
}
