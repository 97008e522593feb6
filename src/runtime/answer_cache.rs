//! A cache of answers that expire: a question that comes again within a short time gets the same
//! answer.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// One answer. It is locked while it is fetched, so that only those who ask the same question wait
/// for it.
type Slot<V> = Arc<Mutex<Option<(Instant, V)>>>;

pub struct AnswerCache<K, V> {
    keep: Duration,
    answers: std::sync::Mutex<HashMap<K, Slot<V>>>,
}

impl<K: Eq + Hash + Clone, V: Clone> AnswerCache<K, V> {
    pub fn new(keep: Duration) -> Self {
        Self {
            keep,
            answers: std::sync::Mutex::default(),
        }
    }

    /// The cached answer, or a new one by `ask`.
    ///
    /// # Errors
    /// Those of `ask`. They are not cached.
    pub async fn get<E>(&self, key: &K, ask: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        let slot = self.slot(key);
        let mut answer = slot.lock().await;
        if let Some((_, answer)) = answer
            .as_ref()
            .filter(|(since, _)| since.elapsed() < self.keep)
        {
            return Ok(answer.clone());
        }
        let new = ask.await?;
        *answer = Some((Instant::now(), new.clone()));
        Ok(new)
    }

    /// The slot of a key. Removes expired slots that nobody waits for.
    fn slot(&self, key: &K) -> Slot<V> {
        let mut all = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |slot: &Slot<V>| {
            let answer = slot.try_lock();
            answer.is_ok_and(|answer| {
                answer
                    .as_ref()
                    .is_none_or(|(since, _)| since.elapsed() >= self.keep)
            })
        };
        all.retain(|other, slot| other == key || Arc::strong_count(slot) > 1 || !is_old(slot));
        Arc::clone(all.entry(key.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn an_answer_is_cached_and_an_error_is_not() {
        let cache = AnswerCache::new(Duration::from_secs(60));
        assert_eq!(cache.get(&"a", async { Err("no") }).await, Err("no"));
        assert_eq!(cache.get(&"a", async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(cache.get(&"a", async { Ok::<_, &str>(2) }).await, Ok(1));
        assert_eq!(cache.get(&"b", async { Ok::<_, &str>(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn a_slow_answer_delays_only_the_same_question() {
        let cache = AnswerCache::new(Duration::from_secs(60));
        let mut slow =
            Box::pin(cache.get(&"slow", futures::future::pending::<Result<i32, &str>>()));
        assert!((&mut slow).now_or_never().is_none());
        let same = cache
            .get(&"slow", async { Ok::<_, &str>(2) })
            .now_or_never();
        assert_eq!(same, None, "the first answer is waited for");
        assert_eq!(
            cache
                .get(&"quick", async { Ok::<_, &str>(1) })
                .now_or_never(),
            Some(Ok(1))
        );
    }

    #[tokio::test]
    async fn expired_answers_are_removed() {
        let cache = AnswerCache::new(Duration::ZERO);
        for key in 0..100 {
            assert_eq!(cache.get(&key, async { Ok::<_, &str>(key) }).await, Ok(key));
        }
        assert_eq!(cache.answers.lock().unwrap().len(), 1);
    }
}
