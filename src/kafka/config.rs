//! Broker and topic configs, checked against the lists of the chosen version. Pure.
//!
//! The lists in `configs/` are written by `cargo xtask generate` from Kafka's own ConfigDefs.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The versions that Freehold runs, oldest first.
pub const VERSIONS: [&str; 2] = ["4.2.1", "4.3.1"];

/// Keys that Freehold sets itself, with the field of the spec to use instead where there is one.
const OWNED: [(&str, &str); 22] = [
    ("advertised.listeners", "listeners"),
    ("authorizer.class.name", ""),
    ("broker.id", ""),
    ("broker.rack", "nodePools[].zones"),
    ("config.providers", ""),
    ("controller.listener.names", ""),
    ("controller.quorum.bootstrap.servers", ""),
    ("controller.quorum.voters", ""),
    ("early.start.listeners", ""),
    ("inter.broker.listener.name", ""),
    ("listener.security.protocol.map", "listeners"),
    ("listeners", "listeners"),
    ("log.dir", "nodePools[].storage"),
    ("log.dirs", "nodePools[].storage"),
    ("metadata.log.dir", "nodePools[].storage"),
    ("node.id", ""),
    ("principal.builder.class", ""),
    ("process.roles", "nodePools[].roles"),
    ("security.inter.broker.protocol", ""),
    ("super.users", "authorization.superUsers"),
    ("controller.quorum.auto.join.enable", ""),
    ("cordoned.log.dirs", ""),
];

/// Prefixes of keys that Freehold sets itself.
const OWNED_PREFIXES: [&str; 4] = ["ssl.", "sasl.", "listener.name.", "zookeeper."];

/// One config of Kafka.
#[derive(Clone, Debug, Deserialize)]
pub struct Definition {
    /// `INT`, `LONG`, `SHORT`, `DOUBLE`, `BOOLEAN`, `STRING`, `LIST`, `CLASS` or `PASSWORD`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Valid values in the words of Kafka's validator: `[1,...]`, `[0,...,100]`, `[a, b]`, or free text.
    #[serde(default)]
    pub valid: String,
    /// `read-only`, `per-broker` or `cluster-wide` (KIP-226).
    #[serde(default)]
    pub update: String,
    /// In Kafka's words, why it should be used no longer; empty: it may.
    #[serde(default)]
    pub deprecated: String,
}

/// The configs of one version.
#[derive(Clone, Debug, Deserialize)]
pub struct Definitions {
    /// The levels of features that this version of Kafka brings (KIP-584), `metadata.version` among them.
    pub features: BTreeMap<String, i16>,
    pub broker: BTreeMap<String, Definition>,
    pub topic: BTreeMap<String, Definition>,
}

static LISTS: LazyLock<BTreeMap<&'static str, Definitions>> = LazyLock::new(|| {
    let parse = |text| serde_json::from_str(text).expect("the generated lists are valid (a test reads them)");
    BTreeMap::from([("4.2.1", parse(include_str!("configs/4.2.1.json"))), ("4.3.1", parse(include_str!("configs/4.3.1.json")))])
});

/// The lists of a version; `None` for one that Freehold does not run.
pub fn definitions(version: &str) -> Option<&'static Definitions> {
    LISTS.get(version)
}

/// The folders, or `*`, to which a broker is to get nothing new (KIP-1066).
pub const CORDONED: &str = "cordoned.log.dirs";

/// Whether brokers of a version can be told to take nothing new.
pub fn can_cordon(version: &str) -> bool {
    definitions(version).is_some_and(|definitions| definitions.broker.contains_key(CORDONED))
}

/// The feature that says how metadata is written: its level decides which versions can read it.
pub const METADATA_VERSION: &str = "metadata.version";

/// A version's place among those that Freehold runs.
pub fn order(version: &str) -> Option<usize> {
    VERSIONS.iter().position(|known| *known == version)
}

/// True when Kafka takes a change of this broker config without a restart (KIP-226).
pub fn is_dynamic(definitions: &Definitions, key: &str) -> bool {
    definitions.broker.get(key).is_some_and(|definition| ["per-broker", "cluster-wide"].contains(&definition.update.as_str()))
}

/// Why a broker config cannot be taken; `None` when it can.
pub fn refuse_broker_config(definitions: &Definitions, key: &str, value: &str) -> Option<String> {
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == key) {
        let way_out = if instead.is_empty() { "remove it".to_owned() } else { format!("use {instead}") };
        return Some(format!("Freehold sets it; {way_out}"));
    }
    if OWNED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        return Some("Freehold sets keys of this prefix from listeners and certificates; remove it".into());
    }
    refuse(&definitions.broker, key, value)
}

/// Why a topic config cannot be taken; `None` when it can.
pub fn refuse_topic_config(definitions: &Definitions, key: &str, value: &str) -> Option<String> {
    refuse(&definitions.topic, key, value)
}

fn refuse(list: &BTreeMap<String, Definition>, key: &str, value: &str) -> Option<String> {
    match list.get(key) {
        None => {
            let nearest = list.keys().min_by_key(|known| strsim::levenshtein(known, key));
            let hint = nearest.map(|nearest| format!("; the nearest is {nearest}")).unwrap_or_default();
            Some(format!("Kafka of this version has no such config{hint}"))
        }
        Some(definition) => refuse_value(definition, value),
    }
}

fn refuse_value(definition: &Definition, value: &str) -> Option<String> {
    let trimmed = value.trim();
    let number = |why: &str| Some(format!("{value:?} is not {why}"));
    match definition.kind.as_str() {
        "BOOLEAN" if !["true", "false"].contains(&trimmed.to_ascii_lowercase().as_str()) => number("true or false"),
        "SHORT" | "INT" | "LONG" => {
            let (low, high) = match definition.kind.as_str() {
                "SHORT" => (i64::from(i16::MIN), i64::from(i16::MAX)),
                "INT" => (i64::from(i32::MIN), i64::from(i32::MAX)),
                _ => (i64::MIN, i64::MAX),
            };
            match trimmed.parse::<i64>() {
                Ok(found) if (low..=high).contains(&found) => outside(definition, found as f64, value),
                _ => number("a whole number in range"),
            }
        }
        "DOUBLE" => match trimmed.parse::<f64>() {
            Ok(found) if found.is_finite() => outside(definition, found, value),
            _ => number("a number"),
        },
        "STRING" => choice(definition)
            .filter(|choices| !choices.contains(&trimmed))
            .map(|_| format!("{value:?} is not one of {}", definition.valid)),
        "LIST" => choice(definition)
            .filter(|choices| trimmed.split(',').any(|part| !part.trim().is_empty() && !choices.contains(&part.trim())))
            .map(|_| format!("{value:?} holds something else than {}", definition.valid)),
        _ => None,
    }
}

/// `[low,...]` or `[low,...,high]`.
fn outside(definition: &Definition, found: f64, value: &str) -> Option<String> {
    let inner = definition.valid.strip_prefix('[')?.strip_suffix(']')?;
    let (low, high) = inner.split_once(",...")?;
    let low: f64 = low.parse().ok()?;
    let high: f64 = high.strip_prefix(',').map_or(Some(f64::INFINITY), |high| high.parse().ok())?;
    (found < low || found > high).then(|| format!("{value:?} is outside {}", definition.valid))
}

/// `[a, b, c]`.
fn choice(definition: &Definition) -> Option<Vec<&str>> {
    let inner = definition.valid.strip_prefix('[')?.strip_suffix(']')?;
    (!inner.contains("...") && !inner.contains('[')).then(|| inner.split(", ").collect())
}

/// Configs that are set, by key. Ten thousand topics hold two of these each: a few configs take a tenth of the room of
/// a `BTreeMap`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Configs(Box<[(Box<str>, Box<str>)]>);

impl Configs {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    fn place(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(key))
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.place(key).ok().map(|place| &*self.0[place].1)
    }

    /// Sets a config; `None` takes it back to its default.
    pub fn set(&mut self, key: &str, value: Option<String>) {
        match (self.place(key), value) {
            (Ok(place), Some(value)) => self.0[place].1 = value.into(),
            (Ok(place), None) => self.change(|all| drop(all.remove(place))),
            (Err(place), Some(value)) => self.change(|all| all.insert(place, (key.into(), value.into()))),
            (Err(_), None) => {}
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<(Box<str>, Box<str>)>)) {
        let mut all = std::mem::take(&mut self.0).into_vec();
        change(&mut all);
        self.0 = all.into();
    }
}

impl From<BTreeMap<String, String>> for Configs {
    fn from(map: BTreeMap<String, String>) -> Self {
        Self(map.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl From<Configs> for BTreeMap<String, String> {
    fn from(configs: Configs) -> Self {
        configs.0.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_are_what_a_map_of_them_is() {
        let mut configs = Configs::default();
        let mut map = BTreeMap::new();
        for (key, value) in [("b", Some("1")), ("a", Some("2")), ("c", None), ("b", Some("3")), ("d", Some("4")), ("a", None)] {
            configs.set(key, value.map(str::to_owned));
            match value {
                Some(value) => drop(map.insert(key.to_owned(), value.to_owned())),
                None => drop(map.remove(key)),
            }
            assert_eq!(BTreeMap::from(configs.clone()), map);
            assert_eq!(Configs::from(map.clone()), configs);
            assert_eq!(configs.get(key), map.get(key).map(String::as_str));
            assert_eq!(serde_json::to_value(&configs).unwrap(), serde_json::to_value(&map).unwrap());
        }
        assert_eq!(configs.iter().collect::<Vec<_>>(), [("b", "3"), ("d", "4")]);
    }

    fn refuse(key: &str, value: &str) -> Option<String> {
        refuse_broker_config(definitions("4.3.1").unwrap(), key, value)
    }

    #[test]
    fn every_version_has_its_lists() {
        for version in VERSIONS {
            let lists = definitions(version).unwrap();
            assert!(lists.broker.len() > 200 && lists.topic.len() > 25, "{version}");
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        assert!(refuse("min.insync.replica", "2").unwrap().contains("min.insync.replicas"));
    }

    #[test]
    fn owned_keys_name_the_field_to_use() {
        assert!(refuse("log.dirs", "/x").unwrap().contains("nodePools[].storage"));
        assert!(refuse("ssl.keystore.location", "/x").is_some());
        assert!(refuse("broker.rack", "a").unwrap().contains("zones"));
    }

    #[test]
    fn values_are_checked_by_type_range_and_choice() {
        assert_eq!(refuse("min.insync.replicas", "2"), None);
        assert!(refuse("min.insync.replicas", "two").is_some());
        assert!(refuse("min.insync.replicas", "0").is_some());
        assert!(refuse("auto.create.topics.enable", "yes").is_some());
        assert!(refuse("compression.type", "brotli").is_some());
        assert_eq!(refuse("compression.type", "zstd"), None);
        assert_eq!(refuse("log.cleanup.policy", "compact,delete"), None);
        assert!(refuse("log.cleanup.policy", "shred").is_some());
        let topic = definitions("4.3.1").unwrap();
        assert_eq!(refuse_topic_config(topic, "retention.ms", "-1"), None);
        assert!(refuse_topic_config(topic, "retention.ms", "1h").is_some());
        assert!(refuse_topic_config(topic, "min.cleanable.dirty.ratio", "2").is_some());
    }
}
