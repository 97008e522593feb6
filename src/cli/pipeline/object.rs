//! A Pipeline at the API server, for the commands that ask it with the rights of the person's
//! kubeconfig.

use crate::api::pipeline::Pipeline;
use crate::cli::operator::MainError;
use crate::kubernetes::{self, guarded::Guarded};
use kube::{Api, Client};

/// A client with the kubeconfig of the person.
///
/// # Errors
/// No kubeconfig says where the API server is.
pub async fn client() -> Result<Client, String> {
    let client = Client::try_default().await;
    client.map_err(|error| no_cluster(&error))
}

/// A Pipeline by `NAMESPACE/NAME`.
///
/// # Errors
/// There is none; the API server refuses, or does not answer.
pub async fn found(client: &Client, name: &str) -> Result<Pipeline, MainError> {
    let (namespace, name) = parts(name)?;
    let object = Api::<Guarded<Pipeline>>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await?;
    let object = object
        .map(kubernetes::understood)
        .transpose()
        .map_err(|error| error.words())?;
    let missing = || format!("there is no Pipeline {name} in namespace {namespace}").into();
    object.ok_or_else(missing)
}

/// Namespace and name.
///
/// # Errors
/// One of them is missing.
pub fn parts(name: &str) -> Result<(&str, &str), String> {
    let parts = name.split_once('/');
    let parts = parts.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    parts.ok_or_else(|| format!("{name:?} is not NAMESPACE/NAME, such as shop/orders"))
}

/// Why there is no connection, and the way out.
fn no_cluster(error: &kube::Error) -> String {
    match error {
        kube::Error::InferConfig(_) => {
            "no kubeconfig says where the API server is: set KUBECONFIG \
                                        to a file that `kubectl config view` shows without errors"
                .to_owned()
        }
        error => error.to_string(),
    }
}

/// A text without control characters: who may write an object does not steer a terminal.
pub fn shown(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
