//! `cargo xtask bench cluster`: the time from a new KafkaCluster to Ready, next to a baseline in
//! the same run: the same three nodes in a handwritten StatefulSet, plaintext, on Java 17,
//! formatted by Kafka's own tool; and the size of the operator. `cargo xtask bench topics|users`:
//! bursts of them (tests/e2e/benches/scale.rs). `cargo xtask bench planner`:
//! crates/kafka/benches/planner.rs
//! next to Kafka's own tool. `cargo xtask bench pipeline`: a stage next to MirrorMaker 2
//! (bench_pipeline.rs). `--short` only shows that they work; `cargo xtask test` runs each of
//! them in this form.

use crate::cargo::{Profile, cargo};
use crate::layout::{Layout, version};
use crate::{bench_leftovers, bench_pipeline, bench_roll};
use crate::{builds, images, prerequisites, up};
use anyhow::{Context, Result, ensure};
use freehold_e2e::kubectl::{Kubectl, not_ready};
use freehold_e2e::shell;
use serde_json::json;
use std::fmt::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
    /// As short as it can be, to see that the benchmark works: the figures mean nothing.
    #[arg(long, global = true)]
    short: bool,
}

#[derive(clap::Subcommand)]
enum What {
    /// From a KafkaCluster to Ready, beside the floor.
    Cluster {
        /// Pairs of runs.
        #[arg(long, default_value_t = 5)]
        runs: u32,
        /// Write docs/benchmarks.md.
        #[arg(long)]
        write: bool,
    },
    /// Bursts of Topics to Ready, beside the floor.
    Topics(Burst),
    /// Bursts of Users to Ready, beside the floor.
    Users(Burst),
    /// The reassignment planner over generated clusters, beside Kafka's own tool.
    Planner {
        /// Write docs/benchmarks/planner.md.
        #[arg(long)]
        write: bool,
    },
    /// A stage of a Pipeline, beside MirrorMaker 2 on the same broker.
    Pipeline {
        /// Write docs/benchmarks/pipelines.md.
        #[arg(long)]
        write: bool,
    },
    /// Latencies of a producer while every node restarts, beside an equal run without.
    Roll {
        /// Write docs/benchmarks/latency.md and its plot.
        #[arg(long)]
        write: bool,
    },
}

#[derive(clap::Args)]
struct Burst {
    /// How many, one burst after the other; after the last, what is done with that many at rest.
    #[arg(value_delimiter = ',')]
    counts: Vec<usize>,
    /// Write docs/benchmarks/.
    #[arg(long)]
    write: bool,
}

const LIMIT: Duration = Duration::from_secs(300);
/// Number of Topics or Users in the short form.
const SHORT_COUNT: usize = 30;

pub fn bench(layout: &Layout, options: &Options) -> Result<()> {
    let write = match &options.what {
        What::Cluster { write, .. }
        | What::Planner { write }
        | What::Pipeline { write }
        | What::Roll { write } => *write,
        What::Topics(burst) | What::Users(burst) => burst.write,
    };
    ensure!(
        !(options.short && write),
        "figures of the short form mean nothing: leave out --short or --write"
    );
    if !matches!(options.what, What::Planner { .. } | What::Pipeline { .. }) {
        let profile = if options.short {
            Profile::Local
        } else {
            Profile::Release
        };
        up::up(layout, &up::Options::local(profile))?;
    }
    run(layout, &options.what, options.short)
}

/// Runs every benchmark in its short form on the running local cluster, because a command that
/// nobody runs stops working unnoticed.
pub fn short_forms(layout: &Layout) -> Result<()> {
    let (write, burst) = (false, || Burst {
        counts: Vec::new(),
        write: false,
    });
    for what in [
        What::Planner { write },
        What::Pipeline { write },
        What::Cluster { runs: 1, write },
        What::Topics(burst()),
        What::Users(burst()),
        What::Roll { write },
    ] {
        run(layout, &what, true)?;
    }
    Ok(())
}

fn run(layout: &Layout, what: &What, short: bool) -> Result<()> {
    match what {
        What::Planner { write } => return planner(layout, short, *write),
        What::Pipeline { write } => return bench_pipeline::bench(layout, short, *write),
        _ => {}
    }
    let kubectl = up::local_kubectl(layout, &builds::go_programs(layout)?);
    let counts = |most: usize| {
        if short {
            vec![SHORT_COUNT]
        } else {
            vec![1000, most]
        }
    };
    bench_leftovers::cleaned_up(&kubectl, || match what {
        What::Cluster { runs, write } => clusters(layout, &kubectl, *runs, short, *write),
        What::Topics(burst) => bursts(layout, &kubectl, "topics", burst, &counts(10_000), short),
        What::Users(burst) => bursts(layout, &kubectl, "users", burst, &counts(5000), short),
        What::Roll { write } => bench_roll::bench(layout, short, *write),
        What::Planner { .. } | What::Pipeline { .. } => Ok(()),
    })
}

fn clusters(layout: &Layout, kubectl: &Kubectl, runs: u32, short: bool, write: bool) -> Result<()> {
    let kafka = version(&layout.repo, "KAFKA")?;
    let profile = if short {
        Profile::Local
    } else {
        Profile::Release
    };
    let fallback: u32 = version(&layout.repo, "JAVA_FALLBACK")?.parse()?;
    let floor_image = images::kafka(layout, &kafka, fallback)?;
    images::load(layout, std::slice::from_ref(&floor_image))?;
    let rss = resident()?;
    let first = first_reconcile(layout, kubectl, profile)?;
    println!(
        "operators: {} MB resident; first reconcile after {first:.2} s",
        rss.join(" and ")
    );
    let load_before = load()?;
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        floors.push(floor(kubectl, &floor_image.name)?);
        ours.push(cluster(kubectl, &kafka)?);
        println!(
            "run {run}: floor {:.1} s, Freehold {:.1} s",
            floors[floors.len() - 1],
            ours[ours.len() - 1]
        );
    }
    let load_after = load()?;
    let java = prerequisites::java_feature(layout)?;
    let kafka_image = images::kafka(layout, &kafka, java)?;
    let operator_image = images::operator(layout, &builds::operator(layout, profile)?)?;
    let mib = |path: &std::path::Path| -> Result<f64> {
        Ok(std::fs::metadata(path)?.len() as f64 / (1024.0 * 1024.0))
    };
    let mut page = String::from(HEAD);
    let row = |times: &[f64]| {
        let list: Vec<_> = times.iter().map(|time| format!("{time:.1}")).collect();
        (list.join(", "), median(times))
    };
    let (floor_list, floor_median) = row(&floors);
    let (our_list, our_median) = row(&ours);
    writeln!(
        page,
        "| | runs, s | median, s | ratio |\n| --- | --- | --- | --- |"
    )?;
    writeln!(
        page,
        "| floor: StatefulSet by hand, plaintext, Java {fallback} | {floor_list} | {floor_median:.1} | 1 |"
    )?;
    let ratio = our_median / floor_median;
    writeln!(
        page,
        "| Freehold: TLS, SCRAM, authorizer, Java {java} with its archive | {our_list} | {our_median:.1} | {ratio:.2} |"
    )?;
    writeln!(
        page,
        "\n## The operator\n\n| what | seen | aim |\n| --- | --- | --- |"
    )?;
    writeln!(
        page,
        "| resident memory, idle, leader and standby | {} MB | ≤ 20 MB |",
        rss.join(" and ")
    )?;
    writeln!(
        page,
        "| start of the process to the first reconcile | {first:.2} s | ≤ 0.5 s |"
    )?;
    writeln!(
        page,
        "| image of the operator, uncompressed | {:.1} MiB | ≤ 20 MB |",
        mib(&operator_image.archive)?
    )?;
    writeln!(
        page,
        "| image of Kafka {kafka}, uncompressed | {:.0} MiB | |",
        mib(&kafka_image.archive)?
    )?;
    writeln!(
        page,
        "\nLoad of the machine (1, 5, 15 minutes) before: {load_before}; after: {load_after}; two cores, all of it on one machine."
    )?;
    println!("\n{page}");
    if write {
        shell::write_file(&layout.repo.join("docs/benchmarks.md"), page)?;
    }
    Ok(())
}

const HEAD: &str = "# Benchmarks

Bursts of [Topics](benchmarks/topics.md) and [Users](benchmarks/users.md), [ten thousand
Topics](benchmarks/ten-thousand-topics.md), the [planner](benchmarks/planner.md), [restarts and scaling
under load](benchmarks/roll.md), [latencies over a roll](benchmarks/latency.md) and [the tests
themselves](benchmarks/tests.md) have pages of their own.
`cargo xtask bench pipeline --write` writes that of Pipelines, beside MirrorMaker 2.

Written by `cargo xtask bench cluster --write`. Figures are of one run on one machine, and compare only within it: ratios
count. Both sides start from nothing (no object, no volume), one after the other, with the quickstart's cluster idle beside them.

## From a KafkaCluster to Ready

";

/// Runs the benchmark of bursts, and makes a table of its output.
fn bursts(
    layout: &Layout,
    kubectl: &Kubectl,
    kind: &str,
    burst: &Burst,
    defaults: &[usize],
    short: bool,
) -> Result<()> {
    let counts = if burst.counts.is_empty() {
        defaults
    } else {
        burst.counts.as_slice()
    };
    let most = counts.iter().copied().max().unwrap_or_default();
    bench_leftovers::start_cluster(kubectl, &version(&layout.repo, "KAFKA")?, most)?;
    let load_before = load()?;
    let mut bench = bench_program(layout, "freehold-e2e", "scale", short)?;
    bench
        .arg(kind)
        .args(counts.iter().map(ToString::to_string))
        .env("KUBECONFIG", layout.kubeconfig())
        .env("FREEHOLD_AUDIT_LOG", layout.logs().join("audit.json"));
    let text = shell::output(&mut bench)?;
    let mut page = format!(
        "# Benchmarks: bursts of {kind}\n\n\
         Written by `cargo xtask bench {kind} --write`: {BURSTS_HEAD}\n"
    );
    writeln!(page, "| how many | what | seen |\n| --- | --- | --- |")?;
    for line in text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
    {
        let (count, what) = (&line["count"], line["what"].as_str().unwrap_or_default());
        writeln!(
            page,
            "| {count} | {what} | {} {} |",
            line["value"],
            line["unit"].as_str().unwrap_or_default()
        )?;
    }
    writeln!(
        page,
        "\nLoad of the machine (1, 5, 15 minutes) before: {load_before}; after: {}.",
        load()?
    )?;
    println!("{page}");
    if burst.write {
        shell::write_file(
            &layout.repo.join(format!("docs/benchmarks/{kind}.md")),
            page,
        )?;
    }
    Ok(())
}

/// A benchmark of one of our crates. The short form uses the profile of the tests, so that nothing
/// is compiled only for it.
fn bench_program(layout: &Layout, package: &str, name: &str, short: bool) -> Result<Command> {
    let what = if short { "test" } else { "bench" };
    let mut bench = cargo(
        layout,
        [
            what,
            "--quiet",
            "--locked",
            "--package",
            package,
            "--bench",
            name,
            "--",
        ],
    )?;
    if short {
        bench.env("FREEHOLD_BENCH_SHORT", "1");
    }
    Ok(bench)
}

/// Runs the planner's benchmark, with Kafka's own tool for comparison.
fn planner(layout: &Layout, short: bool, write: bool) -> Result<()> {
    let mut bench = bench_program(layout, "freehold-kafka", "planner", short)?;
    let table = shell::output(bench.env("FREEHOLD_REASSIGN", builds::reassign_tool(layout)?))?;
    let page = format!("{PLANNER_HEAD}\n{table}\n\n{PLANNER_END}");
    println!("{page}");
    if write {
        shell::write_file(&layout.repo.join("docs/benchmarks/planner.md"), page)?;
    }
    Ok(())
}

const PLANNER_HEAD: &str = "# The reassignment planner

Written by `cargo xtask bench planner --write`. Generated clusters, one core; three replicas a partition in different racks, skewed over
the brokers of a rack. `lower bound` is what counts alone force: what is missing below floors, or too much above ceilings and on
brokers that leave, whichever is more. \"Kafka's tool\" is `kafka-reassign-partitions --generate` of the version that Freehold installs, asked
about the same cluster by an admin client that answers from text; its time is that of a JVM that has just started. \"within\" is the most
less the fewest on brokers with full duty; racks of unequal size force the 4584. A disk's share is what as many replicas of average size are.
";

const PLANNER_END: &str = "Aims: 100 000 partitions ≤ 250 ms, 2.8 million replicas ≤ 5 s and ≤ 1.5 GB, moves / lower bound 1.000 on counts,
at most 1.01 with all goals, disks within 5 %.
";

const BURSTS_HEAD: &str = "one run on one machine of two cores, which runs the
API server, etcd, three nodes, three brokers and the load beside the operator. Topics have one partition, three replicas and a
config; Users SCRAM-SHA-512 and three rules. The floor is what the same machine needs for the same admin calls by a bare
client in batches of 200, and for as many creations and empty writes of objects that nobody serves, 64 at a time: one after
the other, while Freehold's own overlap.
";

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

pub fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text
        .split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" "))
}

fn cluster(kubectl: &Kubectl, kafka: &str) -> Result<f64> {
    let spec = format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\n\
         metadata: {{name: bench, namespace: kafka}}\nspec:\n  version: {kafka}\n  \
         deletionPolicy: Delete\n  nodePools:\n  \
         - {{name: nodes, roles: [controller, broker], replicas: 3, zones: [zone-a, zone-b, zone-c], \
         storage: {{size: 1Gi}}, jvm: {{heap: 384Mi}}}}\n  listeners:\n  \
         - {{name: tls, port: 9093, authentication: MutualTls}}\n  \
         - {{name: scram, port: 9094, authentication: ScramSha512}}\n"
    );
    let start = Instant::now();
    kubectl.apply(&spec)?;
    poll("the cluster", || {
        Ok(kubectl
            .get("kafkacluster", "kafka", "bench")?
            .is_some_and(|object| not_ready(&object).is_none()))
    })?;
    let took = start.elapsed().as_secs_f64();
    kubectl.delete("kafkacluster", "kafka", "bench", LIMIT)?;
    settle(kubectl, "freehold.dev/cluster=bench")?;
    Ok(took)
}

fn floor(kubectl: &Kubectl, image: &str) -> Result<f64> {
    let voters: Vec<_> = (0..3)
        .map(|id| format!("{id}@floor-{id}.floor.kafka.svc:9090"))
        .collect();
    let properties = format!(
        "process.roles=controller,broker\nnode.id=${{env:NODE_ID}}\nconfig.providers=env\n\
         config.providers.env.class=org.apache.kafka.common.config.provider.EnvVarConfigProvider\n\
         log.dirs=/data/log\n\
         listeners=CONTROLLER://:9090,INTERNAL://:9091\n\
         advertised.listeners=INTERNAL://${{env:POD_NAME}}.floor.kafka.svc:9091\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,INTERNAL:PLAINTEXT\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=INTERNAL\ncontroller.quorum.voters={}\n",
        voters.join(",")
    );
    let java = |args: &[&str]| {
        let mut words = vec![
            "/opt/jre/bin/java",
            "-Xms384m",
            "-Xmx384m",
            "-Dlog4j2.configurationFile=/opt/kafka/config/log4j2.properties",
            "-cp",
            "/opt/kafka/libs/*",
        ];
        words.extend(args);
        json!(words)
    };
    let environment = json!([
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NODE_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}}]);
    let mounts = json!([{"name": "data", "mountPath": "/data"}, {"name": "config", "mountPath": "/config"}, {"name": "tmp", "mountPath": "/tmp"}]);
    let security = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let container = |name: &str, command: serde_json::Value| json!({"name": name, "image": image, "command": command, "env": environment, "volumeMounts": mounts, "securityContext": security});
    let mut kafka = container("kafka", java(&["kafka.Kafka", "/config/server.properties"]));
    kafka["readinessProbe"] = json!({"tcpSocket": {"port": 9091}, "periodSeconds": 1});
    let format = java(&[
        "kafka.tools.StorageTool",
        "format",
        "--ignore-formatted",
        "--cluster-id",
        "MkU3OEVBNTcwNTJENDM2Qg",
        "--config",
        "/config/server.properties",
    ]);
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "floor", "namespace": "kafka"}, "data": {"server.properties": properties}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "floor", "namespace": "kafka"}, "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": true, "selector": {"app": "floor"}, "ports": [{"port": 9091}]}},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "floor", "namespace": "kafka"}, "spec": {
            "serviceName": "floor", "replicas": 3, "podManagementPolicy": "Parallel", "selector": {"matchLabels": {"app": "floor"}},
            "template": {"metadata": {"labels": {"app": "floor"}}, "spec": {
                "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app": "floor"}}}],
                "terminationGracePeriodSeconds": 1,
                "initContainers": [container("format", format)], "containers": [kafka],
                "volumes": [{"name": "config", "configMap": {"name": "floor"}}, {"name": "tmp", "emptyDir": {}}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"app": "floor"}}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}}
    ]});
    let start = Instant::now();
    kubectl.apply(&objects.to_string())?;
    poll("the floor", || {
        Ok(kubectl
            .get("statefulset", "kafka", "floor")?
            .is_some_and(|set| set["status"]["readyReplicas"] == 3))
    })?;
    let took = start.elapsed().as_secs_f64();
    for kind in ["statefulset", "service", "configmap"] {
        kubectl.delete(kind, "kafka", "floor", LIMIT)?;
    }
    kubectl.run(&[
        "delete",
        "pvc",
        "--namespace",
        "kafka",
        "--selector",
        "app=floor",
        "--wait=false",
    ])?;
    settle(kubectl, "app=floor")?;
    Ok(took)
}

/// Waits until all pods and volumes of a run are gone, and a little longer for the controllers that
/// clean up after them.
fn settle(kubectl: &Kubectl, selector: &str) -> Result<()> {
    poll("the end of the run before", || {
        Ok(kubectl
            .run(&[
                "get",
                "pods,pvc",
                "--namespace",
                "kafka",
                "--selector",
                selector,
                "-o",
                "name",
            ])?
            .is_empty())
    })?;
    std::thread::sleep(Duration::from_secs(5));
    Ok(())
}

fn poll(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    shell::wait_for(what, LIMIT, || Ok((!done()?).then(|| "not yet".to_owned())))
}

/// Resident memory in MB of each operator that runs in a pod on this machine.
fn resident() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.starts_with(b"/usr/local/bin/freehold\0operator") {
            let status = std::fs::read_to_string(entry.path().join("status"))?;
            let resident = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))
                .context("VmRSS")?;
            let kibibytes: f64 = resident.trim().trim_end_matches(" kB").parse()?;
            found.push(format!("{:.1}", kibibytes * 1024.0 / 1e6));
        }
    }
    ensure!(
        !found.is_empty(),
        "no operator runs in a pod on this machine"
    );
    Ok(found)
}

/// An operator that runs as a process on this machine; it is killed with its benchmark.
struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        // An error means that it has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds from the start of an operator's process to the end of its first reconcile, from its log.
fn first_reconcile(layout: &Layout, kubectl: &Kubectl, profile: Profile) -> Result<f64> {
    let namespace = "bench-start";
    let object = format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\n\
         metadata: {{name: paused, namespace: {namespace}}}\nspec:\n  version: {}\n  \
         state: Paused\n  \
         nodePools:\n  \
         - {{name: all, roles: [controller, broker], replicas: 1, zones: [zone-a], storage: {{size: 1Gi}}}}\n",
        version(&layout.repo, "KAFKA")?
    );
    // They stay until the cleanup at the end of the benchmark: nothing uses them after this.
    kubectl.apply(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
            .to_string(),
    )?;
    kubectl.apply(&object)?;
    let log = layout.logs().join("operator-bench.log");
    let _ = std::fs::remove_file(&log);
    let kafka = version(&layout.repo, "KAFKA")?;
    let mut command = Command::new(builds::operator(layout, profile)?);
    command
        .args([
            "operator",
            "--watch-namespaces",
            namespace,
            "--namespace",
            namespace,
            "--identity",
            "bench",
            "--http",
            "127.0.0.1:0",
        ])
        .args([
            "--log",
            "debug",
            "--log-format",
            "human",
            "--images",
            &format!("{kafka}=none"),
        ])
        .env("KUBECONFIG", layout.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(shell::log_file(&log)?);
    let start = Instant::now();
    let operator = Operator(command.spawn()?);
    let mut took = None;
    while took.is_none() && start.elapsed() < Duration::from_secs(60) {
        if std::fs::read_to_string(&log)?.contains("reconciled kind=KafkaCluster") {
            took = Some(start.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(operator);
    took.context("no reconcile was seen in the operator's log")
}
