//! Replicas that share a subscription.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use super::mqtt::{made, start, works};
use super::{all, problem, reported};
use crate::support::mosquitto::Mosquitto;
use crate::support::stage::{Runner, Stage};
use crate::support::until;
use crate::{MINUTE, Setup, setup};

/// A stage with its broker, whose messages are numbered.
struct Shared {
    setup: &'static Setup,
    stage: Stage,
    broker: Mosquitto,
    name: String,
    version: &'static str,
    published: u32,
}

impl Shared {
    fn replica(&self, ordinal: u32, shared: bool) -> Runner {
        let mut stage = self.stage.clone();
        stage.ordinal = ordinal;
        let more = if shared { r#""shared": true,"# } else { "" };
        let runner = start(&stage, &self.name, self.version, more, self.broker.port);
        reported(&runner, "it works", MINUTE, works);
        runner
    }

    /// Publishes numbers to several topics.
    fn publish(&mut self, count: u32) {
        for part in 0..4 {
            let from = self.published + part * count / 4;
            let lines: String = (from..from + count / 4).map(|n| format!("{n}\n")).collect();
            self.broker
                .publish(&format!("{}/{part}", self.name), &lines);
        }
        self.published += count;
    }

    /// How often each number is in Kafka, once all are there.
    fn taken(&self, what: &str) -> Vec<u32> {
        let mut times = Vec::new();
        until(what, MINUTE, || {
            times = vec![0; self.published as usize];
            for ((_, number), count) in all(self.setup, &self.stage.to) {
                times[number.parse::<usize>().unwrap()] += count;
            }
            times.iter().all(|count| *count > 0)
        });
        times
    }
}

fn check_replicas(name: &str, version: &'static str) {
    let (setup, _turn) = setup();
    let (stage, broker, _) = made(setup, name);
    let mut shared = Shared {
        setup,
        stage,
        broker,
        name: name.to_owned(),
        version,
        published: 0,
    };
    // From a replica that reads alone to two that share, with messages that wait meanwhile.
    let mut first = shared.replica(0, false);
    first.signal("TERM");
    assert_eq!(first.wait(MINUTE), 0);
    shared.publish(400);
    let first = shared.replica(0, true);
    let second = shared.replica(1, true);
    shared.taken("what waited is there");
    let before = shared.published as usize;
    shared.publish(2_000);
    let times = shared.taken("both read");
    check_once(&times[before..], &[&first, &second]);
    for runner in [&first, &second] {
        until("each has its part", MINUTE, || {
            runner.figure("records_in_total") > 300.0
        });
    }
    // A replica that dies has a session that waits for it.
    second.kill();
    shared.publish(400);
    let mut second = shared.replica(1, true);
    shared.taken("the session of the replica that died is read");
    // There are fewer replicas, while messages come.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            second.signal("TERM");
        });
        shared.publish(2_000);
    });
    assert_eq!(second.wait(MINUTE), 0);
    shared.publish(400);
    shared.taken("one replica has all");
    // None is there, then one.
    drop(first);
    shared.publish(400);
    let first = shared.replica(0, true);
    shared.taken("the broker has kept what came meanwhile");
    // Back to one that reads alone.
    drop(first);
    let first = shared.replica(0, false);
    let before = shared.published as usize;
    shared.publish(400);
    let times = shared.taken("it reads alone");
    check_once(&times[before..], &[&first]);
}

/// Each message was taken once: only one kind of subscription gives them. After a connection was
/// lost, what was under way comes again.
fn check_once(times: &[u32], runners: &[&Runner]) {
    let doubles = times.iter().filter(|times| **times > 1).count();
    let lost = ["no connection to the broker", "did not take a message"];
    let is_lost = |runner: &&Runner| lost.iter().any(|line| runner.log().contains(line));
    let is_excused = runners.iter().any(is_lost) && doubles < times.len() / 2;
    assert!(doubles == 0 || is_excused, "{doubles} of {}", times.len());
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn replicas_share_messages_and_none_is_lost_when_their_number_changes() {
    check_replicas("share-five", "V5");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn replicas_share_messages_of_version_3() {
    check_replicas("share-three", "V311");
}

/// A broker that knows no shared subscriptions: it says so in CONNACK, or refuses.
fn without_shares(connack: &'static [u8], suback: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut packet) = (stream.unwrap(), [0; 500]);
            // CONNECT, then SUBSCRIBE.
            for answer in [connack, suback] {
                if stream.read(&mut packet).unwrap_or_default() > 0 {
                    // A client that does not wait any more comes again.
                    let _ = stream.write_all(answer);
                }
            }
            let _ = stream.read(&mut packet);
        }
    });
    port
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_broker_without_shared_subscriptions_is_named_with_the_way_out() {
    let (setup, _turn) = setup();
    let (stage, _broker, _) = made(setup, "share-none");
    let brokers: [(&[u8], &[u8]); 2] = [
        (b"\x20\x05\0\0\x02\x2a\0", b""),
        (b"\x20\x03\0\0\0", b"\x90\x04\0\x01\0\x9e"),
    ];
    for (connack, suback) in brokers {
        let port = without_shares(connack, suback);
        let runner = start(&stage, "share-none", "V5", r#""shared": true,"#, port);
        reported(&runner, "it is named", MINUTE, |report| {
            problem(report, "share-none").is_some_and(|why| {
                why.contains("no shared subscriptions") && why.contains("remove shared: true")
            })
        });
    }
}
