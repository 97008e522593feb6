//! What is delivered when a committed offset does not tell where to go on.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::gaps::{commit, end, wait_behind_gap, wait_stopped, write_more};
use super::super::support::records::write;
use super::super::support::stage::Stage;
use super::super::support::until;
use super::super::{MINUTE, Setup, setup};
use super::endpoint::{Behaviour, Endpoint, is_refused};

/// A stage that delivers a topic of its own.
fn stage(setup: &Setup, name: &str) -> (Stage, Arc<Endpoint>) {
    let from = format!("{name}-in");
    setup.kafka.create_topic(&from, 4, &[]);
    let mut stage = Stage::new(&setup.kafka.bootstrap(), setup.kafka.folder(), &from, name);
    stage.delivery = "AtLeastOnce";
    stage.format = "Json";
    let behaviour = Behaviour {
        fails: false,
        authorization: None,
    };
    let endpoint = Endpoint::start(&from, 1, behaviour);
    stage.sink = Some(format!(r#"{{"http": {{"url": "{}"}}}}"#, endpoint.url));
    (stage, endpoint)
}

/// The numbers that were delivered.
fn delivered(endpoint: &Endpoint) -> BTreeSet<u64> {
    endpoint.taken().numbers.values().copied().collect()
}

fn all(numbers: std::ops::Range<u64>) -> BTreeSet<u64> {
    numbers.filter(|number| !is_refused(*number)).collect()
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_stage_that_delivers_follows_the_policy_for_an_offset_that_is_out_of_range() {
    let (setup, _turn) = setup();
    let (kafka, (mut stage, endpoint)) = (&setup.kafka, stage(setup, "hook-range"));
    write(&kafka.client(), &stage.from, 100);
    let offsets = [(0, 1_000_000), (1, 0), (2, 0), (3, 0)];
    commit(kafka, &stage, &offsets, None);
    let runner = stage.start();
    let stopped = wait_stopped(&runner);
    assert_eq!(stopped.block.as_deref(), Some("in"));
    assert!(stopped.error.contains("onGap"), "{stopped:?}");
    end(runner);
    assert!(delivered(&endpoint).len() < all(0..100).len());
    stage.source = r#", "onGap": "Earliest""#;
    let runner = stage.start();
    until("all is delivered", MINUTE, || {
        delivered(&endpoint) == all(0..100)
    });
    end(runner);
    commit(kafka, &stage, &offsets[..1], None);
    stage.source = r#", "onGap": "Latest""#;
    let runner = stage.start();
    wait_behind_gap(&runner);
    write_more(kafka, &stage, 100..200);
    until("what came since is delivered", MINUTE, || {
        delivered(&endpoint) == all(0..200)
    });
    end(runner);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_stage_that_delivers_stops_when_its_topic_is_made_anew_under_it() {
    let (setup, _turn) = setup();
    let (kafka, (stage, endpoint)) = (&setup.kafka, stage(setup, "hook-anew"));
    write(&kafka.client(), &stage.from, 200);
    let runner = stage.start();
    until("all is delivered and committed", MINUTE, || {
        delivered(&endpoint) == all(0..200) && runner.report().lag == Some(0)
    });
    kafka.delete_topic(&stage.from);
    kafka.create_topic(&stage.from, 4, &[]);
    write_more(kafka, &stage, 1_000..1_040);
    let stopped = wait_stopped(&runner);
    assert!(stopped.error.contains("lost its offsets"), "{stopped:?}");
    end(runner);
    assert_eq!(delivered(&endpoint), all(0..200));
}
