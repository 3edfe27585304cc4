//! A proxy between a process and its servers that fails as networks do.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

/// Bytes that are passed on at once.
const CHUNK: usize = 64 * 1024;

/// The proxy. Its connections end when it is dropped.
pub struct Proxy {
    uri: String,
    wire: watch::Sender<Wire>,
}

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Pass,
    Cut,
    Silent,
    Delay(Duration),
}

#[derive(Clone, Copy)]
struct Wire {
    mode: Mode,
    /// How often the connections were reset.
    resets: u64,
    /// To where connections go instead of the server for which they were meant.
    instead: Option<SocketAddr>,
}

impl Proxy {
    /// A proxy before all servers that a URI names. It passes everything.
    pub async fn before(uri: &str) -> Result<Self> {
        let (user, rest) = uri.split_once('@').context("a URI without a user")?;
        let (servers, name) = rest.split_once('/').context("a URI without a name")?;
        let (sender, wire) = watch::channel(Wire { mode: Mode::Pass, resets: 0, instead: None });
        let mut hosts = Vec::new();
        for server in servers.split(',') {
            let server: SocketAddr = server.parse().context("a server without an address")?;
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            hosts.push(listener.local_addr()?.to_string());
            tokio::spawn(accept(listener, server, wire.clone()));
        }
        let uri = format!("{user}@{}/{name}", hosts.join(","));
        Ok(Self { uri, wire: sender })
    }

    /// The same URI, through the proxy.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Passes everything, also what was held meanwhile.
    pub fn pass(&self) {
        self.set(Mode::Pass);
    }

    /// Resets all connections, and new ones as soon as they come.
    pub fn cut(&self) {
        self.set(Mode::Cut);
    }

    /// Holds everything: connections stay open and nothing comes through, not even their end.
    pub fn silence(&self) {
        self.set(Mode::Silent);
    }

    /// Passes everything, each piece of it later by so much.
    pub fn delay(&self, time: Duration) {
        self.set(Mode::Delay(time));
    }

    /// Resets all connections, once: new ones pass.
    pub fn reset(&self) {
        self.wire.send_modify(|wire| wire.resets += 1);
    }

    /// Resets all connections; new ones go to this server.
    pub fn lead_to(&self, server: SocketAddr) {
        self.wire.send_modify(|wire| {
            wire.resets += 1;
            wire.instead = Some(server);
        });
    }

    fn set(&self, mode: Mode) {
        self.wire.send_modify(|wire| wire.mode = mode);
    }
}

/// Serves connections until the proxy is dropped.
async fn accept(listener: TcpListener, server: SocketAddr, wire: watch::Receiver<Wire>) {
    let mut dropped = wire.clone();
    loop {
        tokio::select! {
            _ = dropped.wait_for(|_| false) => return,
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    let server = wire.borrow().instead.unwrap_or(server);
                    tokio::spawn(carry(client, server, wire.clone()));
                }
            }
        }
    }
}

/// Carries one connection to its end. One that did not end well is reset on both sides.
async fn carry(mut client: TcpStream, server: SocketAddr, wire: watch::Receiver<Wire>) {
    let born = wire.borrow().resets;
    let mut ending = wire.clone();
    let mut ends = async || {
        let ends = |wire: &Wire| wire.mode == Mode::Cut || wire.resets != born;
        // An error is the end of the proxy.
        drop(ending.wait_for(ends).await);
    };
    let connected = tokio::select! {
        biased;
        () = ends() => None,
        connected = connect(server, wire.clone()) => connected.ok(),
    };
    let Some(mut behind) = connected else { return reset(&client) };
    let carried = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = behind.split();
        let both = async {
            tokio::try_join!(
                one_way(&mut from_client, &mut to_server, wire.clone()),
                one_way(&mut from_server, &mut to_client, wire.clone()),
            )
        };
        tokio::select! {
            biased;
            () = ends() => false,
            carried = both => carried.is_ok(),
        }
    };
    if !carried {
        reset(&client);
        reset(&behind);
    }
}

/// Has a connection end with a reset when it is dropped.
fn reset(stream: &TcpStream) {
    // It can't be set for one that is reset already.
    stream.set_zero_linger().ok();
}

async fn connect(server: SocketAddr, mut wire: watch::Receiver<Wire>) -> io::Result<TcpStream> {
    heard(&mut wire).await?;
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn one_way(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut wire: watch::Receiver<Wire>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await?;
        // It may fall silent while a piece is on its way.
        while let Mode::Delay(time) = heard(&mut wire).await? {
            sleep(time).await;
            if wire.borrow().mode != Mode::Silent {
                break;
            }
        }
        match chunk.get(..read) {
            Some([]) | None => return to.shutdown().await,
            Some(piece) => to.write_all(piece).await?,
        }
    }
}

/// Waits until the wire is not silent.
async fn heard(wire: &mut watch::Receiver<Wire>) -> io::Result<Mode> {
    let heard = wire.wait_for(|wire| wire.mode != Mode::Silent).await;
    heard.map(|wire| wire.mode).map_err(|_| io::ErrorKind::BrokenPipe.into())
}
