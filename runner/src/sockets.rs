//! Addresses to listen on.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

/// Listens on an address. `[::]` is every address of both families (a node may have IPv6 alone, or
/// both); on a machine without IPv6 it is every one of IPv4.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    match of_ipv4(address, &error) {
        Some(other) => TcpListener::bind(other).await.map_err(|_| error),
        None => Err(error),
    }
}

/// The address to listen on after this error. `None`: it is an error of the address itself.
fn of_ipv4(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let is_any = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let other = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
    (is_any && error.kind() != io::ErrorKind::AddrInUse).then_some(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn every_address_is_listened_on_in_both_families() {
        let listener = bind("[::]:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let reaches = async |address| TcpStream::connect(address).await.is_ok();
        assert!(reaches(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await);
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            assert!(reaches(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await);
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_an_error() {
        let listener = bind("[::]:0".parse().unwrap()).await.unwrap();
        let error = bind(listener.local_addr().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn without_ipv6_every_address_is_every_one_of_ipv4() {
        let (any, one) = ("[::]:8080".parse().unwrap(), "[::1]:8080".parse().unwrap());
        // EAFNOSUPPORT: the kernel has no IPv6. EADDRNOTAVAIL: it is switched off.
        for code in [97, 99] {
            let error = io::Error::from_raw_os_error(code);
            let instead: SocketAddr = "0.0.0.0:8080".parse().unwrap();
            assert_eq!(of_ipv4(any, &error), Some(instead));
            assert_eq!(of_ipv4(one, &error), None, "it was asked for alone");
        }
        let taken = io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(of_ipv4(any, &taken), None);
    }
}
