//! A server of S3 for tests: a folder, whose folders are buckets.

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Serves a folder at this address until the process ends, to whoever signs with the key; port 0 is
/// any free one. Returns the endpoint.
///
/// # Errors
/// The folder does not exist; the address is taken.
pub fn serve(folder: &Path, address: (&str, u16), key: &str, secret: &str) -> Result<String> {
    let files = s3s_fs::FileSystem::new(folder);
    let files = files.ok().context("the folder cannot be served")?;
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(key, secret));
    let service = service.build();
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || runtime.block_on(run(service, listener)));
    Ok(endpoint)
}

/// A request is answered before the next one begins: the server does not check a name and take it
/// in one step.
async fn run(service: S3Service, listener: TcpListener) -> Result<()> {
    let service = Arc::new((service, Mutex::new(())));
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = Arc::clone(&service);
        let answer = hyper::service::service_fn(move |request| {
            let service = Arc::clone(&service);
            async move {
                let _turn = service.1.lock().await;
                hyper::service::Service::call(&service.0, request).await
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(connection);
    }
}
