//! Events: one when an object's state changes, with the reason of its conditions.

use super::kind::Kind;
use crate::conditions::State;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

/// Publishes a change of state. An event that cannot be written is only logged: nothing depends on it.
pub async fn changed<K: Kind>(client: &Client, object: &K::Object, state: &State) {
    let (reason, message) = state.words();
    let event = Event {
        type_: if matches!(state, State::Stalled { .. }) { EventType::Warning } else { EventType::Normal },
        reason: reason.name().to_owned(),
        note: Some(message.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let recorder = Recorder::new(client.clone(), Reporter { controller: "freehold".into(), instance: None });
    if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
        tracing::warn!(%error, "cannot write an event");
    }
}
