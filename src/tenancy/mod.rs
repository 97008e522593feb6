//! Decides who may do what in a cluster: which namespaces it admits, which names and rights their
//! Topics and Users may have, which object holds a name, and how access is revoked.

pub mod access;
pub mod admission;
pub mod claims;
pub mod ownership;
pub mod revocation;
pub mod rights;
pub mod rules;
pub mod tenants;
