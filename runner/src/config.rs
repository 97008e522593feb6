//! The settings of a stage. Secrets are paths of files: the settings can be logged.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use freehold_pipeline::definition::Delivery;
use freehold_pipeline::source::{OnGap, Start};
use freehold_pipeline::stage_document::TopicIds;
use serde::Deserialize;

/// How to reach Kafka and who the client is.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, separated by commas.
    pub bootstrap: String,
    /// None: no TLS.
    pub tls: Option<Tls>,
    /// None: no SASL.
    pub scram: Option<Scram>,
}

/// TLS to the brokers. The host name in a broker's certificate is always checked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the CA that signs the brokers' certificates. None: the system's CAs.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key, for mutual TLS.
    pub client: Option<ClientCertificate>,
}

/// PEM files of the client's certificate and its key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// SASL/SCRAM.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scram {
    pub user: String,
    /// A file with the password. A line end at its end is not part of the password.
    pub password_file: PathBuf,
    #[serde(default)]
    pub mechanism: Mechanism,
}

/// The SCRAM mechanism.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub enum Mechanism {
    #[serde(rename = "SCRAM-SHA-256")]
    Sha256,
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    Sha512,
}

/// How producers compress batches.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    None,
    #[default]
    Lz4,
    Zstd,
    Snappy,
    Gzip,
}

impl Compression {
    /// librdkafka's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Snappy => "snappy",
            Self::Gzip => "gzip",
        }
    }
}

/// A stage: what it reads, who it is, its limits.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StageConfig {
    pub kafka: KafkaConfig,
    /// The consumer group.
    pub group: String,
    /// The `group.instance.id` and `transactional.id`: the same for each start of this replica, and
    /// different from every other replica's.
    pub instance: String,
    /// The topics to read.
    pub topics: Vec<String>,
    #[serde(default)]
    pub delivery: Delivery,
    /// What is said and known of each topic that is read.
    #[serde(default)]
    pub sources: BTreeMap<String, SourceConfig>,
    #[serde(default)]
    pub compression: Compression,
    #[serde(default)]
    pub limits: Limits,
    /// What it reads has an end. None: it reads until it is asked to end.
    #[serde(default)]
    pub bounded: Option<Bounded>,
}

/// A topic that is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SourceConfig {
    /// The block that reads it.
    pub block: String,
    /// Where it is read from at first.
    pub start: Start,
    /// Where it is read from when its offsets do not tell.
    pub on_gap: OnGap,
    pub topic: TopicIds,
}

/// A stage that reads up to the ends that its partitions have when it first starts. There it stays
/// until it is asked to end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bounded {
    /// Most records a second.
    pub records_per_second: Option<u32>,
    /// Nothing is written and no position is kept.
    pub dry_run: bool,
}

/// Limits of time and memory.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Records in one transaction, at most.
    pub batch_records_max: usize,
    /// Bytes of keys and values read in one transaction; the last record may exceed it.
    pub batch_bytes_max: usize,
    /// How long a batch waits for more records. A reader at `read_committed` waits as long.
    pub batch_wait_ms_max: u64,
    /// The broker aborts a transaction that is open for longer.
    pub transaction_timeout_ms: u64,
    /// The group gives a silent member's partitions away after this time. It must be longer than the
    /// transaction timeout: else a new owner waits for the old one's open transaction.
    pub session_timeout_ms: u64,
    /// How often the member tells the group that it lives. An owner whose place was taken by another
    /// process learns it from the answer.
    pub heartbeat_ms: u64,
    /// How long a revoke waits for the open transaction to end.
    pub revoke_budget_ms: u64,
    /// The largest output in bytes.
    pub output_bytes_max: usize,
    /// Records read ahead, in KiB. librdkafka needs some hundred bytes more for each record.
    pub read_ahead_kib: usize,
    /// Outputs that wait to be sent, in KiB.
    pub write_behind_kib: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_records_max: 10_000,
            batch_bytes_max: 2 << 20,
            batch_wait_ms_max: 50,
            transaction_timeout_ms: 15_000,
            session_timeout_ms: 20_000,
            heartbeat_ms: 2_000,
            revoke_budget_ms: 5_000,
            output_bytes_max: 8 << 20,
            read_ahead_kib: 3 << 10,
            write_behind_kib: 32 << 10,
        }
    }
}

impl Limits {
    /// The transaction timeout.
    #[must_use]
    pub fn transaction_timeout(&self) -> Duration {
        Duration::from_millis(self.transaction_timeout_ms)
    }

    /// After this time an operation of a transaction is taken as stuck. The broker has aborted the
    /// transaction by then.
    #[must_use]
    pub fn watchdog(&self) -> Duration {
        self.transaction_timeout() + Duration::from_secs(5)
    }
}

/// A setting that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    pub field: &'static str,
    pub problem: String,
}

impl StageConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// The first field that cannot work.
    pub fn check(&self) -> Result<(), ConfigError> {
        let limits = &self.limits;
        let checks: [(&'static str, bool, &str); 8] = [
            (
                "kafka.bootstrap",
                self.kafka.bootstrap.is_empty(),
                "is empty",
            ),
            ("group", self.group.is_empty(), "is empty"),
            ("instance", self.instance.is_empty(), "is empty"),
            ("topics", self.topics.is_empty(), "is empty"),
            (
                "limits.batchRecordsMax",
                limits.batch_records_max == 0,
                "must not be 0",
            ),
            (
                "limits.transactionTimeoutMs",
                limits.transaction_timeout_ms < 1_000,
                "must be at least 1000",
            ),
            (
                "limits.sessionTimeoutMs",
                limits.session_timeout_ms <= limits.transaction_timeout_ms,
                "must be longer than transactionTimeoutMs",
            ),
            (
                "limits.heartbeatMs",
                limits.heartbeat_ms == 0 || limits.heartbeat_ms > limits.session_timeout_ms / 3,
                "must be at most a third of sessionTimeoutMs",
            ),
        ];
        match checks.into_iter().find(|(_, wrong, _)| *wrong) {
            Some((field, _, problem)) => Err(ConfigError {
                field,
                problem: problem.to_owned(),
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(limits: &str) -> StageConfig {
        serde_json::from_str(&format!(
            r#"{{"kafka": {{"bootstrap": "b:9092"}}, "group": "g", "instance": "i",
                "topics": ["t"], "limits": {limits}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn defaults_are_good_settings() {
        assert_eq!(config("{}").check(), Ok(()));
    }

    #[test]
    fn a_session_must_outlive_a_transaction() {
        let error = config(r#"{"sessionTimeoutMs": 15000}"#)
            .check()
            .unwrap_err();
        assert_eq!(error.field, "limits.sessionTimeoutMs");
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let error = serde_json::from_str::<KafkaConfig>(r#"{"bootstrap": "b", "password": "x"}"#);
        assert!(error.unwrap_err().to_string().contains("password"));
    }
}
