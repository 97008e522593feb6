//! Makes librdkafka's settings from those of a stage.

use std::path::Path;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use crate::config::{ClientCertificate, KafkaConfig, Mechanism, StageConfig};
use freehold_pipeline::definition::Delivery;

/// A file of the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read the password file {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the password file {path} is empty")]
    Empty { path: String },
}

/// The consumer's settings.
///
/// # Errors
/// The password file cannot be read or is empty.
pub fn consumer(stage: &StageConfig) -> Result<ClientConfig, SecretError> {
    let limits = &stage.limits;
    let mut config = connection(&stage.kafka)?;
    config
        .set("group.id", &stage.group)
        .set("group.instance.id", &stage.instance)
        .set("client.id", &stage.instance)
        // The new protocol (KIP-848) still stalls in librdkafka, and it kills the new one of two
        // members with one id instead of the old one.
        .set("group.protocol", "classic")
        // Cooperative assignors would not keep the partitions of two topics together.
        .set("partition.assignment.strategy", "range")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Where to start is decided by the loop. An offset that is gone is an error, not a jump.
        .set("auto.offset.reset", "error")
        .set("session.timeout.ms", limits.session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", limits.heartbeat_ms.to_string())
        .set(
            "max.poll.interval.ms",
            limits.session_timeout_ms.max(300_000).to_string(),
        )
        .set(
            "queued.max.messages.kbytes",
            limits.read_ahead_kib.to_string(),
        )
        .set("fetch.max.bytes", (2 << 20).to_string())
        .set("max.partition.fetch.bytes", (1 << 20).to_string())
        // A broker answers one fetch at a time: after a rewind the next one waits for the last one.
        .set("fetch.wait.max.ms", "100")
        // The default waits a second after the read-ahead was full once.
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.error.backoff.ms", "200")
        .set("check.crcs", "true")
        // A fetch whose answer is lost stops its broker's partitions for this long.
        .set("socket.timeout.ms", "10000")
        .set("statistics.interval.ms", "2000")
        // A topic that was missing is read this soon after it was made.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set_log_level(RDKafkaLogLevel::Info);
    if stage.bounded.is_some() {
        // It says that markers of transactions are all that is left.
        config.set("enable.partition.eof", "true");
    }
    Ok(config)
}

/// The producer's settings.
///
/// # Errors
/// The password file cannot be read or is empty.
pub fn producer(stage: &StageConfig) -> Result<ClientConfig, SecretError> {
    let limits = &stage.limits;
    let mut config = connection(&stage.kafka)?;
    config
        .set("client.id", &stage.instance)
        .set("enable.idempotence", "true")
        .set("compression.codec", stage.compression.name())
        .set("linger.ms", "5")
        // Java's partitioner: a stage writes a key to the same partition as Java's clients do.
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", "200000")
        .set(
            "queue.buffering.max.kbytes",
            limits.write_behind_kib.to_string(),
        )
        // Half of a topic's default limit: a full batch is never refused for its size there.
        .set("batch.size", "500000")
        .set("message.max.bytes", limits.output_bytes_max.to_string())
        .set("retry.backoff.ms", "50")
        // An output to a topic that does not exist fails before the transaction times out.
        .set(
            "topic.metadata.propagation.max.ms",
            (limits.transaction_timeout_ms / 3).to_string(),
        )
        .set(
            "message.timeout.ms",
            limits.transaction_timeout_ms.to_string(),
        );
    if stage.delivery == Delivery::ExactlyOnce {
        config
            .set("transactional.id", &stage.instance)
            .set(
                "transaction.timeout.ms",
                limits.transaction_timeout_ms.to_string(),
            )
            .set(
                "socket.timeout.ms",
                (limits.transaction_timeout_ms * 2 / 3)
                    .max(1_000)
                    .to_string(),
            )
            // The log of transactions tells about retries of EndTxn, which no other call does.
            .set("debug", "eos")
            .set_log_level(RDKafkaLogLevel::Debug);
    } else {
        config.set_log_level(RDKafkaLogLevel::Info);
    }
    Ok(config)
}

fn connection(kafka: &KafkaConfig) -> Result<ClientConfig, SecretError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.bootstrap)
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "2000")
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("allow.auto.create.topics", "false")
        .set("enable.metrics.push", "false");
    let protocol = match (&kafka.tls, &kafka.scram) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    if let Some(tls) = &kafka.tls {
        config.set("ssl.endpoint.identification.algorithm", "https");
        if let Some(ca) = &tls.ca {
            config.set("ssl.ca.location", ca.to_string_lossy());
        }
        if let Some(ClientCertificate { certificate, key }) = &tls.client {
            config
                .set("ssl.certificate.location", certificate.to_string_lossy())
                .set("ssl.key.location", key.to_string_lossy());
        }
    }
    if let Some(scram) = &kafka.scram {
        let mechanism = match scram.mechanism {
            Mechanism::Sha256 => "SCRAM-SHA-256",
            Mechanism::Sha512 => "SCRAM-SHA-512",
        };
        config
            .set("sasl.mechanism", mechanism)
            .set("sasl.username", &scram.user)
            .set("sasl.password", password(&scram.password_file)?);
    }
    Ok(config)
}

fn password(file: &Path) -> Result<String, SecretError> {
    let path = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|source| SecretError::Read {
        path: path.clone(),
        source,
    })?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(SecretError::Empty { path });
    }
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Scram, StageConfig};

    fn stage(delivery: &str) -> StageConfig {
        serde_json::from_str(&format!(
            r#"{{"kafka": {{"bootstrap": "b:9092"}}, "group": "g", "instance": "i-0",
                "topics": ["t"], "delivery": "{delivery}"}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_replica_has_one_id_for_the_group_and_for_transactions() {
        let stage = stage("ExactlyOnce");
        let (reads, writes) = (consumer(&stage).unwrap(), producer(&stage).unwrap());
        assert_eq!(
            reads.get("group.instance.id"),
            writes.get("transactional.id")
        );
        assert_eq!(reads.get("isolation.level"), Some("read_committed"));
        assert_eq!(reads.get("enable.auto.commit"), Some("false"));
    }

    #[test]
    fn at_least_once_has_no_transactions() {
        let writes = producer(&stage("AtLeastOnce")).unwrap();
        assert_eq!(writes.get("transactional.id"), None);
        assert_eq!(writes.get("enable.idempotence"), Some("true"));
    }

    #[test]
    fn librdkafka_accepts_the_settings() {
        let stage = stage("ExactlyOnce");
        assert!(consumer(&stage).unwrap().create_native_config().is_ok());
        assert!(producer(&stage).unwrap().create_native_config().is_ok());
    }

    #[test]
    fn the_password_comes_from_its_file_without_the_line_end() {
        let folder = std::env::temp_dir().join(format!("runner-password-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("password");
        let mut stage = stage("ExactlyOnce");
        stage.kafka.scram = Some(Scram {
            user: "u".into(),
            password_file: file.clone(),
            mechanism: Mechanism::Sha512,
        });
        assert!(matches!(consumer(&stage), Err(SecretError::Read { .. })));
        std::fs::write(&file, "\n").unwrap();
        assert!(matches!(consumer(&stage), Err(SecretError::Empty { .. })));
        std::fs::write(&file, " pass word \n").unwrap();
        let reads = consumer(&stage).unwrap();
        assert_eq!(reads.get("sasl.password"), Some(" pass word "));
        assert_eq!(reads.get("security.protocol"), Some("sasl_plaintext"));
        // ClientConfig is printed without secrets.
        assert!(!format!("{reads:?}").contains("pass word"));
        assert!(!format!("{:?}", stage).contains("pass word"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
