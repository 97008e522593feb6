//! Defines the ports of a node that are not for clients. Pure.

/// The controller listener.
pub const CONTROLLER_PORT: u16 = 9090;

/// The listener between brokers, which the operator uses too.
pub const INTERNAL_PORT: u16 = 9091;

/// The HTTP port of the launcher's probes.
pub const PROBE_PORT: u16 = 8080;

/// The names of these ports in a pod. The port of a client listener has the listener's name.
pub const OWN_PORTS: [&str; 3] = ["controller", "internal", "probes"];
