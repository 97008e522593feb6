//! `cargo xtask bench roll`: latencies of a producer while every node restarts, next to the same
//! run without restarts.

use crate::layout::Layout;
use crate::up;
use anyhow::{Context, Result, ensure};
use freehold_e2e::flow::{self, Client};
use freehold_e2e::kubectl::{Kubectl, condition_of, not_ready};
use freehold_e2e::shell;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const LIMIT: Duration = Duration::from_secs(600);
/// Records a second; ProducerPerformance keeps this rate.
const RATE: usize = 300;
/// Long enough for a rolling restart of three nodes on a slow machine.
const SECONDS: usize = 150;
/// Long enough to see that it works.
const SECONDS_SHORT: usize = 8;

/// The result of one producer.
struct Run {
    /// Average and maximum latency of each second, in milliseconds.
    seconds: Vec<(f64, f64)>,
    /// The last line of the output: percentiles of all records.
    summary: String,
}

/// The number before these words in a line.
fn number(line: &str, words: &str) -> Option<f64> {
    line.split_once(words)?
        .0
        .trim_end()
        .rsplit(' ')
        .next()?
        .parse()
        .ok()
}

/// Average and maximum from a line such as `… 5.1 ms avg latency, 46.0 ms max latency…`.
fn latencies(line: &str) -> Option<(f64, f64)> {
    Some((
        number(line, " ms avg latency")?,
        number(line, " ms max latency")?,
    ))
}

fn produce(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    seconds: usize,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Run> {
    let (records, rate) = ((RATE * seconds).to_string(), RATE.to_string());
    let args = [
        "--num-records",
        &records,
        "--record-size",
        "100",
        "--throughput",
        &rate,
        "--reporting-interval",
        "1000",
    ];
    flow::start(
        kubectl,
        client,
        job,
        "ProducerPerformance",
        &args,
        flow::SAFE_PRODUCER,
    )?;
    flow::wait_for_output(kubectl, client, job, "max latency", 5, LIMIT)?;
    meanwhile()?;
    ensure!(
        flow::finished(kubectl, client, job, LIMIT)?,
        "the producer failed"
    );
    let log = flow::log(kubectl, client, job)?;
    let summary = log
        .lines()
        .rfind(|line| line.contains("99.9th"))
        .context("no summary of the producer")?
        .to_owned();
    let seconds = log
        .lines()
        .filter(|line| !line.contains("99.9th"))
        .filter_map(latencies)
        .collect();
    Ok(Run { seconds, summary })
}

/// Restarts every node, or one in the short form; returns the time it took.
fn roll(kubectl: &Kubectl, short: bool) -> Result<f64> {
    let start = Instant::now();
    if short {
        let pods = kubectl.run(&[
            "get",
            "pods",
            "--namespace",
            "kafka",
            "--selector",
            "freehold.dev/cluster=demo",
            "-o",
            "name",
        ])?;
        let pod = pods
            .lines()
            .find_map(|line| line.strip_prefix("pod/"))
            .context("a pod of the quickstart")?;
        kubectl.delete("pod", "kafka", pod, LIMIT)?;
        shell::wait_for("the pod to be ready again", LIMIT, || {
            let pod = kubectl.get("pod", "kafka", pod)?.unwrap_or_default();
            let ready = condition_of(&pod, "Ready").is_some_and(|ready| ready["status"] == "True");
            Ok((!ready).then(|| pod["status"]["phase"].to_string()))
        })?;
        kubectl.wait_ready("kafkacluster", "kafka", "demo", LIMIT)?;
        return Ok(start.elapsed().as_secs_f64());
    }
    let id = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    kubectl.run(&[
        "annotate",
        "kafkacluster",
        "demo",
        "--namespace",
        "kafka",
        "--overwrite",
        &format!("freehold.dev/restart={id}"),
    ])?;
    let object = || {
        kubectl
            .get("kafkacluster", "kafka", "demo")
            .map(Option::unwrap_or_default)
    };
    shell::wait_for("the roll to begin", LIMIT, || {
        Ok(object()?["status"]["disruption"]
            .is_null()
            .then(String::new))
    })?;
    shell::wait_for("the roll to end", LIMIT, || Ok(not_ready(&object()?)))?;
    Ok(start.elapsed().as_secs_f64())
}

/// Runs the benchmark on the quickstart's cluster.
pub fn bench(layout: &Layout, short: bool, write: bool) -> Result<()> {
    let kubectl = up::local_kubectl(layout, &layout.bin());
    let seconds = if short { SECONDS_SHORT } else { SECONDS };
    let set = kubectl
        .get("statefulset", "kafka", "demo-nodes-zone-a")?
        .context("the quickstart's StatefulSet")?;
    let image = set["spec"]["template"]["spec"]["containers"][0]["image"]
        .as_str()
        .context("its image")?
        .to_owned();
    let client = Client {
        namespace: "shop".into(),
        secret: "shop-app-kafka".into(),
        image,
        topic: "orders".into(),
    };
    let calm = produce(&kubectl, &client, "bench-calm", seconds, || Ok(()))?;
    let mut took = 0.0;
    let rolled = produce(&kubectl, &client, "bench-roll", seconds, || {
        took = roll(&kubectl, short)?;
        Ok(())
    })?;
    let mut page = format!(
        "# Latencies over a roll\n\n\
         Written by `cargo xtask bench roll --write`: two runs on one machine of two cores, which runs Kubernetes, three brokers \
         and the producer.\n\
         ProducerPerformance, {RATE} records a second for {seconds} s, idempotent, acks=all; in the second run every node is restarted, \
         in {took:.1} s.\n\n| | no roll | roll |\n| --- | --- | --- |\n"
    );
    for (what, words) in [
        ("p50", " ms 50th"),
        ("p95", " ms 95th"),
        ("p99", " ms 99th"),
        ("p99.9", " ms 99.9th"),
        ("highest", " ms max latency"),
    ] {
        let of = |run: &Run| {
            number(&run.summary, words)
                .map_or_else(|| "?".to_owned(), |figure| format!("{figure:.0} ms"))
        };
        writeln!(page, "| {what} | {} | {} |", of(&calm), of(&rolled))?;
    }
    page.push_str("\n![highest latency of each second](latency.svg)\n");
    println!("{page}");
    let plot = plot(&calm, &rolled, seconds)?;
    if write {
        let folder = layout.repo.join("docs/benchmarks");
        shell::write_file(&folder.join("latency.md"), &page)?;
        shell::write_file(&folder.join("latency.svg"), plot)?;
    }
    Ok(())
}

/// A plot of the maximum latency in each second of both runs, on a logarithmic axis.
fn plot(calm: &Run, rolled: &Run, seconds: usize) -> Result<String> {
    let (width, height, left) = (900.0, 300.0, 60.0);
    let x = |second: usize| left + second as f64 * (width - left - 10.0) / seconds as f64;
    let y = |latency: f64| height - 30.0 - latency.max(1.0).log10() / 4.0 * (height - 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (latency, label) in [
        (1.0, "1 ms"),
        (10.0, "10 ms"),
        (100.0, "100 ms"),
        (1000.0, "1 s"),
        (10_000.0, "10 s"),
    ] {
        let at = y(latency);
        writeln!(
            svg,
            "<line x1=\"{left}\" x2=\"{width}\" y1=\"{at}\" y2=\"{at}\" stroke=\"#ddd\"/><text x=\"5\" y=\"{}\">{label}</text>",
            at + 4.0
        )?;
    }
    for (run, color, label, place) in [
        (calm, "#2a7", "no roll", 70.0),
        (rolled, "#c33", "roll", 140.0),
    ] {
        let points: Vec<_> = run
            .seconds
            .iter()
            .enumerate()
            .map(|(second, (_, highest))| format!("{:.1},{:.1}", x(second), y(*highest)))
            .collect();
        writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\" points=\"{}\"/>",
            points.join(" ")
        )?;
        writeln!(
            svg,
            "<text x=\"{place}\" y=\"15\" fill=\"{color}\">{label}</text>"
        )?;
    }
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\">seconds; highest latency of each</text>\n</svg>",
        width / 2.0,
        height - 8.0
    )?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_producer_are_read() {
        assert_eq!(
            latencies(
                "301 records sent, 300.4 records/sec (0.03 MB/sec), 5.2 ms avg latency, 46.0 ms max latency."
            ),
            Some((5.2, 46.0))
        );
        assert_eq!(latencies("something else"), None);
        let summary = "33000 records sent, 299.9 records/sec (0.03 MB/sec), 7.5 ms avg latency, 950.0 ms max latency, 4 ms 50th, 20 ms 95th, 61 ms 99th, 300 ms 99.9th.";
        assert_eq!(
            [" ms 50th", " ms 99.9th", " ms max latency"].map(|words| number(summary, words)),
            [Some(4.0), Some(300.0), Some(950.0)]
        );
    }
}
