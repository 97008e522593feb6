//! The sink of S3, with a server of S3 in this process.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::support::records::{KEYS, write};
use super::super::support::stage::Stage;
use super::super::support::{Folder, until};
use super::super::{MINUTE, PATIENT, Setup, setup, write_slowly};
use super::{stored, wait_for_sink};

const KEY: &str = "an-access-key";
const SECRET: &str = "a/secret+key";

fn serve(folder: &Path) -> String {
    freehold_test_s3::serve(folder, ("127.0.0.1", 0), KEY, SECRET).unwrap()
}

/// A stage that writes a topic of its own to the bucket `files`.
fn stage(setup: &Setup, name: &str, from: &str, endpoint: &str, more: &str) -> Stage {
    let mut stage = Stage::new(&setup.kafka.bootstrap(), setup.kafka.folder(), from, name);
    stage.delivery = "AtLeastOnce";
    stage.format = "Json";
    stage.sink = Some(format!(
        r#"{{"s3": {{"bucket": "files", "prefix": "all=/", "endpoint": "{endpoint}",
            "credentials": {{"name": "keys"}}, {more}}}}}"#
    ));
    stage.write_secret("keys", "accessKeyId", KEY);
    stage.write_secret("keys", "secretAccessKey", SECRET);
    stage
}

fn read(path: &Path) -> String {
    let (file, mut text) = (fs::File::open(path).unwrap(), String::new());
    match path.extension().unwrap().to_str().unwrap() {
        "gz" => flate2::read::GzDecoder::new(file).read_to_string(&mut text),
        "zst" => zstd::stream::read::Decoder::new(file)
            .unwrap()
            .read_to_string(&mut text),
        _ => { file }.read_to_string(&mut text),
    }
    .unwrap();
    text
}

/// The numbers in the files of a partition, by the offset in their names.
fn files(folder: &Path, topic: &str, partition: i32) -> BTreeMap<i64, Vec<u64>> {
    let folder = folder.join(format!("files/all=/{topic}/{partition}"));
    let Ok(entries) = fs::read_dir(&folder) else {
        return BTreeMap::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let numbers = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        let (first, ending) = name.split_once('.').unwrap();
        assert_eq!(
            (first.len(), ending.starts_with("ndjson")),
            (20, true),
            "{name}"
        );
        let text = read(&path);
        let numbers = text.lines().map(|line| line.trim().parse().unwrap());
        (first.parse().unwrap(), numbers.collect())
    };
    paths.map(numbers).collect()
}

fn count(folder: &Path, topic: &str) -> usize {
    let partitions = (0..4).map(|partition| files(folder, topic, partition));
    partitions
        .map(|files| files.values().map(Vec::len).sum::<usize>())
        .sum()
}

/// Each record of the topic is in one file, in order, and files begin where their names say.
fn check(setup: &Setup, folder: &Path, topic: &str) -> usize {
    let (mut expected, mut at) = (BTreeMap::<_, Vec<u64>>::new(), BTreeMap::new());
    for record in stored(&setup.kafka.client(), topic) {
        expected
            .entry(record.partition)
            .or_default()
            .push(record.number);
        at.insert((record.partition, record.offset), record.number);
    }
    let mut all = 0;
    for (partition, numbers) in expected {
        let files = files(folder, topic, partition);
        all += files.len();
        for (first, numbers) in &files {
            let number = at.get(&(partition, *first));
            assert_eq!(numbers.first(), number, "file {first} of {partition}");
        }
        let written: Vec<u64> = files.into_values().flatten().collect();
        assert_eq!(written.len(), numbers.len(), "partition {partition}");
        assert!(
            written == numbers,
            "partition {partition} has other records"
        );
    }
    all
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn each_record_is_in_one_file_over_kills_and_a_rival() {
    let (setup, _turn) = setup();
    let folder = Folder::new("s3");
    let endpoint = serve(&folder.0);
    let from = "files-in";
    setup.kafka.create_topic(from, 4, &[]);
    let more = r#""fileBytes": 4096, "fileEvery": "1s""#;
    let stage_one = stage(setup, "files", from, &endpoint, more);
    let total = 20_000;
    let writes = write_slowly(setup, from, total, Duration::from_secs(8));
    fs::create_dir(folder.0.join("files")).unwrap();
    stage_one.write_secret("keys", "secretAccessKey", "wrong");
    let runner = stage_one.start();
    let named = MINUTE;
    wait_for_sink(&runner, "the wrong key is named", named, |_, sink| {
        let problem = sink.problem.as_deref();
        problem.is_some_and(|why| why.contains("SignatureDoesNotMatch"))
    });
    stage_one.write_secret("keys", "secretAccessKey", SECRET);
    until("files are written", MINUTE, || {
        count(&folder.0, from) > 3_000
    });
    until("records are counted", MINUTE, || {
        runner.figure("records_out_total") > 1_000.0
    });
    runner.kill();
    let runner = stage_one.start();
    until("more files are written", MINUTE, || {
        count(&folder.0, from) > 9_000
    });
    runner.kill();
    // Another process that knows no committed offsets, and cuts files otherwise.
    let more = r#""fileBytes": 1500, "fileEvery": "300ms""#;
    let rival = stage(setup, "rival", from, &endpoint, more).start();
    let mut runner = stage_one.start();
    writes.join().unwrap();
    for runner in [&rival, &runner] {
        wait_for_sink(runner, "all is delivered", MINUTE, |report, _| {
            report.ready && report.lag == Some(0) && report.message.is_empty()
        });
    }
    until("all records are in files", MINUTE, || {
        count(&folder.0, from) as u64 >= total
    });
    let files = check(setup, &folder.0, from);
    eprintln!("{total} records in {files} files");
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0);
    assert!(!runner.log().contains(SECRET));
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn what_is_buffered_is_written_when_the_process_is_asked_to_end() {
    let (setup, _turn) = setup();
    let folder = Folder::new("s3-end");
    let endpoint = serve(&folder.0);
    fs::create_dir(folder.0.join("files")).unwrap();
    let from = "ended-in";
    setup.kafka.create_topic(from, 4, &[]);
    let more = r#""fileEvery": "1h", "compression": "Zstd""#;
    let mut stage = stage(setup, "ended", from, &endpoint, more);
    // Nothing is read twice.
    stage.limits = PATIENT.to_owned();
    write(&setup.kafka.client(), from, 5_000);
    let mut runner = stage.start();
    let bytes = |number: u64| format!("key-{}{number}", number % KEYS).len();
    let all = (0..5_000).map(bytes).sum::<usize>() as f64;
    until("all records are read", MINUTE, || {
        runner.figure("bytes_in_total") >= all
    });
    assert_eq!(count(&folder.0, from), 0);
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0);
    assert_eq!(check(setup, &folder.0, from), 4);
    // The offsets are committed, too.
    let mut runner = stage.start();
    wait_for_sink(&runner, "nothing is left", MINUTE, |report, _| {
        report.lag == Some(0)
    });
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0);
    assert_eq!(check(setup, &folder.0, from), 4);
}
