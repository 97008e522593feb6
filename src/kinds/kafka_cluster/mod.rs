//! KafkaCluster: brokers and controllers as StatefulSets, with their certificates, configuration
//! and status.
//!
//! One reconcile ([`reconcile`]):
//! 1. [`observe`] asks Kubernetes and the brokers. The answer is plain data ([`observed`]).
//! 2. [`validate`] makes a cluster of an accepted spec ([`model`]). Where the spec is paused or not
//!    valid, [`keep`] makes one of what runs.
//! 3. [`plan`] asks each concern for its report of these facts: [`certificates`], [`identity`],
//!    [`configuration`], [`objects`], [`readiness`], [`rolling`], [`replacing`], [`quorum`],
//!    [`moving`], [`storage`], [`upgrading`]. The arbiter in [`disruption`] lets at most one
//!    disruption be under way.
//! 4. [`execute`] writes the steps one after the other. What fails holds up only what depends on it
//!    ([`refusals`]).
//! 5. [`publish`] tells Topics and Users how to reach the cluster. [`scaling`] decides how many
//!    brokers a pool has next time.
//! 6. [`status`] says what was learned. The driver writes it, and with it the lease of the
//!    disruption, before any step of that disruption is done.
//!
//! [`deletion`] is the end of a cluster, and [`preview`] what `freehold plan` prints.

pub mod certificates;
pub mod cleanup;
pub mod configuration;
pub mod connections;
pub mod context;
pub mod deletion;
pub mod disruption;
pub mod execute;
pub mod facts;
pub mod identity;
pub mod intervals;
pub mod keep;
pub mod model;
pub mod moving;
pub mod objects;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod preview;
pub mod publish;
pub mod quorum;
pub mod readiness;
pub mod reconcile;
pub mod refusals;
pub mod registration;
pub mod replacing;
pub mod resources;
pub mod retained_secrets;
pub mod rolling;
pub mod scaling;
pub mod status;
pub mod step;
pub mod storage;
pub mod upgrading;
pub mod validate;

pub use reconcile::KafkaClusterKind;
