//! Events: when an object's state changes, and of what was put right.

use super::kind::{Kind, Notice};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

/// Publishes a notice. An event that cannot be written is only logged: nothing depends on it.
pub async fn publish<K: Kind>(client: &Client, object: &K::Object, notice: &Notice, warns: bool) {
    let event = Event {
        type_: if warns { EventType::Warning } else { EventType::Normal },
        reason: notice.reason.name().to_owned(),
        note: Some(notice.message.chars().take(1000).collect()),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    let recorder = Recorder::new(client.clone(), Reporter { controller: "freehold".into(), instance: None });
    if let Err(error) = recorder.publish(&event, &object.object_ref(&())).await {
        tracing::warn!(%error, "cannot write an event");
    }
}
