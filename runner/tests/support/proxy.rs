//! A TCP proxy before a broker that interferes with the request that ends a transaction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use super::signal;

const END_TXN: i16 = 26;

/// In the place of a process that is being stopped.
const STOPPING: u32 = u32::MAX;

/// How long a held request is held.
const DELAY: Duration = Duration::from_millis(700);

/// What the proxy does to EndTxn requests.
#[derive(Default)]
pub struct Faults {
    /// So many are held: the client's connection is cut, and the broker gets the request later.
    pub holds: AtomicU32,
    /// A process to stop before it gets the next one; 0: none, or it has been stopped.
    pub stops: AtomicU32,
    /// How many were held and then delivered.
    pub delivered: AtomicU32,
    target: AtomicU16,
}

/// Forwards connections to a broker.
pub struct Proxy {
    pub port: u16,
    pub faults: Arc<Faults>,
}

impl Proxy {
    /// The target is set later, when the broker has its port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults::default());
        let proxy = Self {
            port,
            faults: faults.clone(),
        };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let target = ("127.0.0.1", faults.target.load(Ordering::Relaxed));
                let Ok(broker) = TcpStream::connect(target) else {
                    continue;
                };
                let (client_in, broker_in) =
                    (client.try_clone().unwrap(), broker.try_clone().unwrap());
                let faults = faults.clone();
                thread::spawn(move || {
                    let _ = requests(&client_in, &broker, &faults);
                    let _ = broker.shutdown(Shutdown::Both);
                    let _ = client_in.shutdown(Shutdown::Both);
                });
                thread::spawn(move || {
                    let (mut from, mut to) = (broker_in, client);
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        proxy
    }

    pub fn lead_to(&self, port: u16) {
        self.faults.target.store(port, Ordering::Relaxed);
    }
}

fn requests(
    mut client: &TcpStream,
    mut broker: &TcpStream,
    faults: &Faults,
) -> std::io::Result<()> {
    loop {
        let mut size = [0; 4];
        client.read_exact(&mut size)?;
        let mut frame = vec![0; u32::from_be_bytes(size) as usize];
        client.read_exact(&mut frame)?;
        let ends = frame.len() > 2 && i16::from_be_bytes([frame[0], frame[1]]) == END_TXN;
        let take = |holds: u32| holds.checked_sub(1);
        let held = ends
            && faults
                .holds
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok();
        if held {
            client.shutdown(Shutdown::Both)?;
            thread::sleep(DELAY);
        }
        let begin = |pid: u32| (pid != 0 && pid != STOPPING).then_some(STOPPING);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        if ends && let Ok(pid) = faults.stops.fetch_update(set, get, begin) {
            signal("STOP", pid);
            // Not before: who sees it lets the process go on.
            faults.stops.store(0, Ordering::Relaxed);
        }
        broker.write_all(&size)?;
        broker.write_all(&frame)?;
        if held {
            faults.delivered.fetch_add(1, Ordering::Relaxed);
            // The broker must read it before the connection closes.
            thread::sleep(Duration::from_millis(500));
            return Ok(());
        }
    }
}
