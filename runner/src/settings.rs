//! The files that a runner is given: the stage document, and how to reach Kafka.

use std::collections::BTreeMap;
use std::path::Path;

use freehold_pipeline::block::Work;
use freehold_pipeline::definition::Delivery;
use freehold_pipeline::replay::Replay;
use freehold_pipeline::stage_document::{DocumentError, StageDocument};
use serde::Deserialize;

use crate::config::{Bounded, Compression, KafkaConfig, Limits, SourceConfig, StageConfig};

/// How a runner reaches Kafka, and its limits. Secrets are paths of files.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientSettings {
    pub kafka: KafkaConfig,
    #[serde(default)]
    pub compression: Compression,
    #[serde(default)]
    pub limits: Limits,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read {file}")]
    Read {
        file: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{file} is not a stage document of this version")]
    Document {
        file: String,
        #[source]
        source: DocumentError,
    },
    #[error("{file} is not valid")]
    Client {
        file: String,
        #[source]
        source: serde_json::Error,
    },
}

/// Reads both files.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn read(
    document: &Path,
    client: &Path,
) -> Result<(StageDocument, ClientSettings), SettingsError> {
    let bytes = |path: &Path| {
        std::fs::read(path).map_err(|source| SettingsError::Read {
            file: path.display().to_string(),
            source,
        })
    };
    let document_bytes = bytes(document)?;
    let client_bytes = bytes(client)?;
    let stage = StageDocument::read(&document_bytes).map_err(|source| SettingsError::Document {
        file: document.display().to_string(),
        source,
    })?;
    let settings = serde_json::from_slice(&client_bytes).map_err(|source| {
        let file = client.display().to_string();
        SettingsError::Client { file, source }
    })?;
    Ok((stage, settings))
}

/// The settings of the loop for a replica of a stage.
///
/// The instance's id is `<group>.<ordinal>`: the same for each start of the replica, so that a new
/// process ends what the one before has left open.
#[must_use]
pub fn stage_config(
    document: &StageDocument,
    client: ClientSettings,
    topics: Vec<String>,
    ordinal: u32,
) -> StageConfig {
    let blocks = document.definition.blocks.iter();
    let sources = blocks.filter_map(|block| {
        let Ok(Work::Source(source)) = block.work() else {
            return None;
        };
        let kafka = source.kafka.as_ref()?;
        let topic = kafka.target.topic.clone()?;
        let source = SourceConfig {
            block: block.name.clone(),
            start: kafka.start,
            on_gap: kafka.on_gap,
            topic: document.topics.get(&topic).cloned().unwrap_or_default(),
        };
        Some((topic, source))
    });
    let config = StageConfig {
        kafka: client.kafka,
        group: document.group.clone(),
        instance: format!("{}.{ordinal}", document.group),
        topics,
        delivery: document.definition.delivery,
        sources: sources.collect(),
        compression: client.compression,
        limits: client.limits,
        bounded: None,
    };
    match &document.replay {
        Some(replay) => replay_config(config, replay),
        None => config,
    }
}

/// The settings of the loop for a replay in a stage's place. It is one process, so that its group
/// and its id can have one name.
fn replay_config(of_stage: StageConfig, replay: &Replay) -> StageConfig {
    let name = format!("{}.replay.{}", of_stage.group, replay.id);
    let mut limits = of_stage.limits;
    if let Some(rate) = replay.records_per_second {
        // Some transactions a second, each with the wait that the rate asks for.
        let records = usize::try_from(rate / 4).unwrap_or(usize::MAX).max(1);
        limits.batch_records_max = limits.batch_records_max.min(records);
    }
    StageConfig {
        group: name.clone(),
        instance: name,
        topics: vec![replay.topic.clone()],
        sources: BTreeMap::new(),
        delivery: match replay.dry_run {
            // Positions without a transaction would be kept by the consumer.
            true => Delivery::ExactlyOnce,
            false => of_stage.delivery,
        },
        bounded: Some(Bounded {
            records_per_second: replay.records_per_second,
            dry_run: replay.dry_run,
        }),
        limits,
        ..of_stage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_pipeline::source::{OnGap, Start};

    fn config(replay: &str) -> StageConfig {
        let document = format!(
            r#"{{"version": 1, "pipeline": "shop/a", "revision": 1, "stage": "in", "group": "g",
                "definition": {{"delivery": "AtLeastOnce", "blocks": []}}, "replay": {replay}}}"#
        );
        let document = StageDocument::read(document.as_bytes()).unwrap();
        let client = serde_json::from_str(r#"{"kafka": {"bootstrap": "b:9092"}}"#).unwrap();
        stage_config(&document, client, vec!["in".to_owned()], 0)
    }

    #[test]
    fn a_replay_reads_dead_letters_up_to_their_end_as_itself() {
        let config =
            config(r#"{"id": "r1", "topic": "dead", "block": "clean", "recordsPerSecond": 100}"#);
        assert_eq!(
            (&*config.group, &*config.instance),
            ("g.replay.r1", "g.replay.r1")
        );
        assert_eq!(config.topics, ["dead"]);
        assert_eq!(config.limits.batch_records_max, 25);
        assert_eq!(config.delivery, Delivery::AtLeastOnce);
        let bounded = config.bounded.unwrap();
        assert_eq!(
            (bounded.records_per_second, bounded.dry_run),
            (Some(100), false)
        );
    }

    #[test]
    fn a_dry_run_keeps_no_position() {
        let config = config(r#"{"id": "r1", "topic": "dead", "block": "clean", "dryRun": true}"#);
        assert_eq!(config.delivery, Delivery::ExactlyOnce);
        assert!(config.bounded.unwrap().dry_run);
    }

    #[test]
    fn a_source_has_what_is_known_of_its_topic() {
        let document = br#"{"version": 1, "pipeline": "shop/a", "revision": 1, "stage": "in",
            "group": "g", "topics": {"orders": {"id": "b", "former": ["a"]}},
            "definition": {"blocks": [{"name": "in", "source": {"kafka":
                {"topic": "orders", "start": "Latest", "onGap": "Earliest"}}}]}}"#;
        let document = StageDocument::read(document).unwrap();
        let client = serde_json::from_str(r#"{"kafka": {"bootstrap": "b:9092"}}"#).unwrap();
        let config = stage_config(&document, client, vec!["orders".to_owned()], 0);
        let source = &config.sources["orders"];
        assert_eq!((&*source.block, source.start), ("in", Start::Latest));
        assert_eq!(source.on_gap, OnGap::Earliest);
        assert_eq!(
            (&*source.topic.id, &*source.topic.former),
            ("b", &["a".to_owned()][..])
        );
    }

    #[test]
    fn a_stage_without_a_replay_has_no_end() {
        let config = config("null");
        assert_eq!((&*config.instance, config.bounded.is_none()), ("g.0", true));
    }
}
