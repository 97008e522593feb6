//! Looking at every object of a kind: at once where something concerns all of them, but few at a time, so that a change of one
//! does not queue behind ten thousand (and kube's queue, which keeps its room for ever, stays short); and slowly for ever.

use super::kind::{Kind, Woken};
use crate::kinds::reference::ClusterKey;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store};
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Objects that are asked for together. More are asked for once so many or fewer have yet to be looked at.
const STEP: usize = 256;
/// What has not been looked at by then is gone, or hangs: it holds up the others no longer.
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// Every object is looked at once in so many seconds, a few in each, whatever wakes it: for what might have been missed all the
/// same, and for what is due. A timer for each of ten thousand objects would take more room than what is known of their topics.
const ROUND_SECS: usize = 600;

/// What is to be looked at: the objects of a cluster, or (`None`) all.
pub type Order = Option<ClusterKey>;

/// The sweeps of a kind in a namespace.
pub struct Sweeps<O: Resource<DynamicType = ()>> {
    state: Mutex<State<O>>,
    ordered: Notify,
    fewer: Notify,
}

struct State<O: Resource<DynamicType = ()>> {
    /// Those that have not begun.
    orders: BTreeSet<Order>,
    /// Objects that were asked for and have not been looked at since.
    asked: HashSet<ObjectRef<O>>,
}

impl<O: Resource<DynamicType = ()>> Default for Sweeps<O> {
    fn default() -> Self {
        let state = State { orders: BTreeSet::new(), asked: HashSet::new() };
        Self { state: Mutex::new(state), ordered: Notify::new(), fewer: Notify::new() }
    }
}

impl<O: Resource<DynamicType = ()>> Sweeps<O> {
    fn state(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders a sweep; one that waits to begin serves several who order the same.
    pub fn order(&self, order: Order) {
        self.state().orders.insert(order);
        self.ordered.notify_one();
    }

    /// The objects that are to be looked at now; for all of them a sweep is ordered.
    pub fn heed(&self, woken: Woken<O>) -> Vec<ObjectRef<O>> {
        match woken {
            Woken::These(objects) => objects,
            Woken::All(order) => {
                self.order(order);
                Vec::new()
            }
        }
    }

    async fn next_order(&self) -> Order {
        loop {
            if let Some(order) = self.state().orders.pop_first() {
                return order;
            }
            self.ordered.notified().await;
        }
    }

    /// An object is being looked at.
    pub fn looked_at(&self, object: &ObjectRef<O>) {
        let mut state = self.state();
        if state.asked.remove(object) && state.asked.len() <= STEP {
            self.fewer.notify_one();
        }
    }

    /// Gives the objects once most of those before have been looked at.
    async fn ask(&self, objects: Vec<ObjectRef<O>>) -> Vec<ObjectRef<O>> {
        let few = async {
            while self.state().asked.len() > STEP {
                self.fewer.notified().await;
            }
        };
        let in_time = tokio::time::timeout(STEP_LIMIT, few).await.is_ok();
        let mut state = self.state();
        if !in_time {
            state.asked.clear();
        }
        state.asked.extend(objects.iter().cloned());
        objects
    }
}

/// The objects that are to be looked at because of the orders.
pub fn ordered<K: Kind>(sweeps: Arc<Sweeps<K::Object>>, reader: Store<K::Object>) -> BoxStream<'static, ObjectRef<K::Object>> {
    let orders = stream::unfold(Arc::clone(&sweeps), |sweeps| async move { Some((sweeps.next_order().await, sweeps)) });
    orders
        .flat_map(move |order| {
            let concerns = |object: &Arc<K::Object>| {
                order.as_ref().is_none_or(|cluster| K::claim(object).is_some_and(|claim| claim.cluster == *cluster))
            };
            let objects: Vec<_> = reader.state().into_iter().filter(concerns).collect();
            let sweeps = Arc::clone(&sweeps);
            stream::iter(objects).map(|object| ObjectRef::from_obj(&*object)).chunks(STEP).then(move |objects| {
                let sweeps = Arc::clone(&sweeps);
                async move { stream::iter(sweeps.ask(objects).await) }
            })
        })
        .flatten()
        .boxed()
}

/// The objects, one after the other, for ever.
pub fn rounds<O>(reader: Store<O>) -> BoxStream<'static, ObjectRef<O>>
where
    O: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let seconds = stream::unfold((reader, 0), |(reader, second)| async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now: Vec<_> = share(&reader.state(), second).iter().map(|object| ObjectRef::from_obj(&**object)).collect();
        Some((stream::iter(now), (reader, (second + 1) % ROUND_SECS)))
    });
    seconds.flatten().boxed()
}

/// What is the turn of in this second of a round.
fn share<T>(all: &[T], second: usize) -> &[T] {
    &all[all.len() * second / ROUND_SECS..all.len() * (second + 1) / ROUND_SECS]
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn a_round_comes_by_each_object_once() {
        for count in [0, 1, 7, ROUND_SECS, 10_000] {
            let all: Vec<usize> = (0..count).collect();
            let swept: Vec<usize> = (0..ROUND_SECS).flat_map(|second| share(&all, second)).copied().collect();
            assert_eq!(swept, all);
            assert!((0..ROUND_SECS).all(|second| share(&all, second).len() <= count.div_ceil(ROUND_SECS)));
        }
    }

    #[test]
    fn orders_that_wait_are_served_together() {
        let sweeps = Sweeps::<ConfigMap>::default();
        sweeps.order(None);
        sweeps.order(None);
        assert_eq!(sweeps.next_order().now_or_never(), Some(None));
        assert_eq!(sweeps.next_order().now_or_never(), None);
        sweeps.order(None);
        assert_eq!(sweeps.next_order().now_or_never(), Some(None));
    }

    #[tokio::test]
    async fn more_are_asked_for_once_most_have_been_looked_at_or_time_is_up() {
        let sweeps = Sweeps::<ConfigMap>::default();
        let some = |start: usize| (start..start + STEP).map(|index| ObjectRef::new(&index.to_string())).collect::<Vec<_>>();
        sweeps.ask(some(0)).await;
        sweeps.ask(some(STEP)).await;
        let mut third = Box::pin(sweeps.ask(some(2 * STEP)));
        assert!((&mut third).now_or_never().is_none());
        some(0).iter().for_each(|object| sweeps.looked_at(object));
        assert_eq!(third.now_or_never().map(|asked| asked.len()), Some(STEP));
        let start = std::time::Instant::now();
        assert_eq!(sweeps.ask(some(3 * STEP)).await.len(), STEP);
        assert!(start.elapsed() >= STEP_LIMIT);
        assert_eq!(sweeps.state().asked.len(), STEP);
    }
}
