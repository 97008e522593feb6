//! `cargo xtask up`: from nothing to a cluster through which records flow.

use crate::cargo::Profile;
use crate::images::{self, Image};
use crate::install::{self, Installation};
use crate::layout::{Layout, version};
use crate::{builds, local, prerequisites};
use anyhow::{Context, Result, bail, ensure};
use freehold_e2e::flow::{self, Before, Client};
use freehold_e2e::kubectl::{Kubectl, not_ready};
use freehold_e2e::shell;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Number of records that `up` produces and consumes; `test` uses more.
const RECORDS: usize = 10_000;

#[derive(clap::Args, Default)]
pub struct Options {
    /// Stop when the local Kubernetes is Ready, without Freehold.
    #[arg(long)]
    kubernetes_only: bool,
    /// Use this context of your kubeconfig; nothing local is started. Needs the three image options.
    #[arg(long, requires_all = ["operator_image", "kafka_image", "runner_image"])]
    context: Option<String>,
    /// The operator's image, with --context.
    #[arg(long)]
    operator_image: Option<String>,
    /// Kafka's image for the newest version, with --context.
    #[arg(long)]
    kafka_image: Option<String>,
    /// The image of the runner of Pipelines, with --context.
    #[arg(long)]
    runner_image: Option<String>,
    /// How the operator and the runner are compiled.
    #[arg(skip)]
    profile: Profile,
}

impl Options {
    /// The options for the local Kubernetes with an operator of this profile.
    pub fn local(profile: Profile) -> Self {
        Self {
            profile,
            ..Self::default()
        }
    }
}

/// Prints each phase with its time.
struct Phases(Instant);

impl Phases {
    fn run<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        println!("· {name}");
        let result = work().with_context(|| name.to_owned())?;
        println!(
            "  done in {:.1} s (at {:.1} s)",
            start.elapsed().as_secs_f64(),
            self.0.elapsed().as_secs_f64()
        );
        Ok(result)
    }
}

pub fn up(layout: &Layout, options: &Options) -> Result<()> {
    let phases = Phases(Instant::now());
    let (installation, kafka) = match &options.context {
        Some(context) => existing(layout, context, options)?,
        None => {
            let Some(ready) = local_cluster(layout, &phases, options)? else {
                return Ok(());
            };
            ready
        }
    };
    phases.run("installing Freehold by its charts", || {
        installation.install(layout)
    })?;
    quickstart(layout, &phases, &installation, &kafka)?;
    summary(&installation)
}

/// Starts the local Kubernetes and loads all images; `None` if only Kubernetes was requested.
fn local_cluster(
    layout: &Layout,
    phases: &Phases,
    options: &Options,
) -> Result<Option<(Installation, String)>> {
    phases.run("what the machine must have", || {
        prerequisites::ensure(layout)?;
        // Before anything is built: it takes minutes.
        local::conflicts::check(layout)
    })?;
    let java = prerequisites::java_feature(layout)?;
    // Build Go and Rust at the same time: on two cores neither has to wait for the other.
    let what = "building Kubernetes (Go), the operator and the runner (Rust)";
    let (bin, operator, runner) = phases.run(what, || {
        std::thread::scope(|scope| {
            let rust = scope.spawn(|| -> Result<_> {
                let operator = builds::operator(layout, options.profile)?;
                Ok((operator, builds::runner(layout, options.profile)?))
            });
            let go = builds::go_programs(layout);
            let (operator, runner) = rust
                .join()
                .map_err(|_| anyhow::anyhow!("the Rust build panicked"))??;
            Ok((go?, operator, runner))
        })
    })?;
    let small = phases.run("building the images of the local cluster", || {
        images::of_local_cluster(layout)
    })?;
    phases.run("starting Kubernetes", || {
        local::up(layout, &bin)?;
        images::load(layout, &small)
    })?;
    if options.kubernetes_only {
        println!("Kubernetes is Ready: cargo xtask kubectl get nodes");
        return Ok(None);
    }
    let what = "building the images of Kafka, the operator and the runner";
    let (kafka, operator, runner) = phases.run(what, || {
        let mut kafka: Vec<(String, Image)> = Vec::new();
        for version in images::kafka_versions(layout)? {
            let image = images::kafka(layout, &version, java)?;
            kafka.push((version, image));
        }
        let operator = images::operator(layout, &operator)?;
        Ok((kafka, operator, images::runner(layout, &runner)?))
    })?;
    let mut all: Vec<Image> = kafka.iter().map(|(_, image)| image.clone()).collect();
    all.extend([operator.clone(), runner.clone()]);
    let kubectl = local_kubectl(layout, &bin);
    phases.run("loading images into the nodes", || {
        images::load(layout, &all)?;
        images::forget(layout, &kubectl, &[small, all].concat())
    })?;
    let installation = Installation {
        helm: bin.join("helm"),
        target: vec![
            "--kubeconfig".into(),
            layout.kubeconfig().to_string_lossy().into_owned(),
        ],
        kubectl,
        operator: operator.name,
        runner: runner.name,
        kafka: install::kafka_map(&kafka),
        watch_namespaces: vec!["kafka".into(), "shop".into()],
    };
    let newest = kafka
        .first()
        .map(|(_, image)| image.name.clone())
        .context("a Kafka image")?;
    Ok(Some((installation, newest)))
}

/// kubectl for the local Kubernetes.
pub fn local_kubectl(layout: &Layout, bin: &Path) -> Kubectl {
    Kubectl {
        program: bin.join("kubectl").to_string_lossy().into_owned(),
        target: vec![
            "--kubeconfig".into(),
            layout.kubeconfig().to_string_lossy().into_owned(),
        ],
    }
}

fn existing(layout: &Layout, context: &str, options: &Options) -> Result<(Installation, String)> {
    for program in ["kubectl", "helm"] {
        ensure!(
            shell::succeeds(&mut shell::command("which", [program])),
            "{program} is not on PATH: install it"
        );
    }
    let kubectl = Kubectl {
        program: "kubectl".into(),
        target: vec!["--context".into(), context.to_owned()],
    };
    if let Err(error) = kubectl.run(&["version"]) {
        bail!("context {context} does not answer: {error}");
    }
    let kafka = options.kafka_image.clone().context("--kafka-image")?;
    let installation = Installation {
        helm: "helm".into(),
        target: vec!["--kube-context".into(), context.to_owned()],
        kubectl,
        operator: options.operator_image.clone().context("--operator-image")?,
        runner: options.runner_image.clone().context("--runner-image")?,
        kafka: [(version(&layout.repo, "KAFKA")?, kafka.clone())].into(),
        watch_namespaces: vec!["kafka".into(), "shop".into()],
    };
    Ok((installation, kafka))
}

/// Annotation on the Job that consumed the records, once they were checked.
const PROVEN: &str = "freehold.dev/proven";

const OBJECTS: [(&str, &str, &str); 3] = [
    ("kafkacluster", "kafka", "demo"),
    ("topic", "shop", "orders"),
    ("user", "shop", "shop-app"),
];

fn quickstart(
    layout: &Layout,
    phases: &Phases,
    installation: &Installation,
    kafka: &str,
) -> Result<()> {
    let kubectl = &installation.kubectl;
    let text = std::fs::read_to_string(layout.repo.join("deploy/examples/quickstart.yaml"))?;
    phases.run("deploy/examples/quickstart.yaml", || {
        kubectl.apply(&text)?;
        for (kind, namespace, name) in OBJECTS {
            let mut progress = Progress::new(format!("{kind} {namespace}/{name}"));
            shell::wait_for(
                &format!("{kind} {namespace}/{name} Ready"),
                Duration::from_secs(600),
                || {
                    let object = kubectl
                        .get(kind, namespace, name)?
                        .context("it is not there")?;
                    let waiting = not_ready(&object);
                    progress.show(waiting.as_deref());
                    Ok(waiting)
                },
            )?;
        }
        Ok(())
    })?;
    let client = Client {
        namespace: "shop".into(),
        secret: "shop-app-kafka".into(),
        image: kafka.to_owned(),
        topic: "orders".into(),
    };
    let proven = kubectl
        .get("job", "shop", "quickstart-consume")?
        .is_some_and(|job| job["metadata"]["annotations"][PROVEN] == "true");
    if proven {
        println!(
            "· records flowed through it before (Job shop/quickstart-consume); \
             cargo xtask test proves it again"
        );
        return Ok(());
    }
    phases.run(&format!("moving {RECORDS} records through it"), || {
        flow::prove(
            kubectl,
            &client,
            "quickstart",
            RECORDS,
            Before::Anything,
            Duration::from_secs(300),
        )?;
        let mark = format!("{PROVEN}=true");
        kubectl
            .run(&[
                "annotate",
                "--overwrite",
                "job",
                "quickstart-consume",
                "--namespace",
                "shop",
                &mark,
            ])
            .map(|_| ())
    })
}

/// Shows what is waited for and for how long: on one line of a terminal, or one line for each state
/// if the output is a file.
struct Progress {
    what: String,
    start: Instant,
    last: String,
}

impl Progress {
    fn new(what: String) -> Self {
        Self {
            what,
            start: Instant::now(),
            last: String::new(),
        }
    }

    fn show(&mut self, waiting: Option<&str>) {
        let seconds = self.start.elapsed().as_secs();
        let words: String = waiting.unwrap_or("Ready").chars().take(140).collect();
        if std::io::stdout().is_terminal() {
            let end = if waiting.is_none() { "\n" } else { "" };
            print!("\r\x1b[2K  {seconds:>3} s  {}: {words}{end}", self.what);
            let _ = std::io::stdout().flush();
        } else if words != self.last {
            println!("  {seconds:>3} s  {}: {words}", self.what);
        }
        self.last = words;
    }
}

fn summary(installation: &Installation) -> Result<()> {
    println!("\nWhat runs:");
    for kind in ["kafkaclusters", "topics", "users"] {
        println!(
            "{}\n",
            installation
                .kubectl
                .run(&["get", kind, "--all-namespaces"])?
        );
    }
    println!(
        "How to reach it, from a pod in namespace shop: mount Secret shop-app-kafka; \
         its client.properties is ready to use."
    );
    println!("What to try next:");
    println!("  cargo xtask kubectl describe kafkacluster -n kafka demo");
    println!(
        "  cargo xtask kubectl delete pod -n kafka demo-nodes-zone-a-0    # and see it come back"
    );
    println!(
        "  cargo xtask logs                                               # the operator's log"
    );
    println!(
        "  cargo xtask test                                               \
         # every test, on this cluster"
    );
    println!("  cargo xtask down                                               # end it all");
    Ok(())
}
