//! The health of a process: what `/readyz` says, and the check of a local process for containers.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// What `/readyz` says in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadyStatus {
    /// It serves, and nothing is missing.
    Ready,
    /// It serves, although something is missing.
    Degraded,
    /// It does not serve.
    #[serde(rename = "not ready")]
    NotReady,
}

impl ReadyStatus {
    /// The status of a process that serves or not, and for which something is missing or not.
    #[must_use]
    pub const fn of(serves: bool, is_missing_something: bool) -> Self {
        match (serves, is_missing_something) {
            (true, false) => Self::Ready,
            (true, true) => Self::Degraded,
            (false, _) => Self::NotReady,
        }
    }
}

/// Time for the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// Maximum size of the answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 16 * 1024;

/// Why a process is unhealthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// Nobody answers.
    #[error("{0} does not answer")]
    Unreachable(SocketAddr, #[source] std::io::Error),
    /// Nobody answers in time.
    #[error("{address} does not answer within {} s", LIMIT.as_secs())]
    Silent {
        /// The address.
        address: SocketAddr,
    },
    /// The answer is not 200.
    #[error("{0} answers {1}")]
    Refused(SocketAddr, String),
}

/// Checks the process that serves this address, where the unspecified address means this machine. Returns
/// its answer.
///
/// # Errors
/// When it does not answer 200 in time.
pub async fn ask(served: SocketAddr, path: &str) -> Result<String, HealthError> {
    let address = SocketAddr::new(
        match served.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        },
        served.port(),
    );
    let answer = timeout(LIMIT, get(address, path))
        .await
        .map_err(|_| HealthError::Silent { address })?
        .map_err(|error| HealthError::Unreachable(address, error))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status =
        head.lines().next().and_then(|line| line.split_once(' ')).map(|(_, status)| status);
    match status {
        Some(status) if status.starts_with("200") => Ok(body.to_owned()),
        Some(status) => Err(HealthError::Refused(address, format!("{status}: {body}"))),
        None => Err(HealthError::Refused(address, "something that is not HTTP".to_owned())),
    }
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
