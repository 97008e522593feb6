//! Runs a stage until it gets SIGTERM or SIGINT.
//!
//! It is given two files: the stage document, and how to reach Kafka. Secrets are files that the
//! second one names.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use freehold_pipeline::report::Stopped;
use freehold_pipeline::stage_document::StageDocument;
use freehold_pipeline::stages::Role;
use freehold_pipeline_blocks::isolation::on_large_stack;
use freehold_runner::causes::chain;
use freehold_runner::deliver;
use freehold_runner::figures::Figures;
use freehold_runner::flow::{BlockFigures, StageBlocks};
use freehold_runner::http::router;
use freehold_runner::ingest;
use freehold_runner::journal::Journal;
use freehold_runner::process::Process;
use freehold_runner::settings::{self, ClientSettings, SettingsError, stage_config};
use freehold_runner::sockets;
use freehold_runner::stage_loop::{End, StageError, run};
use freehold_runner::status::Replica;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Another process has taken this one's id.
const EXIT_IDENTITY_TAKEN: u8 = 3;

/// The stage cannot run.
const EXIT_FAILED: u8 = 1;

#[derive(Parser)]
#[command(about = "Runs a stage of a Pipeline", version)]
struct Arguments {
    /// The stage document: a JSON file
    #[arg(long)]
    stage: PathBuf,
    /// How to reach Kafka, and the limits: a JSON file
    #[arg(long)]
    client: PathBuf,
    /// The number of this replica of the stage, from 0
    #[arg(long)]
    ordinal: u32,
    /// Where /healthz, /readyz, /metrics and /status are served
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// The folder of the Pipeline's Secrets: <secret>/<key>
    #[arg(long, default_value = "/etc/freehold/secrets")]
    secrets: PathBuf,
    /// The folder of tls.crt and tls.key, for a source by HTTPS
    #[arg(long, default_value = "/etc/freehold/tls")]
    tls: PathBuf,
    /// Where a source by HTTPS listens
    #[arg(long, default_value = "[::]:8443")]
    http_source: SocketAddr,
    /// A folder that outlives the process, for the crash journal; without it there is none
    #[arg(long)]
    work: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot serve at {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// What the process shares between its threads.
#[derive(Clone, Default)]
struct Shared {
    stop: Arc<AtomicBool>,
    figures: Arc<Figures>,
    blocks: BlockFigures,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("FREEHOLD_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let shared = Shared::default();
    let (document, client, runtime) = match start(&arguments, &shared) {
        Ok(started) => started,
        Err(error) => {
            tracing::error!(error = %chain(&error), "cannot start");
            return ExitCode::from(EXIT_FAILED);
        }
    };
    let process = Process {
        ordinal: arguments.ordinal,
        secrets: arguments.secrets,
        tls: arguments.tls,
        http_source: arguments.http_source,
        work: arguments.work,
        figures: Arc::clone(&shared.figures),
        blocks: Arc::clone(&shared.blocks),
        stop: Arc::clone(&shared.stop),
        runtime: runtime.handle().clone(),
    };
    // Programs recurse as deeply as they are nested, when they are compiled and when they run.
    let stage = on_large_stack(move || ended(stage(&document, client, &process), &shared));
    stage.unwrap_or_else(|error| {
        tracing::error!(error, "the stage has failed");
        ExitCode::from(EXIT_FAILED)
    })
}

/// Runs a stage until the process is asked to end.
fn stage(
    document: &StageDocument,
    client: ClientSettings,
    process: &Process,
) -> Result<End, StageError> {
    match Role::of(&document.definition.blocks) {
        Role::Ingest | Role::Deliver if document.replay.is_some() => {
            let why = "dead letters of a stage that takes records from outside Kafka, or delivers \
                       them there, cannot be replayed";
            Ok(stopped(why.to_owned(), process))
        }
        Role::Flow => flow(document, client, process),
        Role::Ingest => ingest::run(document, client, process),
        Role::Deliver => deliver::run(document, client, process),
    }
}

/// Compiles the blocks, and runs them.
fn flow(
    document: &StageDocument,
    client: ClientSettings,
    process: &Process,
) -> Result<End, StageError> {
    let journal = match &process.work {
        Some(folder) => Journal::open(folder, document),
        None => Journal::default(),
    };
    let blocks = match StageBlocks::compile(document, Arc::clone(&process.blocks), journal) {
        Ok(blocks) => blocks,
        // Its revision has been run by the stage: it is the replay that does not fit it.
        Err(why) if document.replay.is_some() => return Ok(stopped(why, process)),
        Err(why) => return Err(StageError::Document(why)),
    };
    let config = stage_config(document, client, blocks.topics(), process.ordinal);
    run(&config, blocks, &process.figures, &process.stop)
}

/// A stage that has stopped before it began.
fn stopped(error: String, process: &Process) -> End {
    let stopped = Stopped {
        block: None,
        error,
        address: None,
    };
    process.figures.set_stopped(stopped.clone());
    End::Stopped(stopped)
}

/// The exit code of a stage that ended. One that has stopped waits to be ended.
fn ended(end: Result<End, StageError>, shared: &Shared) -> ExitCode {
    match end {
        Ok(End::Drained) => ExitCode::SUCCESS,
        Ok(End::Stopped(stopped)) => {
            tracing::error!(?stopped, "the stage has stopped; it waits to be ended");
            // A new start would meet the same record.
            while !shared.stop.load(Ordering::Relaxed) {
                shared.figures.beat();
                std::thread::sleep(Duration::from_millis(200));
            }
            ExitCode::SUCCESS
        }
        Ok(End::IdentityTaken { instance, message }) => {
            tracing::error!(instance, message, "another process works with this id");
            ExitCode::from(EXIT_IDENTITY_TAKEN)
        }
        Err(error) => {
            tracing::error!(error = %chain(&error), "the stage has failed");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// Reads the settings, and starts what runs beside the loop: signals and the HTTP server.
fn start(
    arguments: &Arguments,
    shared: &Shared,
) -> Result<(StageDocument, ClientSettings, Runtime), StartError> {
    let (document, client) = settings::read(&arguments.stage, &arguments.client)?;
    let listen = |source| StartError::Listen {
        address: arguments.listen,
        source,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(listen)?;
    let listener = runtime
        .block_on(sockets::bind(arguments.listen))
        .map_err(listen)?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::terminate()).map_err(listen)?,
            signal(SignalKind::interrupt()).map_err(listen)?,
        )
    };
    let stop = Arc::clone(&shared.stop);
    runtime.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end");
        stop.store(true, Ordering::Relaxed);
    });
    let replica = Replica::of(&document, arguments.ordinal);
    let routes = router(
        Arc::clone(&shared.figures),
        Arc::clone(&shared.blocks),
        replica,
    );
    runtime.spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            tracing::error!(%error, "the HTTP server has ended");
        }
    });
    Ok((document, client, runtime))
}
