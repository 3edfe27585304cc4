//! HTTP by hand: requests that no client library would send, and connections that are held.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Time for an answer, by far more than one takes.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// An answer as it came.
#[derive(Debug, Default)]
pub struct Raw {
    /// Its status.
    pub status: u16,
    /// Its headers, as they were written, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body, chunks and all.
    pub body: String,
}

impl Raw {
    /// From the bytes of a whole answer.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) =
            text.split_once("\r\n\r\n").with_context(|| format!("no head: {text}"))?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?;
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
        Ok(Self { status: status.parse()?, headers: headers.collect(), body: body.to_owned() })
    }

    /// The value of a header; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Sends bytes and reads the answer until the connection ends; with `half_close` the direction to the
/// server is closed first, as `nc -N` does.
pub async fn exchange(address: &str, request: &str, half_close: bool) -> Result<Raw> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    if half_close {
        stream.shutdown().await?;
    }
    rest(&mut stream).await
}

/// Reads an answer until the connection ends.
pub async fn rest(stream: &mut TcpStream) -> Result<Raw> {
    let mut answer = Vec::new();
    timeout(ANSWER_LIMIT, stream.read_to_end(&mut answer)).await.context("no answer comes")??;
    Raw::read(&answer)
}

/// Sends a request on a connection that goes on, and reads the answer, which must have a length.
pub async fn ask(stream: &mut TcpStream, request: &str) -> Result<Raw> {
    stream.write_all(request.as_bytes()).await?;
    next(stream, b"").await
}

/// Reads one answer, which must have a length, and of which this was read before.
pub async fn next(stream: &mut TcpStream, beginning: &[u8]) -> Result<Raw> {
    timeout(ANSWER_LIMIT, one(stream, beginning)).await.context("no answer comes")?
}

async fn one(stream: &mut TcpStream, beginning: &[u8]) -> Result<Raw> {
    let mut answer = beginning.to_vec();
    loop {
        if let Ok(raw) = Raw::read(&answer) {
            let length = raw.header("content-length").parse().unwrap_or(0);
            if raw.body.len() >= length {
                return Ok(raw);
            }
        }
        if stream.read_buf(&mut answer).await? == 0 {
            bail!("the connection ends after {:?}", String::from_utf8_lossy(&answer));
        }
    }
}

/// Whether the server has closed the connection, which nothing was sent on.
pub fn is_closed(stream: &TcpStream) -> bool {
    let mut byte = [0];
    match stream.try_read(&mut byte) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}
