//! Events about objects: changes of their state, and notices.

use crate::runtime::kind::Notice;
use crate::words;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// The API server takes 1024 bytes.
const EVENT_BYTES_MAX: usize = 1000;

/// Publishes a notice. An event that cannot be written is only logged: nothing depends on it.
pub async fn publish(client: &Client, object: &ObjectReference, notice: &Notice, warns: bool) {
    let event = Event {
        type_: if warns {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: notice.reason.name().to_owned(),
        note: Some(words::cut_to_bytes(&notice.message, EVENT_BYTES_MAX)),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let recorder = Recorder::new(
        client.clone(),
        Reporter {
            controller: "freehold".into(),
            instance: None,
        },
    );
    if let Err(error) = recorder.publish(&event, object).await {
        tracing::warn!(%error, "cannot write an event");
    }
}
