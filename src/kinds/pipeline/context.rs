//! The state that all reconciles of Pipelines share: the context of all kinds, and what was found
//! out and need not be found out again.

use crate::api::pipeline::Pipeline;
use crate::kinds::attempts::{Attempts, Tried};
use crate::kinds::context::Context as Shared;
use crate::kinds::pipeline::metrics::Figures;
use crate::kinds::pipeline::purge::Looks;
use crate::kinds::pipeline::validate::Checked;
use crate::kinds::pods_not_made;
use crate::runtime::answer_cache::AnswerCache;
use crate::runtime::services::Services;
use freehold_pipeline::finding::Finding;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Objects that were as they should be are compared again after this time, or when one of the
/// watched ones changes what the Pipeline needs.
const COMPARE_AGAIN: Duration = Duration::from_secs(30);

/// A Pipeline that was refused is checked again after this time, or when it changes.
const CHECK_AGAIN: Duration = Duration::from_secs(300);
/// One that could not be checked: the compiler got no CPU time.
const CHECK_SOON: Duration = Duration::from_secs(10);

/// The context of Pipeline reconciles. Dereferences to the context of all kinds.
pub struct Context {
    shared: Arc<Shared>,
    /// What was checked last of each Pipeline, by uid, and the result.
    checked: Mutex<HashMap<String, (String, Checked, Instant)>>,
    /// The number of the revision that was recorded last of each Pipeline, by uid, with the
    /// generation that it is of.
    recorded: Mutex<HashMap<String, (Option<i64>, i64)>>,
    /// When the objects of a Pipeline were last as they should be, by uid, with their hashes.
    settled: Mutex<HashMap<String, (Vec<String>, Instant)>>,
    /// When the internal topics of a Pipeline were looked at, by uid.
    looks: Mutex<HashMap<String, Looks>>,
    pub figures: Figures,
    /// The steps that were refused or are fought over, for each Pipeline.
    pub attempts: Tried,
    /// The reason why a StatefulSet makes no pods, by namespace and name.
    pub not_made: AnswerCache<(String, String), Option<String>>,
}

impl Context {
    /// Creates the context of Pipelines on top of the shared one.
    pub fn of(shared: Arc<Shared>) -> Self {
        let figures = Figures::new(&shared.metrics);
        Self {
            shared,
            figures,
            checked: Mutex::default(),
            recorded: Mutex::default(),
            settled: Mutex::default(),
            looks: Mutex::default(),
            attempts: Tried::default(),
            not_made: AnswerCache::new(pods_not_made::KEEP),
        }
    }

    /// The result of the last check, if it was about the same. An error is believed for a while, one
    /// of this machine for a short one.
    pub fn checked(&self, object: &Pipeline, what: &str) -> Option<Checked> {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let all = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, checked, since) = all.get(uid)?;
        let holds = match checked {
            Ok(_) => true,
            Err(found) if found.iter().any(is_of_machine) => since.elapsed() < CHECK_SOON,
            Err(_) => since.elapsed() < CHECK_AGAIN,
        };
        (known == what && holds).then(|| checked.clone())
    }

    pub fn remember(&self, object: &Pipeline, what: String, checked: Checked) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let mut all = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(uid, (what, checked, Instant::now()));
    }

    /// The number of the revision of this generation, if it was recorded already.
    pub fn recorded(&self, object: &Pipeline) -> Option<i64> {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let (generation, number) = recorded.get(uid)?;
        (*generation == object.metadata.generation).then_some(*number)
    }

    pub fn record(&self, object: &Pipeline, number: i64) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.insert(uid, (object.metadata.generation, number));
    }

    /// Whether these objects, by their hashes, were found as they should be a short time ago.
    pub fn is_settled(&self, object: &Pipeline, hashes: &[String]) -> bool {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled
            .get(uid)
            .is_some_and(|(known, since)| known == hashes && since.elapsed() < COMPARE_AGAIN)
    }

    pub fn settle(&self, object: &Pipeline, hashes: Vec<String>) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.insert(uid, (hashes, Instant::now()));
    }

    /// Gives the looks at the internal topics of a Pipeline to a function.
    pub fn looks<T>(&self, object: &Pipeline, with: impl FnOnce(&mut Looks) -> T) -> T {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        with(looks.entry(uid).or_default())
    }

    /// Forgets a Pipeline that is gone.
    pub fn forget(&self, object: &Pipeline) {
        self.figures.forget(object);
        self.attempts.put(object, Attempts::default());
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        checked.remove(uid);
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.remove(uid);
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled.remove(uid);
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.remove(uid);
    }
}

/// The compiler did not start, or got no CPU time: what is wrong is of no block.
fn is_of_machine(finding: &Finding) -> bool {
    finding.block.is_none() && finding.field == "blocks"
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl AsRef<Services> for Context {
    fn as_ref(&self) -> &Services {
        (*self.shared).as_ref()
    }
}

impl AsRef<Shared> for Context {
    fn as_ref(&self) -> &Shared {
        &self.shared
    }
}
