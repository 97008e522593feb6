//! Runs one stage of a Pipeline: reads topics, gives the records to blocks, and writes what they
//! return to Kafka, exactly once or at least once.
//!
//! - [`blocks`]: what a stage does with records, as a trait; [`record`] and [`outputs`] are its input
//!   and output.
//! - [`stage_loop`]: the loop that reads, writes and commits.
//! - [`producer`]: how a batch of outputs is written, as a trait, and librdkafka behind it.
//! - [`consumer`]: the consumer, and the rebalances that it saw; `reading`: what its errors mean.
//! - [`flow`]: the blocks of a stage document. [`threshold`]: whether too many records fail. [`settings`]: the files that a runner is given.
//! - [`replay`]: which dead letters a stage reads in the place of its sources.
//! - [`journal`]: which records the process works on, for the next one if it dies.
//! - [`deliver`]: the loop of a stage that delivers records outside Kafka, and its sinks.
//! - [`config`]: the settings of a stage. [`client_config`] makes librdkafka's settings from them.
//! - [`http_client`]: asks and tells endpoints, for a source and for sinks.
//! - [`mqtt`]: the protocol of MQTT, for a source and a sink.
//! - [`ingest`]: a stage that takes records from outside Kafka; [`process`] is what it gets of its
//!   process.
//! - [`sockets`]: what it listens on.
//! - [`figures`], [`window`], [`metrics`], [`status`], [`http`]: what a stage says about itself.
#![forbid(unsafe_code)]

pub mod backoff;
pub mod blocks;
pub mod causes;
pub mod client_config;
pub mod config;
pub mod consumer;
pub mod deliver;
pub mod figures;
pub mod flow;
pub mod http;
pub mod http_client;
pub mod ingest;
pub mod journal;
pub mod metrics;
pub mod mqtt;
pub mod outputs;
pub(crate) mod placing;
pub mod process;
pub mod producer;
mod reading;
pub mod record;
pub mod replay;
pub mod settings;
pub mod sockets;
pub mod stage_loop;
pub mod status;
pub mod threshold;
pub mod window;
