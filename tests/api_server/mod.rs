//! An API server in memory, for tests that run reconciles against it.

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The state of the API server: objects by path.
#[derive(Default)]
pub struct Api {
    pub objects: BTreeMap<String, Value>,
    pub version: u64,
    /// How long each answer takes.
    pub latency: Option<Duration>,
}

impl Api {
    pub fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    /// Deletes an object, with the Secrets that it owns.
    pub fn remove(&mut self, path: &str) {
        let Some(gone) = self.objects.remove(path) else {
            return;
        };
        let uid = &gone["metadata"]["uid"];
        self.objects
            .retain(|_, object| object["metadata"]["ownerReferences"][0]["uid"] != *uid);
    }

    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        let none = (
            404,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": ""}),
        );
        match *method {
            Method::GET if path == "/api/v1/secrets" => {
                let items: Vec<_> = self
                    .objects
                    .iter()
                    .filter(|(path, _)| path.contains("/secrets/"))
                    .map(|(_, object)| object)
                    .collect();
                (
                    200,
                    json!({"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
                )
            }
            Method::GET if is_collection(path) => {
                let items: Vec<_> = self
                    .objects
                    .iter()
                    .filter(|(other, _)| other.rsplit_once('/').is_some_and(|(of, _)| of == path))
                    .map(|(_, object)| object)
                    .collect();
                (
                    200,
                    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items}),
                )
            }
            Method::GET => self
                .objects
                .get(path)
                .map_or(none, |object| (200, object.clone())),
            Method::POST | Method::PUT => {
                let name = body["metadata"]["name"].as_str().unwrap();
                let path = if *method == Method::POST {
                    format!("{path}/{name}")
                } else {
                    path.to_owned()
                };
                let mut object = body.clone();
                object["metadata"]["uid"] = json!(format!("secret-{}", self.version));
                (200, self.put(&path, object))
            }
            Method::PATCH if path.ends_with("/status") => {
                let path = path.trim_end_matches("/status");
                let Some(mut object) = self.objects.get(path).cloned() else {
                    return none;
                };
                object["status"] = body["status"].clone();
                (200, self.put(path, object))
            }
            Method::PATCH if body["spec"]["replicas"].is_number() => {
                let Some(mut object) = self.objects.get(path).cloned() else {
                    return none;
                };
                object["spec"]["replicas"] = body["spec"]["replicas"].clone();
                (200, self.put(path, object))
            }
            Method::PATCH => {
                let Some(mut object) = self.objects.get(path).cloned() else {
                    return none;
                };
                object["metadata"]["finalizers"] = body["metadata"]["finalizers"].clone();
                if object["metadata"]["deletionTimestamp"].is_string()
                    && object["metadata"]["finalizers"] == json!([])
                {
                    self.remove(path);
                    return (200, object);
                }
                (200, self.put(path, object))
            }
            Method::DELETE => {
                self.remove(path);
                (
                    200,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                )
            }
            _ => unreachable!("{method} {path}"),
        }
    }
}

/// Whether a path is that of all objects of a kind in a namespace.
fn is_collection(path: &str) -> bool {
    path.rsplit('/').nth(2) == Some("namespaces")
}

pub fn client(api: &Arc<Mutex<Api>>) -> Client {
    let api = Arc::clone(api);
    let service = move |request: Request<Body>| {
        let api = Arc::clone(&api);
        async move {
            let (parts, body) = request.into_parts();
            if parts
                .uri
                .query()
                .is_some_and(|query| query.contains("watch=true"))
            {
                std::future::pending::<()>().await;
            }
            let latency = api.lock().unwrap().latency;
            if let Some(latency) = latency {
                tokio::time::sleep(latency).await;
            }
            let bytes = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&bytes).unwrap_or_default();
            let (code, answer) = api
                .lock()
                .unwrap()
                .answer(&parts.method, parts.uri.path(), &body);
            let answer = Response::builder()
                .status(code)
                .body(Body::from(serde_json::to_vec(&answer).unwrap()));
            Ok::<_, Infallible>(answer.unwrap())
        }
    };
    Client::new(tower::service_fn(service), "n")
}
