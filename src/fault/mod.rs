//! Fault injection for tests. Only a build with the feature `fault-injection` can do it; any other
//! refuses the variables that ask for it.

#[cfg(feature = "fault-injection")]
pub mod layer;

use kube::Client;
use kube::client::ClientBuilder;
use std::ffi::OsString;

/// Variables that begin with this ask for faults.
const VARIABLES: &str = "FREEHOLD_FAULT_";

/// Faults were asked for from a build that has none: a test that goes on would prove nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is set, and this operator is built without fault injection: unset it, or build with \
     `--features fault-injection`"
)]
pub struct NotBuiltIn(String);

/// Checks the environment of a process, given as the names of its variables.
///
/// # Errors
/// One of them asks for faults, and this build has none.
pub fn check(variables: impl IntoIterator<Item = OsString>) -> Result<(), NotBuiltIn> {
    let asked = variables
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .find(|name| name.starts_with(VARIABLES));
    match asked {
        Some(name) if !cfg!(feature = "fault-injection") => Err(NotBuiltIn(name)),
        Some(name) => {
            tracing::warn!("{name} is set: this operator fails on purpose");
            Ok(())
        }
        None => Ok(()),
    }
}

/// A client of the API server; with the feature one whose requests the faults disturb.
///
/// # Errors
/// The configuration has no usable certificate, key or proxy.
pub fn client(config: kube::Config) -> Result<Client, kube::Error> {
    let builder = ClientBuilder::try_from(config)?;
    #[cfg(feature = "fault-injection")]
    let builder = builder.with_layer(&layer::FaultLayer);
    Ok(builder.build())
}
