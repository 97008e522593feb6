//! What a cluster is made of, as plain data: groups of nodes, heaps, ports, volumes, CAs and the
//! names of its objects. Pure.

pub mod authority;
pub mod child_names;
pub mod cluster;
pub mod heap;
pub mod ports;
pub mod volume_names;
