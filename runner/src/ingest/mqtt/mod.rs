//! Takes messages from an MQTT broker.
//!
//! With `shared` all replicas do, each in a session of its own, by a subscription that they share.
//! It is one even while there is one replica: a replica does not know how many there are, and a
//! change of their number must not change what the broker knows. Else messages would come twice, by
//! both kinds of subscription, or, between them, not at all. The session of the first replica is
//! always subscribed, so the broker keeps what comes while no replica is there. Another replica may
//! be asked to end because there are to be fewer: it leaves the subscription, takes what the broker
//! has for it already, and ends. After a death it goes on in its session.

mod session;

use std::sync::Arc;
use std::time::{Duration, Instant};

use freehold_pipeline::block::Block;
use freehold_pipeline::report::Stopped;
use freehold_pipeline::source::MqttSource;
use freehold_pipeline::stage_document::StageDocument;
use tokio::time::sleep;

use super::Shared;
use super::refusals::Refusals;
use crate::backoff::Backoff;
use crate::stage_loop::{End, StageError};
use session::{Ended, Session};

/// A connection that worked for so long is no reason to wait before the next one.
const WORKED: Duration = Duration::from_secs(30);
/// How often the stage looks whether it is to end.
const TICK: Duration = Duration::from_millis(200);

/// What a connection needs to know.
struct Reading {
    settings: MqttSource,
    client_id: String,
    /// The name of the subscription that replicas share.
    group: String,
    /// Nobody may come back to its session.
    leaves: bool,
    shared: Shared,
    refusals: Refusals,
}

/// Takes messages until the process is asked to end. Without a shared subscription only the first
/// replica does: the others would get the same ones.
///
/// # Errors
/// None at the moment: what does not work is tried again.
pub async fn run(
    settings: MqttSource,
    document: &StageDocument,
    block: &Block,
    shared: Shared,
) -> Result<End, StageError> {
    let ordinal = shared.process.ordinal;
    if ordinal > 0 && !settings.shared {
        return Ok(shared.stand_by().await);
    }
    let reading = Arc::new(Reading {
        client_id: format!("{}.{ordinal}", document.group),
        group: document.group.clone(),
        leaves: settings.shared && ordinal > 0,
        refusals: Refusals::of(document, block),
        settings,
        shared,
    });
    Ok(connections(&reading).await)
}

/// One connection after the other.
async fn connections(reading: &Arc<Reading>) -> End {
    let (shared, mut backoff) = (&reading.shared, Backoff::default());
    while shared.goes_on() {
        let began = Instant::now();
        let ended = match Session::open(Arc::clone(reading)).await {
            Ok(mut session) => session.run().await,
            Err(ended) => ended,
        };
        match ended {
            Ended::Drained => return End::Drained,
            Ended::Stopped(error) => {
                let stopped = Stopped {
                    block: Some(shared.source.to_string()),
                    error,
                    address: None,
                };
                shared.process.figures.set_stopped(stopped.clone());
                return End::Stopped(stopped);
            }
            // The sink says why.
            Ended::NotTaken => tracing::warn!("Kafka did not take a message"),
            Ended::Broken(why) => {
                tracing::warn!(why, "no connection to the broker");
                shared.source_problem(Some(why));
            }
        }
        if began.elapsed() > WORKED {
            backoff.reset();
        }
        let until = Instant::now() + backoff.after_failure();
        while Instant::now() < until && shared.goes_on() {
            sleep(TICK.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }
    // It was asked to end between two connections.
    if reading.leaves
        && let Ok(mut session) = Session::open(Arc::clone(reading)).await
    {
        session.run().await;
    }
    End::Drained
}
