//! Exactly once with a real Kafka, while processes are killed, stopped and doubled.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod aborts;
mod crashes;
mod deliver;
mod gaps;
mod ingest;
mod refusals;
mod replay;
mod reports;
mod support;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use freehold_runner::blocks::{Blocks, Refused};
use freehold_runner::figures::Figures;
use freehold_runner::outputs::Outputs;
use freehold_runner::record::Record;
use freehold_runner::stage_loop::{End, run};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use support::broker::{Kafka, PASSWORD};
use support::copy::Copy;
use support::proxy::Proxy;
use support::records::{
    Stream, Writer, check_exactly_once, ends, exact_ends, read, read_until, write,
};
use support::stage::{Runner, Stage};
use support::{signal, until, wait_for};

const MINUTE: Duration = Duration::from_secs(60);

/// Limits with which a process may stand still for a while, and nothing is aborted.
const PATIENT: &str = r#""transactionTimeoutMs": 60000, "sessionTimeoutMs": 90000,
    "heartbeatMs": 500, "batchRecordsMax": 500"#;

/// One broker for all tests, behind a proxy for those that want one. It ends with this process.
struct Setup {
    kafka: Kafka,
    proxy: Proxy,
}

/// The turn of a test.
struct Turn {
    setup: &'static Setup,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if thread::panicking() {
            self.setup.kafka.after_failure();
        }
    }
}

fn setup() -> (&'static Setup, Turn) {
    static TURN: Mutex<()> = Mutex::new(());
    static SETUP: OnceLock<Setup> = OnceLock::new();
    // One test at a time: some of them stop the broker.
    let turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let setup = SETUP.get_or_init(|| {
        let proxy = Proxy::start();
        let kafka = Kafka::start("one", 1, Some(proxy.port));
        proxy.lead_to(kafka.behind_proxy());
        kafka.create_topic("dead", 1, &[]);
        Setup { kafka, proxy }
    });
    (setup, Turn { setup, _turn: turn })
}

/// Two topics of a test and the stage that copies the first to the second.
fn stage(setup: &Setup, name: &str) -> Stage {
    let (from, to) = (format!("{name}-in"), format!("{name}-out"));
    setup.kafka.create_topic(&from, 4, &[]);
    setup.kafka.create_topic(&to, 3, &[]);
    Stage::new(&setup.kafka.bootstrap(), setup.kafka.folder(), &from, &to)
}

/// Writes `count` records in the background, spread over `time`.
fn write_slowly(
    setup: &'static Setup,
    topic: &str,
    count: u64,
    time: Duration,
) -> thread::JoinHandle<()> {
    let mut writer = Writer::new(&setup.kafka.client(), topic);
    thread::spawn(move || {
        let steps = 100;
        for step in 1..=steps {
            writer.write(count * step / steps, |_| 0);
            thread::sleep(time / u32::try_from(steps).unwrap());
        }
        writer.finish();
    })
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_quiet_run_copies_each_record_once_and_ends_clean() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "quiet");
    stage.limits = PATIENT.to_owned();
    let client = setup.kafka.client();
    write(&client, &stage.from, 20_000);
    let mut runner = stage.start();
    runner.wait_ready();
    check_exactly_once(&client, &stage.to, 20_000, MINUTE);
    until("the figures count all", MINUTE, || {
        runner.figure("records_out_total") >= 20_000.0
    });
    let log = runner.log();
    assert_eq!(runner.exact_figure("aborts_total"), 0.0, "{log}");
    // A slow answer of Kafka is a doubt, and after a doubt the producer is another one.
    let renewals = runner.exact_figure("producer_renewals_total");
    assert!(renewals <= 10.0, "{renewals} of 40 transactions: {log}");
    // Idle: no transaction without records.
    let before = exact_ends(&client, &stage.to);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(exact_ends(&client, &stage.to), before);
    until("there is no lag", MINUTE, || {
        let metrics = runner.get("/metrics").unwrap_or_default();
        let lags = metrics
            .lines()
            .filter(|line| line.starts_with("freehold_runner_lag_records{"));
        let zeros = lags.filter(|line| line.ends_with(" 0")).count();
        zeros == 4
    });
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0);
    // The copy of a copy: its input has markers of transactions, which are no lag.
    let again = Stage::new(
        &setup.kafka.bootstrap(),
        setup.kafka.folder(),
        &stage.to,
        "quiet-again",
    );
    setup.kafka.create_topic(&again.to, 2, &[]);
    let runner = again.start();
    check_exactly_once(&client, &again.to, 20_000, MINUTE);
    until("there is no lag", MINUTE, || {
        let metrics = runner.get("/metrics").unwrap_or_default();
        let lags = metrics
            .lines()
            .filter(|line| line.starts_with("freehold_runner_lag_records{"));
        lags.filter(|line| line.ends_with(" 0")).count() == 3
    });
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn kill_again_and_again() {
    let (setup, _turn) = setup();
    let stage = stage(setup, "kill");
    check_over_kills(setup, &stage);
}

/// A program, a split whose cases meet again, and a filter: as a Pipeline has them.
#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn programs_are_exactly_once_over_kills() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "programs");
    stage.format = "Json";
    stage.last = "all";
    stage.blocks = r#"
        {"name": "clean", "from": ["in"], "transform": {"vrl": ". = int!(.) + 0"}},
        {"name": "parity", "from": ["clean"], "split": {"default": "odd",
            "cases": [{"name": "even", "when": "mod(int!(.), 2) == 0", "onError": "Fail"}]}},
        {"name": "all", "from": ["parity.even", "parity.odd"],
            "filter": {"when": "int!(.) >= 0", "onError": "Fail"}},"#;
    check_over_kills(setup, &stage);
}

fn check_over_kills(setup: &'static Setup, stage: &Stage) {
    let client = setup.kafka.client();
    let stream = Stream::start(&client, &stage.from);
    let (began, mut kills) = (Instant::now(), 0);
    let mut runner = stage.start();
    while kills < 4 || began.elapsed() < Duration::from_secs(12) {
        // Dies in the middle of work, at another moment each time.
        until("the runner works", MINUTE, || {
            runner.figure("commits_total") > 0.0
        });
        thread::sleep(Duration::from_millis(37 * kills % 200));
        runner.kill();
        kills += 1;
        runner = stage.start();
    }
    let count = stream.finish();
    check_exactly_once(&client, &stage.to, count, MINUTE);
    eprintln!("{kills} kills, {count} records");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_runner_that_stands_still_for_longer_than_its_transaction() {
    let (setup, _turn) = setup();
    let stage = stage(setup, "still");
    let writer = write_slowly(setup, &stage.from, 20_000, Duration::from_secs(8));
    let runner = stage.start();
    until("it works", MINUTE, || runner.figure("commits_total") > 3.0);
    runner.signal("STOP");
    thread::sleep(Duration::from_millis(5_000));
    runner.signal("CONT");
    writer.join().unwrap();
    check_exactly_once(&setup.kafka.client(), &stage.to, 20_000, MINUTE);
    runner.wait_ready();
}

/// The broker stops when a commit has reached its socket. It handles the commit when it goes on:
/// together with what the runner has sent since.
#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_coordinator_that_stands_still_during_commits() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "coordinator");
    stage.bootstrap = format!("127.0.0.1:{}", setup.proxy.port);
    let client = setup.kafka.client();
    let stream = Stream::start(&client, &stage.from);
    let runner = stage.start();
    let (pid, stops) = (setup.kafka.pid(0), &setup.proxy.faults.stops);
    // A request may take two thirds of the transaction timeout of 4 s: shorter, longer, and longer
    // than the timeout itself.
    for stop_ms in [1_500, 3_500, 5_000] {
        let before = runner.figure("commits_total");
        until("it works", MINUTE, || {
            runner.figure("commits_total") > before + 3.0
        });
        stops.store(pid, Relaxed);
        until("the broker is stopped", MINUTE, || stops.load(Relaxed) == 0);
        thread::sleep(Duration::from_millis(stop_ms));
        signal("CONT", pid);
    }
    // The next batch has the new producer.
    until("the producers are replaced", MINUTE, || {
        runner.figure("producer_renewals_total") >= 2.0
    });
    let count = stream.finish();
    check_exactly_once(&client, &stage.to, count, MINUTE);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn an_end_of_a_transaction_that_comes_after_the_next_begin() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "late");
    stage.bootstrap = format!("127.0.0.1:{}", setup.proxy.port);
    let client = setup.kafka.client();
    let stream = Stream::start(&client, &stage.from);
    let runner = stage.start();
    let faults = &setup.proxy.faults;
    until("it works", MINUTE, || runner.figure("commits_total") > 3.0);
    for round in 1..=5 {
        let renewals = runner.exact_figure("producer_renewals_total");
        faults.holds.store(1, Relaxed);
        until("a late request is delivered", MINUTE, || {
            faults.delivered.load(Relaxed) >= round
        });
        // The next one is of another transaction.
        until("the producer is replaced", MINUTE, || {
            runner.figure("producer_renewals_total") > renewals
        });
    }
    let count = stream.finish();
    check_exactly_once(&client, &stage.to, count, MINUTE);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn of_two_processes_with_one_id_the_older_ends_and_says_why() {
    let (setup, _turn) = setup();
    let stage = stage(setup, "double");
    let client = setup.kafka.client();
    let stream = Stream::start(&client, &stage.from);
    let mut old = stage.start();
    until("it works", MINUTE, || old.figure("commits_total") > 3.0);
    let new = stage.start();
    assert_eq!(old.wait(Duration::from_secs(20)), 3, "{}", old.log());
    assert!(
        old.log().contains("another process works with this id"),
        "{}",
        old.log()
    );
    until("the newer one works", MINUTE, || {
        new.figure("commits_total") > 0.0
    });
    let count = stream.finish();
    check_exactly_once(&client, &stage.to, count, MINUTE);
}

/// The older process has an open transaction when it is stopped, and goes on with it when the newer
/// one has taken its place.
#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_replaced_process_that_wakes_up_does_no_harm() {
    let (setup, _turn) = setup();
    let stage = stage(setup, "zombie");
    let client = setup.kafka.client();
    let stream = Stream::start(&client, &stage.from);
    let mut old = stage.start();
    until("it works", MINUTE, || old.figure("commits_total") > 3.0);
    old.signal("STOP");
    let new = stage.start();
    until("the newer one works", MINUTE, || {
        new.figure("commits_total") > 3.0
    });
    old.signal("CONT");
    assert_eq!(old.wait(Duration::from_secs(20)), 3, "{}", old.log());
    let count = stream.finish();
    check_exactly_once(&client, &stage.to, count, MINUTE);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn members_come_and_go() {
    let (setup, _turn) = setup();
    let stage = stage(setup, "members");
    let writer = write_slowly(setup, &stage.from, 30_000, Duration::from_secs(15));
    let member = |ordinal: u32| Stage {
        ordinal,
        ..stage.clone()
    };
    let first = member(0).start();
    until("it works", MINUTE, || first.figure("commits_total") > 3.0);
    let mut others = [member(1).start(), member(2).start()];
    for other in &others {
        other.wait_ready();
    }
    until("all work", MINUTE, || {
        writer.is_finished()
            || others
                .iter()
                .all(|other| other.figure("commits_total") > 0.0)
    });
    for other in &mut others {
        other.signal("TERM");
        assert_eq!(other.wait(MINUTE), 0, "{}", other.log());
    }
    // Their partitions come back after the session timeout: nobody removes the members here.
    writer.join().unwrap();
    check_exactly_once(&setup.kafka.client(), &stage.to, 30_000, MINUTE);
    assert!(first.exact_figure("rebalances_total") >= 3.0);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn refused_outputs_become_dead_letters_and_the_rest_goes_on() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "refused");
    let client = setup.kafka.client();
    let (small, letters) = ("refused-small", "refused-dead");
    let limit = [("max.message.bytes", "20000")];
    setup.kafka.create_topic(small, 3, &limit);
    setup.kafka.create_topic(letters, 1, &[]);
    stage.to = small.to_owned();
    stage.more = r#", "compression": "none""#.to_owned();
    stage.limits += r#", "outputBytesMax": 100000"#;
    // Some are too large for the topic, some already for the stage: those fail while the first
    // request of the transaction is under way.
    let length = |number| match number % 500 {
        7 => 30_000,
        13 | 14 => 200_000,
        _ => 0,
    };
    let mut writer = Writer::new(&client, &stage.from);
    writer.write(3_000, length);
    writer.finish();
    let blocks = Copy {
        to: small.to_owned(),
        dead_letter: letters.to_owned(),
    };
    let (figures, stop) = (Arc::<Figures>::default(), Arc::new(AtomicBool::new(false)));
    let (config, seen_figures, asked) = (stage.config(), figures.clone(), stop.clone());
    let running = thread::spawn(move || run(&config, blocks, &seen_figures, &asked).unwrap());
    // A commit whose outcome is unknown is not counted, but its offsets are there.
    until("all are handled", MINUTE, || {
        let partitions = figures.partitions();
        let committed = partitions.values().map(|partition| partition.committed);
        committed.sum::<i64>() == 3_000
    });
    stop.store(true, Relaxed);
    assert_eq!(running.join().unwrap(), End::Drained);
    let seen = read_until(&client, small, 3_000 - 18);
    assert!(seen.times.values().all(|times| *times == 1) && seen.out_of_order.is_empty());
    let good = (0..3_000).filter(|number| length(*number) == 0);
    assert!(
        seen.times.keys().copied().eq(good),
        "{} records",
        seen.times.len()
    );
    let ask = || read(&client, letters).origins;
    let mut dead = wait_for("dead letters", MINUTE, ask, |dead| dead.len() >= 18);
    assert!(dead.iter().all(|origin| origin.starts_with("refused-in/")));
    dead.sort_unstable();
    let total = dead.len();
    dead.dedup();
    assert_eq!((total, dead.len()), (18, 18));
    assert_eq!(figures.refused.get(), 18);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn at_least_once_loses_nothing_over_kills() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "atleast");
    stage.delivery = "AtLeastOnce";
    let client = setup.kafka.client();
    let writer = write_slowly(setup, &stage.from, 20_000, Duration::from_secs(6));
    let mut runner = stage.start();
    for _ in 0..3 {
        until("it works", MINUTE, || {
            runner.figure("commits_total") > 2.0 || writer.is_finished()
        });
        runner.kill();
        runner = stage.start();
    }
    writer.join().unwrap();
    until("all are copied", MINUTE, || {
        ends(&client, &stage.to) >= 20_000 && read(&client, &stage.to).times.len() == 20_000
    });
    // The last process may copy again what the one before has not committed. A new one learns where
    // the topic ends now.
    runner.kill();
    let mut runner = stage.start();
    let is_done = |runner: &Runner| {
        let report = runner.report();
        report.ready && report.lag == Some(0)
    };
    until("nothing is left", MINUTE, || is_done(&runner));
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0);
    // A clean end has committed everything: nothing comes again.
    let before = exact_ends(&client, &stage.to);
    let runner = stage.start();
    until("nothing is left", MINUTE, || is_done(&runner));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(exact_ends(&client, &stage.to), before);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn tls_and_scram_with_the_password_from_a_file() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "secure");
    let (client, folder) = (setup.kafka.client(), setup.kafka.folder());
    write(&client, &stage.from, 1_000);
    let password = folder.join("password");
    std::fs::write(&password, "wrong").unwrap();
    stage.secure(&setup.kafka, &password);
    let wrong = stage.start();
    until("the problem is named", MINUTE, || {
        let answer = wrong.get("/readyz").unwrap_or_default();
        answer.starts_with("HTTP/1.1 503") && answer.contains("uthentication")
    });
    wrong.kill();
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let runner = stage.start();
    check_exactly_once(&client, &stage.to, 1_000, MINUTE);
    assert!(!runner.log().contains(PASSWORD));
}

/// Copies, and stops before a number.
struct StopBefore {
    to: String,
    number: &'static [u8],
}

impl Blocks for StopBefore {
    fn process(&mut self, batch: &[Record<'_>], out: &mut Outputs) {
        for record in batch {
            out.to(&self.to, record).send();
            if record.value == Some(self.number) {
                out.stop(record, "careful", "this number is not allowed");
            }
        }
    }

    fn refused(&mut self, _: &Record<'_>, _: &[Refused], _: &mut Outputs) {}
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_block_that_stops_the_stage_leaves_what_comes_before_committed() {
    let (setup, _turn) = setup();
    let stage = stage(setup, "stop");
    let client = setup.kafka.client();
    write(&client, &stage.from, 5_000);
    let blocks = StopBefore {
        to: stage.to.clone(),
        number: b"3000",
    };
    let (figures, stop) = (Arc::default(), AtomicBool::new(false));
    let Ok(End::Stopped(stopped)) = run(&stage.config(), blocks, &figures, &stop) else {
        panic!("it did not stop");
    };
    assert_eq!(stopped.block.as_deref(), Some("careful"));
    assert_eq!(stopped.error, "this number is not allowed");
    assert_eq!(stopped.address.unwrap().topic, stage.from);
    assert!(!read(&client, &stage.to).times.contains_key(&3_000));
    // A revision that allows it goes on where the last one stopped.
    let _runner = stage.start();
    check_exactly_once(&client, &stage.to, 5_000, MINUTE);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_committed_offset_that_does_not_exist_stops_the_stage() {
    let (setup, _turn) = setup();
    let stage = stage(setup, "gone");
    let mut client = setup.kafka.client();
    write(&client, &stage.from, 100);
    let consumer: BaseConsumer = client.set("group.id", &stage.group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&stage.from, 1, Offset::Offset(1_000_000))
        .unwrap();
    until("the offset is committed", MINUTE, || {
        let committed = consumer.commit(&list, CommitMode::Sync);
        committed.inspect_err(|error| eprintln!("{error}")).is_ok()
    });
    drop(consumer);
    let stops = || {
        let blocks = Copy {
            to: stage.to.clone(),
            dead_letter: "dead".to_owned(),
        };
        let (figures, stop) = (Arc::default(), AtomicBool::new(false));
        let Ok(End::Stopped(stopped)) = run(&stage.config(), blocks, &figures, &stop) else {
            panic!("it did not stop");
        };
        stopped
    };
    // If Kafka does not tell in time which partition it is, it stops all the same, each time.
    let stopped = wait_for("it is named", MINUTE, stops, |why| why.address.is_some());
    let reason = "[1] is 1000000, but the partition has 0 to ";
    assert!(stopped.error.contains(reason), "{stopped:?}");
    let address = stopped.address.unwrap();
    assert_eq!((address.topic, address.partition), (stage.from, 1));
}
