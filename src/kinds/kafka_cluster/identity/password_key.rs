//! Plans the key from which Users' passwords are derived: a random key in a Secret of its own,
//! which can be rotated. A cluster that used the key of its clients' CA for this keeps that key
//! until another one is asked for. Pure.

use crate::api::kafka_cluster::KafkaCluster;
use crate::clusters::PasswordKey;
use crate::kinds::kafka_cluster::certificates::authorities;
use crate::kinds::kafka_cluster::disruption::Report;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observed::{Observed, SecretFacts};
use crate::kinds::kafka_cluster::step::Origin;
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::{labels, names};
use sha2::{Digest, Sha256};

pub use crate::kinds::kafka_cluster::observed::secrets::PASSWORD_KEY as KEY;
/// The key in the Secret for the id of the first password key.
pub const FIRST: &str = "first";
/// The value in the identity of a cluster whose former key is not known.
pub const UNKNOWN: &str = "unknown";

/// The id of a key: a prefix of its SHA-256 in hex.
pub fn id(key: &str) -> String {
    names::hex(&Sha256::digest(key)[..6])
}

/// The key that a Secret contains; `None` if it contains none.
pub fn of(secret: &SecretFacts) -> Option<PasswordKey> {
    let key = secret.data.get(KEY)?.clone();
    Some(PasswordKey {
        id: id(&key),
        key,
        first: secret.data.get(FIRST).cloned(),
    })
}

/// The key in the Secret of the clients' CA, where older versions stored it.
pub fn of_clients_authority(observed: &Observed, cluster: &str) -> Option<String> {
    let secret = observed.secrets.get(&names::clients_ca(cluster))?;
    secret
        .data
        .get(KEY)
        .or_else(|| secret.data.get("tls.key"))
        .cloned()
}

/// The value of the annotation that asks for a new key.
pub fn asked(object: &KafkaCluster) -> Option<&String> {
    object
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(labels::ROTATE_PASSWORDS))
}

/// Plans the Secret of the key: creates, migrates, restores or rotates it, or reports it as lost.
pub fn report(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Report {
    let mut report = Report::default();
    let secret = names::password_key(&cluster.key.name);
    let known = observed
        .identity
        .as_ref()
        .map(|identity| identity.password_key.as_deref());
    let origin = match observed
        .secrets
        .get(&secret)
        .filter(|found| found.data.contains_key(KEY))
    {
        Some(found) => asked(object)
            .filter(|asked| found.live.annotation(labels::ROTATE_PASSWORDS) != Some(asked))
            .map(|_| Origin::Asked),
        None if observed.retained.contains_key(&secret) => {
            report.upkeep.push(Step::RestoreSecret(secret));
            return report;
        }
        None if !authorities::is_known(object, observed) => Some(Origin::New),
        // The identity must be created first: it records whether there was a key.
        None if known.is_none() => None,
        None if known == Some(None)
            && of_clients_authority(observed, &cluster.key.name).is_some() =>
        {
            Some(Origin::ClientsAuthority)
        }
        None => {
            let mark = known
                .flatten()
                .filter(|known| *known != UNKNOWN)
                .unwrap_or(&secret);
            let accepted = authorities::is_accepted(object, mark);
            if !accepted {
                report.lost.push(format!(
                    "Secret {secret}, the key of Users' passwords, is gone: put it back from a backup, or annotate the cluster with {}={mark}, \
                     and every User that has a password from Freehold gets another one",
                    labels::REPLACE_LOST
                ));
            }
            accepted.then_some(Origin::New)
        }
    };
    report
        .upkeep
        .extend(origin.map(|origin| Step::WritePasswordKey { secret, origin }));
    report
}
