//! How long connections are kept: idle ones as long as is set, those that send a request's head slowly not.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

use harness::{Fixture, System, eventually, eventually_within, http, tests};

tests!(
    an_idle_connection_outlives_the_time_for_a_head,
    an_idle_connection_ends_after_the_time_that_is_set,
);

const PROBE: &str = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
/// The time for a head, which is no setting.
const HEAD_LIMIT: Duration = Duration::from_secs(30);

async fn an_idle_connection_outlives_the_time_for_a_head(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[]).await?;
    let connect = async || TcpStream::connect(&system.addresses[0]).await;
    // One that was used, one that never was, and those that begin a head: at once, after a request, and
    // right after a request that they did not wait for.
    let (mut used, mut fresh) = (connect().await?, connect().await?);
    ensure!(http::ask(&mut used, PROBE).await?.status == 200);
    let mut slow = [connect().await?, connect().await?];
    ensure!(http::ask(&mut slow[1], PROBE).await?.status == 200);
    let dripping = async |stream: &mut TcpStream| {
        // A byte now and then does not prolong it. A connection that is over is what is waited for.
        let head = PROBE.trim_end().as_bytes().iter().chain([b'x'; 200].iter());
        for byte in head {
            if stream.write_all(&[*byte]).await.is_err() {
                return Ok(());
            }
            sleep(Duration::from_millis(500)).await;
            if http::is_closed(stream) {
                return Ok(());
            }
        }
        anyhow::bail!("a head that never ends is read for ever")
    };
    let [first, second] = &mut slow;
    tokio::try_join!(dripping(first), dripping(second))?;
    // More time than a head has went by, or they were ended too early.
    for (kept, what) in [(&mut used, "that was used"), (&mut fresh, "that never was")] {
        ensure!(!http::is_closed(kept), "an idle connection {what} was ended");
    }
    sleep(Duration::from_secs(3)).await;
    for (kept, what) in [(&mut used, "that was used"), (&mut fresh, "that never was")] {
        let answer = http::ask(kept, PROBE).await?;
        ensure!(answer.status == 200, "an idle connection {what} got {answer:?}");
    }
    system.finish().await
}

async fn an_idle_connection_ends_after_the_time_that_is_set(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_gateway(&[("SDB_KEEP_ALIVE_SECONDS", "1")]).await?;
    // On a machine that stalls, a connection ends before its first byte comes: then there is another one.
    let mut used = None;
    eventually("a request is answered", async || {
        let mut stream = TcpStream::connect(&system.addresses[0]).await?;
        let answered = http::ask(&mut stream, PROBE).await.is_ok_and(|got| got.status == 200);
        used = answered.then_some(stream);
        Ok(answered)
    })
    .await?;
    let used = used.context("no connection")?;
    let fresh = TcpStream::connect(&system.addresses[0]).await?;
    for idle in [&used, &fresh] {
        eventually_within(HEAD_LIMIT / 2, "the idle connection is closed", async || {
            Ok(http::is_closed(idle))
        })
        .await?;
    }
    // A head has its own time: it may take longer than an idle connection is kept.
    let (begin, rest) = PROBE.split_at(PROBE.len() - 1);
    let slowly = async || -> Result<http::Raw> {
        let mut slow = TcpStream::connect(&system.addresses[0]).await?;
        slow.write_all(begin.as_bytes()).await?;
        sleep(Duration::from_secs(3)).await;
        http::ask(&mut slow, rest).await
    };
    eventually("a slow head is answered", async || {
        Ok(slowly().await.is_ok_and(|got| got.status == 200))
    })
    .await?;
    for (value, says) in
        [("0", "from 1 to 3600"), ("3601", "from 1 to 3600"), ("x", "whole number")]
    {
        let mut refused = system.launch("gateway", &[("SDB_KEEP_ALIVE_SECONDS", value)])?;
        ensure!(!refused.ended().await?.success());
        let log = refused.log()?;
        ensure!(log.contains("SDB_KEEP_ALIVE_SECONDS") && log.contains(says), "{log}");
    }
    system.finish().await
}
