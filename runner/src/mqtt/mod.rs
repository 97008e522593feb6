//! The protocol of MQTT 3.1.1 and 5.0, as far as a client at QoS 1 needs it: a source that
//! subscribes and a sink that publishes.
//!
//! It is spoken here and not by a library, because no message may be acknowledged on another
//! connection than the one that it came on: its id can name another message there.
//!
//! - [`client`]: a connection, from the address of the broker to its consent; [`connect`] opens it.
//! - [`packet`]: what is sent; [`reader`]: what is read, with [`granted`] limits.
//! - [`reason`]: codes in words.

pub mod client;
mod connect;
pub mod granted;
pub mod packet;
pub mod reader;
pub mod reason;

use std::time::Duration;

/// How long the broker may take for each step of a connection: a failure is named within 10 s.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Time between two pings.
pub const PING_EVERY: Duration = Duration::from_secs(3);
/// A broker that sends nothing for so long is away: it has missed two pings.
pub const SILENCE_MAX: Duration = Duration::from_secs(8);
