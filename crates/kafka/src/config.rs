//! Validates broker and topic configs against the lists of the chosen Kafka version. Pure.
//!
//! `cargo xtask generate` writes the lists in `configs/` from Kafka's own ConfigDefs.

use super::{config_limits, config_values};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The Kafka versions that Freehold runs, oldest first.
pub const VERSIONS: [&str; 2] = ["4.2.1", "4.3.1"];

/// Keys that Freehold sets itself, each with the field of the spec to use instead if there is one.
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

/// Thread pools whose size brokers change without a restart, with Kafka's default size. A change
/// must at least halve and at most double the number in force; Kafka refuses anything else,
/// together with every other config of the same request (`DynamicThreadPool`, `SocketServer`,
/// `LogCleaner` and `DynamicRemoteLogConfig`).
const THREAD_COUNTS: [(&str, u32); 10] = [
    ("background.threads", 10),
    ("log.cleaner.threads", 1),
    ("num.io.threads", 8),
    ("num.network.threads", 3),
    ("num.recovery.threads.per.data.dir", 2),
    ("num.replica.fetchers", 1),
    ("remote.log.manager.copier.thread.pool.size", 10),
    ("remote.log.manager.expiration.thread.pool.size", 10),
    ("remote.log.manager.follower.thread.pool.size", 2),
    ("remote.log.reader.threads", 10),
];

/// Keys that the controller reads, or that must be the same on all brokers: a pool cannot have its
/// own value. Under eligible leader replicas (KIP-966) Kafka refuses `min.insync.replicas` for a
/// single broker.
const CLUSTER_WIDE: [&str; 13] = [
    "default.replication.factor",
    "delete.topic.enable",
    "min.insync.replicas",
    "num.partitions",
    "offsets.topic.num.partitions",
    "offsets.topic.replication.factor",
    "share.coordinator.state.topic.min.isr",
    "share.coordinator.state.topic.num.partitions",
    "share.coordinator.state.topic.replication.factor",
    "transaction.state.log.min.isr",
    "transaction.state.log.num.partitions",
    "transaction.state.log.replication.factor",
    "unclean.leader.election.enable",
];

/// One config, as Kafka defines it.
#[derive(Clone, Debug, Deserialize)]
pub struct Definition {
    /// `INT`, `LONG`, `SHORT`, `DOUBLE`, `BOOLEAN`, `STRING`, `LIST`, `CLASS` or `PASSWORD`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Valid values in the notation of Kafka's validators: `[1,...]`, `[0,...,100]`, `[a, b]`, or
    /// free text.
    #[serde(default)]
    pub valid: String,
    /// `read-only`, `per-broker` or `cluster-wide` (KIP-226).
    #[serde(default)]
    pub update: String,
    /// In Kafka's words, why the config should no longer be used; empty: it is not deprecated.
    #[serde(default)]
    pub deprecated: String,
}

/// The configs of one Kafka version.
#[derive(Clone, Debug, Deserialize)]
pub struct Definitions {
    /// The levels of features that this version of Kafka supports (KIP-584), including
    /// `metadata.version`.
    pub features: BTreeMap<String, i16>,
    pub broker: BTreeMap<String, Definition>,
    pub topic: BTreeMap<String, Definition>,
}

static LISTS: LazyLock<BTreeMap<&'static str, Definitions>> = LazyLock::new(|| {
    let parse = |text| {
        serde_json::from_str(text).expect("the generated lists are valid (a test reads them)")
    };
    BTreeMap::from([
        ("4.2.1", parse(include_str!("configs/4.2.1.json"))),
        ("4.3.1", parse(include_str!("configs/4.3.1.json"))),
    ])
});

/// The configs of a version; `None` if Freehold does not run that version.
pub fn definitions(version: &str) -> Option<&'static Definitions> {
    LISTS.get(version)
}

/// The log folders in which a broker places no new replicas, or `*` for all (KIP-1066).
pub const CORDONED: &str = "cordoned.log.dirs";

/// Whether brokers of a version have `cordoned.log.dirs`.
pub fn can_cordon(version: &str) -> bool {
    definitions(version).is_some_and(|definitions| definitions.broker.contains_key(CORDONED))
}

/// The feature for the format of the metadata: its level decides which versions can read them.
pub const METADATA_VERSION: &str = "metadata.version";

/// The position of a version in [`VERSIONS`].
pub fn order(version: &str) -> Option<usize> {
    VERSIONS.iter().position(|known| *known == version)
}

/// True when Kafka applies a change of this broker config without a restart (KIP-226).
pub fn is_dynamic(definitions: &Definitions, key: &str) -> bool {
    definitions.broker.get(key).is_some_and(|definition| {
        ["per-broker", "cluster-wide"].contains(&definition.update.as_str())
    })
}

/// The keys of all thread pools.
pub fn thread_keys() -> impl Iterator<Item = &'static str> {
    THREAD_COUNTS.iter().map(|(key, _)| *key)
}

/// Kafka's default number of threads, if the key is that of a thread pool whose size changes in
/// steps.
pub fn threads_default(key: &str) -> Option<u32> {
    THREAD_COUNTS
        .iter()
        .find(|(known, _)| *known == key)
        .map(|(_, default)| *default)
}

/// The next number of threads on the way to `wanted` that each of these brokers accepts, given the
/// number that each has in force. If their numbers are so different that none suits all, returns
/// one that suits the broker farthest from `wanted`: the other brokers are nearer to it, and follow
/// in later steps.
pub fn threads_step(in_force: &[u32], wanted: u32) -> u32 {
    let wanted = wanted.max(1);
    let range = |current: u32| ((current / 2).max(1), current.saturating_mul(2).max(1));
    let low = in_force
        .iter()
        .map(|current| range(*current).0)
        .max()
        .unwrap_or(wanted);
    let high = in_force
        .iter()
        .map(|current| range(*current).1)
        .min()
        .unwrap_or(wanted);
    if low <= high {
        return wanted.clamp(low, high);
    }
    let distance = |current: &&u32| {
        f64::from((**current).max(wanted)) / f64::from((**current).min(wanted).max(1))
    };
    let farthest = in_force
        .iter()
        .max_by(|a, b| distance(a).total_cmp(&distance(b)));
    farthest.map_or(wanted, |current| {
        wanted.clamp(range(*current).0, range(*current).1)
    })
}

/// Keys whose values are prefixes of the configs for the remote log's plugins (KIP-405), with
/// Kafka's defaults.
const PLUGIN_PREFIXES: [(&str, &str); 2] = [
    ("remote.log.storage.manager.impl.prefix", "rsm.config."),
    ("remote.log.metadata.manager.impl.prefix", "rlmm.config."),
];

/// Keys that name classes to which Kafka passes all configs, including those that it does not know.
const PLUGIN_CLASSES: [&str; 8] = [
    "alter.config.policy.class.name",
    "client.quota.callback.class",
    "create.topic.policy.class.name",
    "group.consumer.assignors",
    "group.share.assignors",
    "kafka.metrics.reporters",
    "metric.reporters",
    "replica.selector.class",
];

/// The plugins that a spec names, and which configs they may be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plugins {
    /// The prefixes of their keys.
    prefixes: Vec<String>,
    /// A key that names a plugin class which receives all configs.
    class: Option<&'static str>,
}

impl Plugins {
    /// The plugins in these configs. Later configs override earlier ones.
    pub fn of<'a>(
        definitions: &Definitions,
        configs: impl Iterator<Item = (&'a String, &'a String)>,
    ) -> Self {
        let configs: BTreeMap<&str, &str> = configs
            .map(|(key, value)| (key.as_str(), value.trim()))
            .collect();
        let known = PLUGIN_PREFIXES
            .iter()
            .filter(|(key, _)| definitions.broker.contains_key(*key));
        let prefix =
            |(key, default): &(&str, &str)| configs.get(key).copied().unwrap_or(default).to_owned();
        let is_named = |key: &&&str| {
            configs
                .get(**key)
                .is_some_and(|value| value.contains('.') && !value.starts_with("org.apache.kafka."))
        };
        Self {
            prefixes: known
                .map(prefix)
                .filter(|prefix| !prefix.is_empty())
                .collect(),
            class: PLUGIN_CLASSES.iter().find(is_named).copied(),
        }
    }

    fn have(&self, key: &str) -> bool {
        self.prefixes
            .iter()
            .any(|prefix| key.len() > prefix.len() && key.starts_with(prefix.as_str()))
    }
}

/// The result of checking one config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    Good,
    /// Kafka does not know the key and passes it to a plugin. The text explains this to the user.
    ForPlugins(String),
    Refused(String),
}

/// Checks a config of one node pool.
pub fn check_pool_config(
    definitions: &Definitions,
    plugins: &Plugins,
    key: &str,
    value: &str,
) -> Checked {
    if CLUSTER_WIDE.contains(&key) {
        return Checked::Refused(format!(
            "it holds for the whole cluster, not for the nodes of a pool; set it in spec.config[{key}]"
        ));
    }
    check_broker_config(definitions, plugins, key, value)
}

/// Checks a broker config.
pub fn check_broker_config(
    definitions: &Definitions,
    plugins: &Plugins,
    key: &str,
    value: &str,
) -> Checked {
    if let Some((_, instead)) = OWNED.iter().find(|(owned, _)| *owned == key) {
        let way_out = if instead.is_empty() {
            "remove it".to_owned()
        } else {
            format!("use {instead}")
        };
        return Checked::Refused(format!("Freehold sets it; {way_out}"));
    }
    if OWNED_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        return Checked::Refused(
            "Freehold sets keys of this prefix from listeners and certificates; remove it".into(),
        );
    }
    let known = definitions.broker.contains_key(key);
    if !known && is_key(key) && config_values::refuse(value).is_none() {
        if plugins.have(key) {
            return Checked::Good;
        }
        let is_near = |known: &String| {
            known.len().abs_diff(key.len()) <= TYPO_MAX
                && strsim::levenshtein(known, key) <= TYPO_MAX
        };
        if let Some(class) = plugins
            .class
            .filter(|_| !definitions.broker.keys().any(is_near))
        {
            return Checked::ForPlugins(format!(
                "Kafka has no such config; it is handed to what {class} names"
            ));
        }
    }
    refuse(&definitions.broker, key, value)
        .or_else(|| config_limits::refuse(key, value))
        .map_or(Checked::Good, Checked::Refused)
}

/// An unknown key that differs from a known one by at most this many edits is taken for a typing
/// error.
const TYPO_MAX: usize = 2;

/// Whether a properties file of Kafka may hold this key. No config has a longer one.
fn is_key(key: &str) -> bool {
    (1..=KEY_CHARS_MAX).contains(&key.len())
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// The longest key that is accepted.
const KEY_CHARS_MAX: usize = 249;

/// Why a topic config is refused; `None` if it is valid.
pub fn refuse_topic_config(definitions: &Definitions, key: &str, value: &str) -> Option<String> {
    refuse(&definitions.topic, key, value)
}

fn refuse(list: &BTreeMap<String, Definition>, key: &str, value: &str) -> Option<String> {
    match list.get(key) {
        None if !is_key(key) => Some(format!(
            "not a key: at most {KEY_CHARS_MAX} letters, digits, dots, - and _; correct it"
        )),
        None => {
            let hint = nearest(list, key)
                .map(|nearest| format!("; the nearest is {nearest}"))
                .unwrap_or_default();
            Some(format!("Kafka of this version has no such config{hint}"))
        }
        Some(definition) => refuse_value(definition, value),
    }
}

/// Longer keys are not compared with Kafka's: none of those is so long, and the comparison would
/// take long.
const MISSPELT_CHARS_MAX: usize = 100;

/// The known key that is nearest to a misspelt one. Compares only keys of about the same length.
fn nearest<'a>(list: &'a BTreeMap<String, Definition>, key: &str) -> Option<&'a String> {
    let about_as_long = |known: &&String| known.len().abs_diff(key.len()) <= (key.len() / 2).max(4);
    let known = list
        .keys()
        .filter(|_| key.len() <= MISSPELT_CHARS_MAX)
        .filter(about_as_long);
    known.min_by_key(|known| strsim::levenshtein(known, key))
}

fn refuse_value(definition: &Definition, value: &str) -> Option<String> {
    if let Some(why) = config_values::refuse(value) {
        return Some(why);
    }
    let trimmed = value.trim();
    let number = |why: &str| Some(format!("{value:?} is not {why}"));
    match definition.kind.as_str() {
        "BOOLEAN" if !["true", "false"].contains(&trimmed.to_ascii_lowercase().as_str()) => {
            number("true or false")
        }
        "SHORT" | "INT" | "LONG" => {
            let (low, high) = match definition.kind.as_str() {
                "SHORT" => (i64::from(i16::MIN), i64::from(i16::MAX)),
                "INT" => (i64::from(i32::MIN), i64::from(i32::MAX)),
                _ => (i64::MIN, i64::MAX),
            };
            match trimmed.parse::<i64>() {
                Ok(found) if (low..=high).contains(&found) => {
                    outside(definition, found as f64, value)
                }
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
            .filter(|choices| {
                trimmed
                    .split(',')
                    .any(|part| !part.trim().is_empty() && !choices.contains(&part.trim()))
            })
            .map(|_| format!("{value:?} holds something else than {}", definition.valid)),
        _ => None,
    }
}

/// `[low,...]` or `[low,...,high]`.
fn outside(definition: &Definition, found: f64, value: &str) -> Option<String> {
    let inner = definition.valid.strip_prefix('[')?.strip_suffix(']')?;
    let (low, high) = inner.split_once(",...")?;
    let low: f64 = low.parse().ok()?;
    let high: f64 = high
        .strip_prefix(',')
        .map_or(Some(f64::INFINITY), |high| high.parse().ok())?;
    (found < low || found > high).then(|| format!("{value:?} is outside {}", definition.valid))
}

/// `[a, b, c]`.
fn choice(definition: &Definition) -> Option<Vec<&str>> {
    let inner = definition.valid.strip_prefix('[')?.strip_suffix(']')?;
    (!inner.contains("...") && !inner.contains('[')).then(|| inner.split(", ").collect())
}

/// Configs that are set, by key. Ten thousand topics hold two of these each; for few configs this
/// takes a tenth of the memory of a `BTreeMap`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Configs(Box<[(Box<str>, Box<str>)]>);

impl Configs {
    /// True when no config is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    fn place(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(key))
    }

    /// The value of a config; `None` if it is not set.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.place(key).ok().map(|place| &*self.0[place].1)
    }

    /// Sets a config; `None` resets it to its default.
    pub fn set(&mut self, key: &str, value: Option<String>) {
        match (self.place(key), value) {
            (Ok(place), Some(value)) => self.0[place].1 = value.into(),
            (Ok(place), None) => self.change(|all| drop(all.remove(place))),
            (Err(place), Some(value)) => {
                self.change(|all| all.insert(place, (key.into(), value.into())))
            }
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
        Self(
            map.into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

impl From<Configs> for BTreeMap<String, String> {
    fn from(configs: Configs) -> Self {
        configs
            .0
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_are_what_a_map_of_them_is() {
        let mut configs = Configs::default();
        let mut map = BTreeMap::new();
        for (key, value) in [
            ("b", Some("1")),
            ("a", Some("2")),
            ("c", None),
            ("b", Some("3")),
            ("d", Some("4")),
            ("a", None),
        ] {
            configs.set(key, value.map(str::to_owned));
            match value {
                Some(value) => drop(map.insert(key.to_owned(), value.to_owned())),
                None => drop(map.remove(key)),
            }
            assert_eq!(BTreeMap::from(configs.clone()), map);
            assert_eq!(Configs::from(map.clone()), configs);
            assert_eq!(configs.get(key), map.get(key).map(String::as_str));
            assert_eq!(
                serde_json::to_value(&configs).unwrap(),
                serde_json::to_value(&map).unwrap()
            );
        }
        assert_eq!(configs.iter().collect::<Vec<_>>(), [("b", "3"), ("d", "4")]);
    }

    fn check(others: &[(&str, &str)], key: &str, value: &str) -> Checked {
        let definitions = definitions("4.3.1").unwrap();
        let others: BTreeMap<String, String> = others
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        check_broker_config(
            definitions,
            &Plugins::of(definitions, others.iter()),
            key,
            value,
        )
    }

    fn refuse(key: &str, value: &str) -> Option<String> {
        match check(&[], key, value) {
            Checked::Good => None,
            Checked::ForPlugins(words) => panic!("{words}"),
            Checked::Refused(why) => Some(why),
        }
    }

    #[test]
    fn keys_below_a_prefix_that_another_key_names_are_a_plugin_s() {
        assert_eq!(
            refuse("rsm.config.chunk.size", "4194304"),
            None,
            "the prefix by default"
        );
        assert_eq!(
            refuse(
                "rlmm.config.remote.log.metadata.topic.replication.factor",
                "1"
            ),
            None
        );
        let own = [("remote.log.storage.manager.impl.prefix", "tiered.")];
        assert_eq!(check(&own, "tiered.bucket", "records"), Checked::Good);
        assert!(
            matches!(
                check(&own, "rsm.config.chunk.size", "1"),
                Checked::Refused(_)
            ),
            "the prefix is another"
        );
        assert!(
            matches!(check(&own, "tiered.", "1"), Checked::Refused(_)),
            "the prefix alone is no key"
        );
        // A prefix cannot make a plugin's config of a key that Freehold sets or that Kafka knows.
        let wide = [("remote.log.storage.manager.impl.prefix", "l")];
        assert!(matches!(
            check(&wide, "log.dirs", "/x"),
            Checked::Refused(_)
        ));
        assert!(matches!(
            check(&wide, "log.retention.hours", "many"),
            Checked::Refused(_)
        ));
    }

    #[test]
    fn a_plugin_s_own_keys_are_taken_with_a_warning_and_slips_of_the_finger_are_not() {
        let reporters = [("metric.reporters", "com.example.Reporter")];
        let Checked::ForPlugins(words) = check(&reporters, "example.reporter.interval.ms", "1000")
        else {
            panic!()
        };
        assert!(words.contains("metric.reporters"), "{words}");
        assert!(matches!(
            check(&reporters, "min.insync.replica", "2"),
            Checked::Refused(_)
        ));
        assert!(refuse("example.reporter.interval.ms", "1000").is_some());
        let kafka_s_own = [(
            "metric.reporters",
            "org.apache.kafka.common.metrics.JmxReporter",
        )];
        assert!(matches!(
            check(&kafka_s_own, "example.reporter.interval.ms", "1000"),
            Checked::Refused(_)
        ));
    }

    #[test]
    fn a_key_that_can_be_none_is_refused_before_it_is_compared_with_all_others() {
        assert!(refuse(&"k".repeat(1_000_000), "1").unwrap().len() < 200);
        assert!(
            refuse("log.retention hours", "1")
                .unwrap()
                .contains("not a key")
        );
    }

    #[test]
    fn thread_counts_change_in_steps_that_every_broker_takes() {
        let steps = |mut current: u32, wanted: u32| {
            let mut all = Vec::new();
            while current != wanted {
                let next = threads_step(&[current], wanted);
                assert!(
                    next >= 1 && next >= current / 2 && next <= current * 2,
                    "{current} to {next}"
                );
                all.push(next);
                current = next;
                assert!(all.len() < 40, "it never ends: {all:?}");
            }
            all
        };
        assert_eq!(steps(3, 12), [6, 12]);
        assert_eq!(steps(1, 4), [2, 4]);
        assert_eq!(steps(24, 3), [12, 6, 3]);
        assert_eq!(steps(3, 1), [1], "3 / 2 is 1 for Kafka");
        assert_eq!(steps(1, 1000).last(), Some(&1000));
        assert_eq!(threads_step(&[8, 8, 16], 64), 16, "what the lowest takes");
        assert_eq!(threads_step(&[], 12), 12);
        // One broker was started with the new number and another one has the old one: both reach
        // the new number.
        let (mut old, mut new) = (3, 24);
        for _ in 0..6 {
            let next = threads_step(&[old, new], 24);
            for one in [&mut old, &mut new] {
                if next >= *one / 2 && next <= *one * 2 {
                    *one = next;
                }
            }
        }
        assert_eq!((old, new), (24, 24));
    }

    #[test]
    fn thread_counts_are_dynamic_configs_of_every_version() {
        for version in VERSIONS {
            let lists = definitions(version).unwrap();
            for (key, _) in THREAD_COUNTS {
                assert!(is_dynamic(lists, key), "{key} of {version}");
            }
            for key in CLUSTER_WIDE {
                assert!(lists.broker.contains_key(key), "{key} of {version}");
            }
            let threads = lists.broker.iter().filter(|(key, definition)| {
                key.contains("thread") && definition.update == "cluster-wide"
            });
            assert!(threads.clone().count() > 5);
            threads.for_each(|(key, _)| {
                assert!(
                    threads_default(key).is_some(),
                    "{key} of {version} would be changed in one step"
                )
            });
        }
        assert!(refuse("log.cleaner.threads", "0").is_some());
        assert!(refuse("listener.name.tls.num.network.threads", "6").is_some());
    }

    #[test]
    fn a_pool_has_no_config_of_the_whole_cluster() {
        let check = |key: &str| {
            check_pool_config(definitions("4.3.1").unwrap(), &Plugins::default(), key, "2")
        };
        assert!(
            matches!(check("min.insync.replicas"), Checked::Refused(why) if why.contains("spec.config[min.insync.replicas]"))
        );
        assert!(matches!(
            check("default.replication.factor"),
            Checked::Refused(_)
        ));
        assert_eq!(check("num.io.threads"), Checked::Good);
    }

    #[test]
    fn every_version_has_its_lists() {
        for version in VERSIONS {
            let lists = definitions(version).unwrap();
            assert!(
                lists.broker.len() > 200 && lists.topic.len() > 25,
                "{version}"
            );
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        assert!(
            refuse("min.insync.replica", "2")
                .unwrap()
                .contains("min.insync.replicas")
        );
    }

    #[test]
    fn owned_keys_name_the_field_to_use() {
        assert!(
            refuse("log.dirs", "/x")
                .unwrap()
                .contains("nodePools[].storage")
        );
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
