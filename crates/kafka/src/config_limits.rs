//! Limits that Kafka itself does not have: values of broker configs that Kafka accepts, with which
//! nodes or the operator could connect no longer, the controllers would keep no leader, or a broker
//! would not start. Nobody could then take the value back through Kafka. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// The values that some keys may have.
struct Limit {
    keys: &'static [&'static str],
    low: i64,
    high: i64,
    /// -1 is valid too: it turns the feature off, or is Kafka's default.
    or_off: bool,
    /// What happens otherwise.
    otherwise: &'static str,
}

const fn at_least(keys: &'static [&'static str], low: i64, otherwise: &'static str) -> Limit {
    between(keys, low, i64::MAX, otherwise)
}

const fn between(
    keys: &'static [&'static str],
    low: i64,
    high: i64,
    otherwise: &'static str,
) -> Limit {
    Limit {
        keys,
        low,
        high,
        or_off: false,
        otherwise,
    }
}

const fn or_off(limit: Limit) -> Limit {
    Limit {
        or_off: true,
        ..limit
    }
}

const LOCKED_OUT: &str = "nodes and the operator would be locked out";
const NO_LEADER: &str = "the controllers would keep no leader, or be without one for long";
const NOT_SEEN: &str = "brokers that live would be taken for dead, or dead ones for alive";
const NOT_FOLLOWED: &str =
    "replicas that follow would count as out of sync, or lost ones as in sync";
const NO_START: &str = "a broker would not start";

const PER_IP: &str = "max.connections.per.ip";
const PER_IP_OVERRIDES: &str = "max.connections.per.ip.overrides";
/// From one address: `num.replica.fetchers` and a few more from a node, up to ten from the
/// operator, and all clients behind the same address.
const PER_IP_MIN: i64 = 50;
/// The longest pause after a failed authentication must be below the shortest idle time.
const IDLE_MS_MIN: i64 = 10_000;

const LIMITS: [Limit; 20] = [
    at_least(&[PER_IP], PER_IP_MIN, LOCKED_OUT),
    // Controllers have no listener that is exempt from it, as brokers have.
    at_least(&["max.connections"], 200, LOCKED_OUT),
    at_least(&["max.connection.creation.rate"], 10, LOCKED_OUT),
    // Connections would be closed between two requests.
    or_off(at_least(
        &["connections.max.idle.ms"],
        IDLE_MS_MIN,
        LOCKED_OUT,
    )),
    between(
        &["connection.failed.authentication.delay.ms"],
        0,
        IDLE_MS_MIN - 1,
        NO_START,
    ),
    // The operator creates up to 1000 ACLs in one request; a batch of records has up to 1 MiB.
    at_least(&["socket.request.max.bytes"], 1024 * 1024, LOCKED_OUT),
    // Java refuses a buffer of 0 bytes for each connection anew.
    or_off(at_least(
        &[
            "socket.receive.buffer.bytes",
            "socket.send.buffer.bytes",
            "replica.socket.receive.buffer.bytes",
        ],
        4096,
        LOCKED_OUT,
    )),
    // Within this time a connection is made and a request is answered, TLS and a full garbage
    // collection included.
    at_least(
        &[
            "controller.socket.timeout.ms",
            "replica.socket.timeout.ms",
            "request.timeout.ms",
            "socket.connection.setup.timeout.max.ms",
            "socket.connection.setup.timeout.ms",
        ],
        1000,
        LOCKED_OUT,
    ),
    // A queue of this many places is allocated at the start.
    between(&["queued.max.requests"], 1, 100_000, NO_START),
    at_least(
        &["initial.broker.registration.timeout.ms"],
        10_000,
        NO_START,
    ),
    between(
        &["controller.quorum.election.timeout.ms"],
        100,
        60_000,
        NO_LEADER,
    ),
    between(
        &["controller.quorum.election.backoff.max.ms"],
        10,
        60_000,
        NO_LEADER,
    ),
    between(
        &[
            "controller.quorum.fetch.timeout.ms",
            "controller.quorum.request.timeout.ms",
        ],
        500,
        60_000,
        NO_LEADER,
    ),
    between(
        &[
            "controller.quorum.append.linger.ms",
            "controller.quorum.retry.backoff.ms",
        ],
        0,
        10_000,
        NO_LEADER,
    ),
    between(&["broker.session.timeout.ms"], 3000, 600_000, NOT_SEEN),
    between(&["broker.heartbeat.interval.ms"], 50, 300_000, NOT_SEEN),
    between(&["replica.fetch.backoff.ms"], 0, 60_000, NOT_FOLLOWED),
    between(&["replica.lag.time.max.ms"], 5000, 600_000, NOT_FOLLOWED),
    at_least(
        &["message.max.bytes"],
        64 * 1024,
        "Kafka's own topics could not be written",
    ),
    between(
        &[
            "background.threads",
            "group.coordinator.background.threads",
            "group.coordinator.threads",
            "log.cleaner.threads",
            "num.io.threads",
            "num.network.threads",
            "num.recovery.threads.per.data.dir",
            "num.replica.alter.log.dirs.threads",
            "num.replica.fetchers",
            "remote.log.manager.copier.thread.pool.size",
            "remote.log.manager.expiration.thread.pool.size",
            "remote.log.manager.follower.thread.pool.size",
            "remote.log.manager.thread.pool.size",
            "remote.log.reader.threads",
            "share.coordinator.threads",
        ],
        1,
        1000,
        "a node has no work for fewer threads, and no room for more",
    ),
];

/// Why a value that Kafka accepts is refused all the same; `None` if it is valid.
pub fn refuse(key: &str, value: &str) -> Option<String> {
    if key == PER_IP_OVERRIDES {
        return refuse_overrides(value);
    }
    let limit = LIMITS.iter().find(|limit| limit.keys.contains(&key))?;
    let found: i64 = value.trim().parse().ok()?;
    if (limit.low..=limit.high).contains(&found) || (limit.or_off && found == -1) {
        return None;
    }
    let way_out = match limit.high {
        i64::MAX => format!("give {} or more", limit.low),
        high => format!("give {} to {high}", limit.low),
    };
    Some(format!("with {found}, {}; {way_out}", limit.otherwise))
}

/// Addresses with the number of connections that each may have. Pods get each other's addresses in
/// time, so that a number that is too low meets a node some day.
fn refuse_overrides(value: &str) -> Option<String> {
    let refuse_one = |one: &str| {
        let parsed = one.rsplit_once(':').and_then(|(address, count)| {
            let address = address.trim().trim_matches(['[', ']']);
            // With a name that cannot be resolved a broker would not start.
            address.parse::<IpAddr>().ok()?;
            count.trim().parse::<u32>().ok()
        });
        match parsed {
            None => Some(format!(
                "{one:?} is not an IP address and a number, such as 10.0.0.5:100; correct it"
            )),
            Some(count) if i64::from(count) < PER_IP_MIN => Some(format!(
                "with {one}, {LOCKED_OUT} as soon as one of them has this address; give \
                 {PER_IP_MIN} or more, or keep a client out with a NetworkPolicy"
            )),
            Some(_) => None,
        }
    };
    value
        .split(',')
        .map(str::trim)
        .filter(|one| !one.is_empty())
        .find_map(refuse_one)
}

/// Two configs of which `low`, times a factor, must not be above `high`. The defaults are those
/// that Freehold gives its nodes, else Kafka's.
struct Pair {
    low: (&'static str, i64),
    times: i64,
    high: (&'static str, i64),
    otherwise: &'static str,
}

const PAIRS: [Pair; 4] = [
    Pair {
        low: ("broker.heartbeat.interval.ms", 500),
        times: 2,
        high: ("broker.session.timeout.ms", 9000),
        otherwise: NOT_SEEN,
    },
    Pair {
        low: ("replica.fetch.wait.max.ms", 100),
        times: 1,
        high: ("replica.lag.time.max.ms", 30_000),
        otherwise: NO_START,
    },
    Pair {
        low: ("replica.fetch.wait.max.ms", 100),
        times: 1,
        high: ("replica.socket.timeout.ms", 30_000),
        otherwise: NO_START,
    },
    Pair {
        low: ("socket.request.max.bytes", 104_857_600),
        times: 1,
        high: ("queued.max.request.bytes", -1),
        otherwise: NO_START,
    },
];

/// Two configs of a pool's nodes that are wrong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Together {
    /// One of the two, which the spec sets.
    pub key: &'static str,
    /// True if the pool itself sets it.
    pub is_own: bool,
    pub why: String,
}

/// Configs of a pool's nodes that are wrong together. `own`: what the pool sets; `under`: what the
/// cluster sets for every pool.
pub fn refuse_together(
    under: &BTreeMap<String, String>,
    own: &BTreeMap<String, String>,
) -> Vec<Together> {
    let number = |(key, default): (&str, i64)| match own.get(key).or_else(|| under.get(key)) {
        None => Some(default),
        Some(value) => value.trim().parse::<i64>().ok(),
    };
    let refuse_pair = |pair: &Pair| {
        let (low, high) = (number(pair.low)?, number(pair.high)?);
        // No limit, in Kafka's notation.
        let is_off = pair.high.1 < 0 && high <= 0;
        if is_off || low.saturating_mul(pair.times) <= high {
            return None;
        }
        let keys = [pair.high.0, pair.low.0];
        let set_by = |configs: &BTreeMap<String, String>| {
            keys.into_iter().find(|key| configs.contains_key(*key))
        };
        let (key, is_own) = match set_by(own) {
            Some(key) => (key, true),
            None => (set_by(under)?, false),
        };
        let times = match pair.times {
            1 => String::new(),
            times => format!("{times} times "),
        };
        let why = format!(
            "{times}{} ({low}) is above {} ({high}): {}; lower the one or raise the other",
            pair.low.0, pair.high.0, pair.otherwise
        );
        Some(Together { key, is_own, why })
    };
    PAIRS.iter().filter_map(refuse_pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Checked, Plugins, VERSIONS, check_broker_config, definitions};

    fn check(key: &str, value: &str) -> Checked {
        let definitions = definitions("4.3.1").unwrap();
        check_broker_config(definitions, &Plugins::default(), key, value)
    }

    #[test]
    fn values_with_which_nobody_could_connect_are_refused_with_the_way_out() {
        let floors = [
            ("max.connections.per.ip", "1", "50"),
            ("max.connections", "0", "200"),
            ("max.connection.creation.rate", "0", "10"),
            ("connections.max.idle.ms", "1", "10000"),
            ("socket.request.max.bytes", "1024", "1048576"),
            ("socket.receive.buffer.bytes", "0", "4096"),
            ("socket.send.buffer.bytes", "-2", "4096"),
            ("replica.socket.receive.buffer.bytes", "0", "4096"),
            ("replica.socket.timeout.ms", "1", "1000"),
            ("controller.socket.timeout.ms", "0", "1000"),
            ("request.timeout.ms", "1", "1000"),
            ("socket.connection.setup.timeout.ms", "1", "1000"),
            ("socket.connection.setup.timeout.max.ms", "1", "1000"),
            ("initial.broker.registration.timeout.ms", "0", "10000"),
            ("controller.quorum.election.timeout.ms", "0", "100"),
            ("controller.quorum.election.backoff.max.ms", "0", "10"),
            ("controller.quorum.fetch.timeout.ms", "1", "500"),
            ("controller.quorum.request.timeout.ms", "1", "500"),
            ("broker.session.timeout.ms", "10", "3000"),
            ("broker.heartbeat.interval.ms", "0", "50"),
            ("replica.lag.time.max.ms", "1", "5000"),
            ("message.max.bytes", "0", "65536"),
            ("num.replica.alter.log.dirs.threads", "0", "1"),
        ];
        for (key, wrong, floor) in floors {
            let Checked::Refused(why) = check(key, wrong) else {
                panic!("{key}: {wrong} is taken")
            };
            let way_out = [format!("give {floor} or more"), format!("give {floor} to ")];
            assert!(way_out.iter().any(|words| why.contains(words)), "{why}");
            assert_eq!(check(key, floor), Checked::Good, "{key}");
        }
    }

    #[test]
    fn values_that_are_too_high_are_refused_too() {
        let ceilings = [
            ("connection.failed.authentication.delay.ms", "9999"),
            ("queued.max.requests", "100000"),
            ("controller.quorum.election.timeout.ms", "60000"),
            ("controller.quorum.election.backoff.max.ms", "60000"),
            ("controller.quorum.fetch.timeout.ms", "60000"),
            ("controller.quorum.request.timeout.ms", "60000"),
            ("controller.quorum.append.linger.ms", "10000"),
            ("controller.quorum.retry.backoff.ms", "10000"),
            ("broker.session.timeout.ms", "600000"),
            ("broker.heartbeat.interval.ms", "300000"),
            ("replica.fetch.backoff.ms", "60000"),
            ("replica.lag.time.max.ms", "600000"),
            ("num.network.threads", "1000"),
            ("group.coordinator.threads", "1000"),
        ];
        for (key, ceiling) in ceilings {
            assert!(
                matches!(check(key, "2147483647"), Checked::Refused(why) if why.contains(&format!(" to {ceiling}"))),
                "{key}"
            );
            assert_eq!(check(key, ceiling), Checked::Good, "{key}");
        }
    }

    #[test]
    fn what_turns_a_limit_off_is_taken() {
        for (key, off) in [
            ("connections.max.idle.ms", "-1"),
            ("socket.send.buffer.bytes", "-1"),
            ("max.connections", "2147483647"),
        ] {
            assert_eq!(check(key, off), Checked::Good, "{key}");
        }
    }

    #[test]
    fn overrides_name_addresses_and_lock_nobody_out() {
        for good in [
            "",
            "10.0.0.5:100",
            "10.0.0.5:50, fd00::5:2000",
            "[fd00::5]:50",
        ] {
            assert_eq!(check(PER_IP_OVERRIDES, good), Checked::Good, "{good}");
        }
        for wrong in [
            "10.0.0.5",
            "10.0.0.5:many",
            "somewhere:100",
            "10.0.0.5:0",
            "10.0.0.5:100,10.0.0.6:1",
        ] {
            assert!(
                matches!(check(PER_IP_OVERRIDES, wrong), Checked::Refused(_)),
                "{wrong}"
            );
        }
    }

    #[test]
    fn configs_that_are_wrong_together_are_refused_at_the_key_that_is_set() {
        let map = |all: &[(&str, &str)]| -> BTreeMap<String, String> {
            let owned = |(key, value): &(&str, &str)| ((*key).into(), (*value).into());
            all.iter().map(owned).collect()
        };
        let all = |under: &[(&str, &str)], own: &[(&str, &str)]| {
            let refused = refuse_together(&map(under), &map(own));
            refused
                .into_iter()
                .map(|one| (one.key, one.is_own))
                .collect::<Vec<_>>()
        };
        let together = |under: &[(&str, &str)], own: &[(&str, &str)]| {
            let own = all(under, own).into_iter().filter(|(_, is_own)| *is_own);
            own.map(|(key, _)| key).collect::<Vec<_>>()
        };
        let (heartbeat, session) = ("broker.heartbeat.interval.ms", "broker.session.timeout.ms");
        let (queued, request) = ("queued.max.request.bytes", "socket.request.max.bytes");
        let wait = "replica.fetch.wait.max.ms";
        assert_eq!(together(&[], &[]), [""; 0]);
        assert_eq!(together(&[], &[(heartbeat, "60000")]), [heartbeat]);
        assert_eq!(together(&[], &[(wait, "31000")]), [wait; 2]);
        assert_eq!(together(&[], &[(queued, "1048576")]), [queued]);
        let slow = [(heartbeat, "4000")];
        assert_eq!(together(&slow, &[(session, "7000")]), [session]);
        assert_eq!(together(&[(session, "7000")], &slow), [heartbeat]);
        assert_eq!(together(&[(session, "8000")], &slow), [""; 0]);
        assert_eq!(
            all(&[(heartbeat, "60000")], &[]),
            [(heartbeat, false)],
            "the cluster sets it"
        );
        assert_eq!(
            together(&[], &[(queued, "1048576"), (request, "1048576")]),
            [""; 0]
        );
        assert_eq!(
            together(&[], &[(queued, "-1"), (session, "3000")]),
            [""; 0],
            "no limit"
        );
    }

    #[test]
    fn every_key_is_one_that_kafka_has() {
        let keys = LIMITS.iter().flat_map(|limit| limit.keys).copied();
        let pairs = PAIRS.iter().flat_map(|pair| [pair.low.0, pair.high.0]);
        for key in keys.chain(pairs).chain([PER_IP_OVERRIDES]) {
            let has = |version| definitions(version).unwrap().broker.contains_key(key);
            assert!(VERSIONS.into_iter().any(has), "{key}");
        }
    }

    #[test]
    fn every_number_of_threads_has_its_limit() {
        let threads = definitions("4.3.1").unwrap().broker.keys();
        for key in threads.filter(|key| key.ends_with("threads") || key.contains("thread.pool")) {
            assert!(refuse(key, "1000000").is_some(), "{key}");
        }
    }
}
