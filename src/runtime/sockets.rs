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
    let bound = TcpListener::bind(address).await;
    let is_any = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match bound {
        Err(error) if is_any && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
                .await
                .map_err(|_| error)
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn every_address_is_listened_on_in_both_families() {
        let listener = bind("[::]:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .is_ok()
        );
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            assert!(
                TcpStream::connect((Ipv6Addr::LOCALHOST, port))
                    .await
                    .is_ok()
            );
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_an_error() {
        let listener = bind("[::]:0".parse().unwrap()).await.unwrap();
        let error = bind(listener.local_addr().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
