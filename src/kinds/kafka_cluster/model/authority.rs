//! The two CAs of a cluster, the steps of a CA rotation, and the certificates that nodes and
//! clients trust. Pure.

use crate::kubernetes::names;

/// Names one of the two CAs of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issuer {
    /// Signs the certificates of nodes and of the operator. Clients trust it.
    Nodes,
    /// Signs the certificates of Users. Listeners trust it.
    Clients,
}

impl Issuer {
    pub const ALL: [Self; 2] = [Self::Nodes, Self::Clients];

    /// The name of the Secret that holds this CA.
    pub fn secret(self, cluster: &str) -> String {
        match self {
            Self::Nodes => names::cluster_ca(cluster),
            Self::Clients => names::clients_ca(cluster),
        }
    }

    /// The name of this CA in messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nodes => "cluster",
            Self::Clients => "clients",
        }
    }

    /// The common name of this CA, at most 64 characters (the limit of X.509).
    pub fn common_name(self, cluster: &str) -> String {
        format!("{} CA of {cluster}", self.word())
            .chars()
            .take(64)
            .collect()
    }
}

/// One step of a CA rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Makes the next CA, which signs nothing yet. `asked` is the value of the annotation that
    /// asked for the rotation.
    Prepare { asked: Option<String> },
    /// From now on the next CA signs.
    Promote,
    /// The old CA is no longer trusted.
    Drop,
    /// The CA stays the same, but the certificates above it in its chain change.
    Chain,
}

/// The certificates that each party trusts, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Nodes and the operator authenticate each other with these: the signing CAs, without the
    /// certificates above them.
    pub cluster_ca: String,
    /// Listeners for clients authenticate clients with these.
    pub clients_ca: String,
    /// Clients authenticate nodes with these: the chain up to the root.
    pub bundle: String,
}
