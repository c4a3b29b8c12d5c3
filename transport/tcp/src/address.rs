//! Where a process listens, and how its addresses are encoded for others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, listen, socket_with, sockopt};

use super::config::{Listen, TcpConfig};
use charm4rs_transport_core::TransportError;

/// Connections that the kernel queues before they are accepted.
const BACKLOG: i32 = 4096;

/// A listening socket and its address.
pub(super) type Listener = (OwnedFd, SocketAddr);

/// Listens at the configured addresses.
pub(super) fn listeners(config: &TcpConfig) -> Result<Vec<Listener>, TransportError> {
    let (addresses, why): (Vec<IpAddr>, _) = match &config.listen {
        Listen::Auto if config.layout.hosts() > 1 => (routed(&config.toward), "no interface leads to other hosts"),
        Listen::Routed => (routed(&config.toward), "no interface leads to other hosts"),
        Listen::Auto | Listen::Loopback => {
            (vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], "there is no loopback interface")
        }
        Listen::On(addresses) => (addresses.clone(), "this host has none of the addresses"),
    };
    let mut listeners: Vec<Listener> = Vec::new();
    for address in addresses {
        let loopback = matches!(config.listen, Listen::Auto | Listen::Loopback) && address.is_loopback();
        if loopback && !listeners.is_empty() {
            break;
        }
        match listen_on(SocketAddr::new(address, config.port.unwrap_or(0))) {
            Ok(listener) => listeners.push(listener),
            Err(Errno::ADDRINUSE) => {
                return Err(TransportError::Resource {
                    what: "ports",
                    need: format!("port {} of {address}, which is in use,", config.port.unwrap_or(0)),
                    advice: "give another port, or none",
                });
            }
            Err(Errno::MFILE | Errno::NFILE) => return Err(out_of_descriptors()),
            // This host does not have the address family.
            Err(e) => tracing::debug!(%address, error = %e, "cannot listen"),
        }
    }
    if listeners.is_empty() { Err(TransportError::Config(why.into())) } else { Ok(listeners) }
}

pub(super) fn out_of_descriptors() -> TransportError {
    TransportError::Resource {
        what: "file descriptors",
        need: "one for each peer and a few more".into(),
        advice: "raise the limit: ulimit -n",
    }
}

fn listen_on(address: SocketAddr) -> Result<Listener, Errno> {
    let socket = stream_socket(&address)?;
    // A port that an earlier job used may linger in the kernel.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    let bound = SocketAddr::try_from(getsockname(&socket)?).map_err(|_| Errno::AFNOSUPPORT)?;
    Ok((socket, bound))
}

/// A non-blocking socket for `address`, closed on exec.
pub(super) fn stream_socket(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// The addresses of this host as other hosts see them, one of each family: the source addresses that the kernel would use towards the
/// hosts in `toward`. For a family that they do not have, the one for the default route; if there is neither, that of an
/// interface. No packet is sent.
fn routed(toward: &[String]) -> Vec<IpAddr> {
    let named = toward.iter().filter_map(|name| (&**name, PROBED).to_socket_addrs().ok()).flatten();
    let mut found = sources(named);
    // Addresses reserved for documentation: with a default route each of them has a route.
    let anywhere: [IpAddr; 2] =
        [Ipv4Addr::new(192, 0, 2, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()];
    for address in sources(anywhere.into_iter().map(|address| (address, PROBED).into())) {
        if found.iter().all(|known| known.is_ipv4() != address.is_ipv4()) {
            found.push(address);
        }
    }
    if found.is_empty() { interfaces() } else { found }
}

/// The port of the route lookup; the route does not depend on it.
const PROBED: u16 = 9;

/// The first source address of each family on the routes to these addresses.
fn sources(to: impl Iterator<Item = SocketAddr>) -> Vec<IpAddr> {
    let (mut v4, mut v6) = (None, None);
    for to in to {
        let (from, found): (IpAddr, _) = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), &mut v4),
            // A link-local address is valid only together with an interface, so others cannot use it.
            SocketAddr::V6(to) if to.ip().is_unicast_link_local() => continue,
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), &mut v6),
        };
        let source = || {
            let socket = UdpSocket::bind((from, 0)).ok()?;
            socket.connect(to).ok()?;
            let address = socket.local_addr().ok()?.ip();
            (!address.is_loopback() && !address.is_unspecified()).then_some(address)
        };
        *found = found.or_else(source);
    }
    v4.into_iter().chain(v6).collect()
}

/// Without a default route: the first address of each family of an interface that is up and not loopback. Link-local addresses are
/// skipped, since they are valid only together with an interface, which differs between hosts.
fn interfaces() -> Vec<IpAddr> {
    let mut list = std::ptr::null_mut();
    // SAFETY: getifaddrs writes a list, or fails and writes nothing.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let (mut v4, mut v6) = (None, None);
    let mut next = list;
    // SAFETY: entries of the list stay valid until freeifaddrs; `ifa_next` ends it with null.
    while let Some(entry) = unsafe { next.as_ref() } {
        next = entry.ifa_next;
        let flags = i32::from_ne_bytes(entry.ifa_flags.to_ne_bytes());
        if entry.ifa_addr.is_null() || flags & libc::IFF_UP == 0 || flags & libc::IFF_LOOPBACK != 0 {
            continue;
        }
        // SAFETY: not null, and at least as long as a sockaddr.
        match i32::from(unsafe { (*entry.ifa_addr).sa_family }) {
            libc::AF_INET => {
                // SAFETY: the family says that it is a sockaddr_in.
                let address = unsafe { &*entry.ifa_addr.cast::<libc::sockaddr_in>() };
                v4 = v4.or(Some(IpAddr::from(address.sin_addr.s_addr.to_ne_bytes())));
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that it is a sockaddr_in6.
                let address = unsafe { &*entry.ifa_addr.cast::<libc::sockaddr_in6>() };
                let address = Ipv6Addr::from(address.sin6_addr.s6_addr);
                v6 = v6.or((!address.is_unicast_link_local()).then_some(IpAddr::from(address)));
            }
            _ => {}
        }
    }
    // SAFETY: getifaddrs made the list; it is freed once.
    unsafe { libc::freeifaddrs(list) };
    v4.into_iter().chain(v6).collect()
}

/// Encodes addresses: for each the family (4 or 6), the address, the port.
pub(super) fn encode(addresses: impl Iterator<Item = SocketAddr>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in addresses {
        match address.ip() {
            IpAddr::V4(ip) => {
                bytes.push(4);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(6);
                bytes.extend(ip.octets());
            }
        }
        bytes.extend(address.port().to_le_bytes());
    }
    bytes
}

/// The inverse of [`encode`]. Stops at an unknown family.
pub(super) fn decode(mut bytes: &[u8]) -> Vec<SocketAddr> {
    fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (first, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        Some(*first)
    }
    let mut next = || {
        let ip = match take::<1>(&mut bytes)? {
            [4] => IpAddr::from(take::<4>(&mut bytes)?),
            [6] => IpAddr::from(take::<16>(&mut bytes)?),
            _ => return None,
        };
        Some(SocketAddr::new(ip, u16::from_le_bytes(take(&mut bytes)?)))
    };
    std::iter::from_fn(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_decoded_as_encoded_and_garbage_ends_the_list() {
        let addresses: Vec<SocketAddr> = vec!["127.0.0.1:80".parse().unwrap(), "[2001:db8::7]:65535".parse().unwrap()];
        let bytes = encode(addresses.iter().copied());
        assert!(bytes.len() <= 64);
        assert_eq!(decode(&bytes), addresses);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).len() < 2);
        }
        assert_eq!(decode(&[9, 1, 2, 3]), []);
    }
}
