//! Allows at most one disruption at a time: continues the running one, or lets one wish begin.
//! Pure.
//!
//! When a disruption ends, one of another kind may begin in the same reconcile, so that the cluster
//! does not become Ready in between. One of the same kind waits for the next reconcile, which
//! observes the result of the previous one.

use crate::kinds::kafka_cluster::disruption::lease::{Lease, Work};
use crate::kinds::kafka_cluster::disruption::report::{
    Facts, Grant, Mode, Priority, Progress, Report, Wish,
};
use crate::kinds::kafka_cluster::disruption::waiting::WaitingOn;
use crate::kinds::kafka_cluster::disruption::windows;
use crate::kinds::kafka_cluster::step::Step;

/// The sum of all concerns' reports, and the lease from now on.
pub struct Decision {
    pub report: Report,
    /// The disruption that runs from now on.
    pub lease: Option<Lease>,
}

/// Sums the reports of all concerns and decides which disruption runs. `made` is the report from
/// before any concern is asked; `resume` asks the concern of the running disruption for its
/// progress.
pub fn arbitrate(
    facts: &Facts<'_>,
    made: Report,
    concerns: &[fn(&Facts<'_>) -> Report],
    resume: impl Fn(&Lease) -> Progress,
) -> Decision {
    let ask = |facts: &Facts<'_>| {
        let mut sum = Report::default();
        concerns.iter().for_each(|report| sum.add(report(facts)));
        // The sort is stable: wishes of equal priority stay in the order of the concerns.
        sum.wishes.sort_by_key(|wish| wish.priority);
        sum
    };
    let (mut sum, mut asked) = (made, ask(facts));
    let Some(held) = &facts.lease else {
        sum.add(asked);
        let lease = begin(facts, &mut sum);
        return Decision::of(sum, lease);
    };
    if let Some(lease) = take_over(held, &mut asked, &sum, facts) {
        sum.add(asked);
        return Decision::of(sum, Some(lease));
    }
    let Progress { report, lease } = resume(held);
    if lease.is_some() || facts.mode == Mode::Keep {
        sum.add(asked);
        sum.add(report);
        return Decision::of(sum, lease);
    }
    let free = Facts {
        lease: None,
        pending: facts.pending.clone(),
        ..*facts
    };
    let mut asked = ask(&free);
    asked.wishes.retain(|wish| !wish.is_for(&held.work));
    sum.add(asked);
    sum.add(report);
    let lease = begin(&free, &mut sum);
    Decision::of(sum, lease)
}

impl Decision {
    fn of(mut report: Report, lease: Option<Lease>) -> Self {
        if lease.as_ref().is_some_and(Lease::is_restart) {
            // The outdated nodes are the ones that restart now; they need not be reported as
            // waiting too.
            report
                .waiting
                .retain(|waiting| !matches!(waiting, WaitingOn::Outdated { .. }));
        }
        Self { report, lease }
    }
}

/// Lets a replacement take over a disruption that waits for the replaced node and would otherwise
/// wait forever. A node that serves is emptied first: then the moves take over its restart. `made`
/// is the report from before any concern was asked.
fn take_over(held: &Lease, asked: &mut Report, made: &Report, facts: &Facts<'_>) -> Option<Lease> {
    if facts.mode == Mode::Keep {
        return None;
    }
    let takes = |wish: &Wish| match &wish.grant {
        Grant::Lease(new) if new.is_replacement() => waits_for(held, wish),
        Grant::Lease(new) if matches!(new.work, Work::Reassignment { .. }) => {
            empties_own(held, wish) && is_ready(wish, facts, asked) && is_ready(wish, facts, made)
        }
        _ => false,
    };
    let index = asked.wishes.iter().position(takes)?;
    if let Some(closed) = closed_for(&asked.wishes[index], facts) {
        // The disruption under way may never end: nothing else would say for what the moves wait.
        asked.waiting.push(closed);
        return None;
    }
    let wish = asked.wishes.swap_remove(index);
    asked.rebalance = wish.rebalance.or(asked.rebalance.take());
    let Grant::Lease(mut lease) = wish.grant else {
        return None;
    };
    // The leaderships that other brokers took over return to these nodes when they are in sync
    // again, or when the moves end. Nobody gives leaderships back to a node that moves empty.
    let mut owed = held.handed_over().to_vec();
    match &mut lease.work {
        Work::Replacement { handed_over, .. } => *handed_over = owed,
        Work::Reassignment { handed_over, .. } => {
            owed.retain(|one| !wish.nodes.contains(&one.node_id));
            *handed_over = owed;
        }
        Work::Restart { .. } | Work::Quorum | Work::Volumes { .. } => {}
    }
    Some(lease)
}

/// True if moves empty a node of this restart.
fn empties_own(held: &Lease, moves: &Wish) -> bool {
    held.is_restart() && !held.nodes.is_disjoint(&moves.nodes)
}

fn waits_for(held: &Lease, replacement: &Wish) -> bool {
    match held.work {
        // While a broker that shall receive replicas is away, no more replicas are moved.
        Work::Reassignment { .. } | Work::Volumes { .. } => true,
        Work::Restart { .. } => held.nodes.iter().any(|id| replacement.nodes.contains(id)),
        Work::Quorum | Work::Replacement { .. } => false,
    }
}

/// Grants wishes in order: those that this reconcile completes, up to the first that needs a lease.
fn begin(facts: &Facts<'_>, sum: &mut Report) -> Option<Lease> {
    if facts.mode == Mode::Keep {
        return None;
    }
    for wish in std::mem::take(&mut sum.wishes) {
        if !is_ready(&wish, facts, sum) {
            continue;
        }
        let closed = closed_for(&wish, facts);
        sum.rebalance = wish.rebalance.or(sum.rebalance.take());
        match (wish.grant, closed) {
            (Grant::Asks(waiting), _) => sum.waiting.extend(waiting),
            (_, Some(closed)) => sum
                .waiting
                .extend((!sum.waiting.contains(&closed)).then_some(closed)),
            (Grant::Lease(lease), None) => return Some(lease),
            (Grant::Now(report), None) => sum.add(report),
        }
    }
    None
}

/// The closed maintenance window that the wish waits for.
fn closed_for(wish: &Wish, facts: &Facts<'_>) -> Option<WaitingOn> {
    let needs_one = wish.needs.window;
    needs_one
        .then(|| windows::closed(facts.cluster, facts.observed))
        .flatten()
}

/// True if all needs of the wish are met, except its maintenance window.
fn is_ready(wish: &Wish, facts: &Facts<'_>, sum: &Report) -> bool {
    let needs = wish.needs;
    let configures = || {
        sum.upkeep
            .iter()
            .any(|step| matches!(step, Step::AlterConfigs(_)))
    };
    // The change of a volume is requested again in each reconcile while it is refused; other wishes
    // must not wait for it.
    let is_idle = || {
        sum.upkeep
            .iter()
            .all(|step| matches!(step, Step::ChangeVolume { .. }))
    };
    // Leaders that moved by themselves go back also while a roll waits: its window may open in
    // months.
    let comes_first = |waiting: &WaitingOn| wish.priority == Priority::Lead && waiting.is_planned();
    let is_held_up = needs.calm
        && sum
            .waiting
            .iter()
            .any(|waiting| waiting.holds_up(&wish.nodes) && !comes_first(waiting));
    let is_too_early = needs.configured && configures();
    (!needs.applied || facts.pending.is_empty())
        && !is_held_up
        && !is_too_early
        && (!needs.idle || is_idle())
}
