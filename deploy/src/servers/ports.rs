//! Free ports of this machine.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};

/// Below are the ports that well-known services use.
const LOWEST: u16 = 10_000;
/// What Linux begins its ephemeral ports with, unless configured otherwise.
const USUAL_EPHEMERAL: u16 = 32_768;

/// Whether this machine has an IPv6 loopback. The servers listen on it too, then.
#[must_use]
pub fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// The ports that this process has taken; a server may be about to bind one, or may be stopped.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Takes a port for a server of this process; returns whether none has it.
#[must_use]
pub fn take_port(port: u16) -> bool {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port)
}

/// Different free ports, which nobody else in this process gets.
///
/// They are not from the range that the system takes ephemeral ports from, which binding to port
/// 0 gives: while a server is stopped, a client's outgoing connection could take its port, even a
/// connection to that very port, and the server could not come back.
pub(super) fn free<const COUNT: usize>() -> Result<[u16; COUNT]> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ephemeral = range.split_ascii_whitespace().next().and_then(|low| low.parse().ok());
    let end = match ephemeral {
        Some(low) if low >= LOWEST + 1_000 => USUAL_EPHEMERAL.min(low),
        Some(_) | None => USUAL_EPHEMERAL,
    };
    let mut random = File::open("/dev/urandom").context("there is no /dev/urandom")?;
    let has_ipv6 = has_ipv6();
    // Kept open until all are found, so that they differ.
    let mut found: Vec<(u16, TcpListener)> = Vec::with_capacity(COUNT);
    for _ in 0..1_000 {
        if found.len() == COUNT {
            break;
        }
        let mut bytes = [0; 2];
        random.read_exact(&mut bytes)?;
        let port = LOWEST + u16::from_ne_bytes(bytes) % (end - LOWEST);
        if has_ipv6 && TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_err() {
            continue;
        }
        // A server that listens on all addresses refuses this one too.
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            && take_port(port)
        {
            found.push((port, listener));
        }
    }
    let ports: Vec<u16> = found.iter().map(|(port, _)| *port).collect();
    let Ok(ports) = ports.try_into() else { bail!("no free ports between {LOWEST} and {end}") };
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_free() {
        let ports: [u16; 4] = free().unwrap();
        // All at once: two that are the same could not be.
        let bound: Vec<_> =
            ports.iter().map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port))).collect();
        assert!(bound.iter().all(Result::is_ok));
    }
}
