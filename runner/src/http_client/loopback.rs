//! Endpoints on loopback for tests.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

/// Answers connections with these answers, one for each, with an empty body; returns the URL and
/// what gives the requests.
pub fn answering(answers: Vec<&'static str>) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        let answer = |answer: &str| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4_000];
            let length = stream.read(&mut request).unwrap();
            request.truncate(length);
            let text = format!("HTTP/1.1 {answer}\r\nconnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).unwrap();
            String::from_utf8(request).unwrap().to_lowercase()
        };
        answers.into_iter().map(answer).collect()
    };
    (url, std::thread::spawn(serve))
}
