//! Answers that are kept for a moment: who asks for the same in that time gets the same.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

pub struct Kept<K, V> {
    keep: Duration,
    answers: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Kept<K, V> {
    pub fn new(keep: Duration) -> Self {
        Self { keep, answers: Mutex::default() }
    }

    /// The kept answer, or a new one.
    ///
    /// # Errors
    /// Those of asking; they are not kept.
    pub async fn get<E>(&self, key: &K, ask: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        // Held while one asks: the others wait for its answer instead of asking too.
        let mut answers = self.answers.lock().await;
        if let Some((_, answer)) = answers.get(key).filter(|(since, _)| since.elapsed() < self.keep) {
            return Ok(answer.clone());
        }
        let answer = ask.await?;
        answers.retain(|_, (since, _)| since.elapsed() < self.keep);
        answers.insert(key.clone(), (Instant::now(), answer.clone()));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_kept_and_an_error_is_not() {
        let kept = Kept::new(Duration::from_secs(60));
        assert_eq!(kept.get(&"a", async { Err("no") }).await, Err("no"));
        assert_eq!(kept.get(&"a", async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(kept.get(&"a", async { Ok::<_, &str>(2) }).await, Ok(1));
        assert_eq!(kept.get(&"b", async { Ok::<_, &str>(2) }).await, Ok(2));
    }
}
