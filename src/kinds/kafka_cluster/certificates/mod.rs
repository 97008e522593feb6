//! The CAs of a cluster and the certificates that they issue.

pub mod authorities;
pub mod nodes;
pub mod overwritten;
