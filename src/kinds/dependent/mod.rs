//! Code that the kinds whose objects depend on a KafkaCluster share: Topic and User.

pub mod clean_up;
pub mod events;
pub mod lookup;
pub mod outcome;
pub mod rounds;
pub mod standings;
pub mod turn;
pub mod unseen;
