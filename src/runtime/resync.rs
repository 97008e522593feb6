//! Resync: reconciles every object of a kind. At once where an event concerns all of them, or all
//! of a group; and slowly all the time.
//!
//! The objects are requeued a few at a time, so that a change of one object does not wait behind
//! ten thousand others, and so that kube's queue, which never gives its memory back, stays short.

use crate::runtime::kind::{Kind, Requeued};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store};
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Objects that are requeued together. The next ones follow once this many or fewer are not yet
/// reconciled.
const STEP: usize = 256;
/// An object that is not reconciled within this time is gone, or hangs: the others do not wait for
/// it any longer.
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// Every object is reconciled once in so many seconds, a few in each, whatever else requeues it:
/// for events that were missed, and for what is due by time. A timer for each of ten thousand
/// objects would take more memory than what is known of their topics.
const ROUND_SECS: usize = 600;

/// The objects of a group, or (`None`) all.
type Order<G> = Option<G>;

/// The resyncs of a kind in a namespace.
pub struct Resync<O: Resource<DynamicType = ()>, G> {
    state: Mutex<State<O, G>>,
    ordered: Notify,
    fewer: Notify,
}

struct State<O: Resource<DynamicType = ()>, G> {
    /// Orders that have not begun.
    orders: BTreeSet<Order<G>>,
    /// Objects that were requeued and have not been reconciled since.
    requeued: HashSet<ObjectRef<O>>,
}

impl<O: Resource<DynamicType = ()>, G> Default for Resync<O, G> {
    fn default() -> Self {
        let state = State {
            orders: BTreeSet::new(),
            requeued: HashSet::new(),
        };
        Self {
            state: Mutex::new(state),
            ordered: Notify::new(),
            fewer: Notify::new(),
        }
    }
}

impl<O: Resource<DynamicType = ()>, G: Ord> Resync<O, G> {
    fn state(&self) -> MutexGuard<'_, State<O, G>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders a resync. The same order given twice before it begins leads to one resync.
    pub fn order(&self, order: Order<G>) {
        self.state().orders.insert(order);
        self.ordered.notify_one();
    }

    /// The objects to requeue now; for a group, or for all, a resync is ordered instead.
    pub fn handle(&self, requeued: Requeued<O, G>) -> Vec<ObjectRef<O>> {
        match requeued {
            Requeued::These(objects) => return objects,
            Requeued::Group(group) => self.order(Some(group)),
            Requeued::All => self.order(None),
        }
        Vec::new()
    }

    async fn next_order(&self) -> Order<G> {
        loop {
            if let Some(order) = self.state().orders.pop_first() {
                return order;
            }
            self.ordered.notified().await;
        }
    }

    /// Notes that an object is being reconciled.
    pub fn reconciling(&self, object: &ObjectRef<O>) {
        let mut state = self.state();
        if state.requeued.remove(object) && state.requeued.len() <= STEP {
            self.fewer.notify_one();
        }
    }

    /// Gives the objects back once most of those before them have been reconciled.
    async fn requeue(&self, objects: Vec<ObjectRef<O>>) -> Vec<ObjectRef<O>> {
        let few = async {
            while self.state().requeued.len() > STEP {
                self.fewer.notified().await;
            }
        };
        let in_time = tokio::time::timeout(STEP_LIMIT, few).await.is_ok();
        let mut state = self.state();
        if !in_time {
            state.requeued.clear();
        }
        state.requeued.extend(objects.iter().cloned());
        objects
    }
}

/// The objects to reconcile because of the orders.
pub fn ordered<K: Kind>(
    resync: Arc<Resync<K::Object, K::Group>>,
    reader: Store<K::Object>,
) -> BoxStream<'static, ObjectRef<K::Object>> {
    let orders = stream::unfold(Arc::clone(&resync), |resync| async move {
        Some((resync.next_order().await, resync))
    });
    orders
        .flat_map(move |order| {
            let is_of_order = |object: &Arc<K::Object>| {
                order
                    .as_ref()
                    .is_none_or(|group| K::group(object).as_ref() == Some(group))
            };
            let objects: Vec<_> = reader.state().into_iter().filter(is_of_order).collect();
            let resync = Arc::clone(&resync);
            stream::iter(objects)
                .map(|object| ObjectRef::from_obj(&*object))
                .chunks(STEP)
                .then(move |objects| {
                    let resync = Arc::clone(&resync);
                    async move { stream::iter(resync.requeue(objects).await) }
                })
        })
        .flatten()
        .boxed()
}

/// Every object once in a round, round after round, for ever.
pub fn rounds<O>(reader: Store<O>) -> BoxStream<'static, ObjectRef<O>>
where
    O: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let seconds = stream::unfold((reader, 0), |(reader, second)| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now: Vec<_> = share(&reader.state(), second)
            .iter()
            .map(|object| ObjectRef::from_obj(&**object))
            .collect();
        Some((stream::iter(now), (reader, (second + 1) % ROUND_SECS)))
    });
    seconds.flatten().boxed()
}

/// The objects whose turn is in this second of a round.
fn share<T>(all: &[T], second: usize) -> &[T] {
    &all[all.len() * second / ROUND_SECS..all.len() * (second + 1) / ROUND_SECS]
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn a_round_gives_each_object_once() {
        for count in [0, 1, 7, ROUND_SECS, 10_000] {
            let all: Vec<usize> = (0..count).collect();
            let given: Vec<usize> = (0..ROUND_SECS)
                .flat_map(|second| share(&all, second))
                .copied()
                .collect();
            assert_eq!(given, all);
            assert!(
                (0..ROUND_SECS)
                    .all(|second| share(&all, second).len() <= count.div_ceil(ROUND_SECS))
            );
        }
    }

    #[test]
    fn the_same_order_given_twice_is_one_resync() {
        let resync = Resync::<ConfigMap, ()>::default();
        resync.order(None);
        resync.order(None);
        assert_eq!(resync.next_order().now_or_never(), Some(None));
        assert_eq!(resync.next_order().now_or_never(), None);
        resync.order(None);
        assert_eq!(resync.next_order().now_or_never(), Some(None));
    }

    #[tokio::test]
    async fn more_are_requeued_once_most_are_reconciled_or_time_is_up() {
        let resync = Resync::<ConfigMap, ()>::default();
        let some = |start: usize| {
            (start..start + STEP)
                .map(|index| ObjectRef::new(&index.to_string()))
                .collect::<Vec<_>>()
        };
        resync.requeue(some(0)).await;
        resync.requeue(some(STEP)).await;
        let mut third = Box::pin(resync.requeue(some(2 * STEP)));
        assert!((&mut third).now_or_never().is_none());
        some(0).iter().for_each(|object| resync.reconciling(object));
        assert_eq!(
            third.now_or_never().map(|objects| objects.len()),
            Some(STEP)
        );
        let start = std::time::Instant::now();
        assert_eq!(resync.requeue(some(3 * STEP)).await.len(), STEP);
        assert!(start.elapsed() >= STEP_LIMIT);
        assert_eq!(resync.state().requeued.len(), STEP);
    }
}
