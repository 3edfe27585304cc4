//! All processes are restarted one after the other while updates come.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use nix::sys::signal::Signal;
use reqwest::Client;
use shared::domain::update_id::UpdateId;
use tokio::time::Instant;

use harness::{
    Answer, Fixture, System, answer,
    burst::{Sent, add_components, outcome, took_effect_once, update},
    eventually, free_ports, tests,
    verdict::Answered,
};

tests!(in_a_rolling_restart_every_update_is_taken_after_one_more_try_at_most);

const CLIENTS: usize = 8;

/// Clients that try once more, at the other gateway, when one does not answer or answers 5xx.
struct Clients<'a> {
    client: Client,
    token: String,
    addresses: &'a [String],
    next: AtomicUsize,
    stopped: AtomicBool,
    sent: Mutex<Vec<Sent>>,
}

impl Clients<'_> {
    async fn post(&self, client: usize) -> Result<()> {
        let mut turn = client;
        while !self.stopped.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            turn += 1;
            let first = self.send(number, turn % self.addresses.len()).await;
            if first.as_ref().is_ok_and(|answer| answer.status < 500) {
                continue;
            }
            let second = self.send(number, (turn + 1) % self.addresses.len()).await;
            let taken = second.as_ref().is_ok_and(|answer| answer.status < 500);
            ensure!(taken, "update {number}: {first:?}, then {second:?}");
        }
        Ok(())
    }

    /// Waits until so many more were taken that each client got some answers.
    async fn go_on(&self) -> Result<()> {
        let before = self.taken()?;
        eventually("updates go on", async || Ok(self.taken()? > before + 10 * CLIENTS)).await
    }

    fn taken(&self) -> Result<usize> {
        Ok(self.sent.lock().ok().context("a client panicked")?.len())
    }

    async fn send(&self, number: usize, gateway: usize) -> Result<Answer> {
        let request = self
            .client
            .post(format!("http://{}/api/v1/component_status", self.addresses[gateway]))
            .bearer_auth(&self.token)
            .header("Idempotency-Key", format!("update {number}"))
            // The default wait may be over before a slow machine has confirmed it.
            .header("Prefer", "wait=10")
            .json(&update(number));
        let at = Instant::now();
        let response = answer(request).await?;
        if response.status < 500 {
            let answer = match response.status {
                200 | 201 => outcome(&response)?,
                202 => Answered::Accepted(UpdateId(response.header("update-id").parse()?)),
                _ => anyhow::bail!("{response:?}"),
            };
            let sent = Sent { number, gateway, waited: true, at, answered: Instant::now(), answer };
            self.sent.lock().ok().context("a client panicked")?.push(sent);
        }
        Ok(response)
    }
}

async fn in_a_rolling_restart_every_update_is_taken_after_one_more_try_at_most(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    for _ in 0..3 {
        system.start_worker(&[]).await?;
    }
    // Ports that the system gives to nobody else while their gateway is away.
    let port = free_ports(2)?;
    for port in [port, port + 1] {
        system.start_gateway(&[("SDB_BIND", &format!("127.0.0.1:{port}"))]).await?;
    }
    add_components(&system).await?;
    let (gateways, workers) =
        (std::mem::take(&mut system.gateways), std::mem::take(&mut system.workers));
    // The new ones have the addresses of the old ones.
    let addresses = std::mem::take(&mut system.addresses);
    let clients = Clients {
        client: system.client.clone(),
        token: system.token.clone(),
        addresses: &addresses,
        next: AtomicUsize::new(0),
        stopped: AtomicBool::new(false),
        sent: Mutex::default(),
    };
    let restarts = async {
        for (mut gateway, address) in gateways.into_iter().zip(&addresses) {
            gateway.signal(Signal::SIGTERM)?;
            ensure!(gateway.ended().await?.success(), "{}", gateway.log()?);
            system.start_gateway(&[("SDB_BIND", address)]).await?;
            clients.go_on().await?;
        }
        for mut worker in workers {
            worker.signal(Signal::SIGTERM)?;
            ensure!(worker.ended().await?.success(), "{}", worker.log()?);
            system.start_worker(&[]).await?;
            clients.go_on().await?;
        }
        clients.stopped.store(true, Ordering::Relaxed);
        Ok(())
    };
    let posting = try_join_all((0..CLIENTS).map(|client| clients.post(client)));
    tokio::try_join!(restarts, posting)?;
    let sent = clients.sent.into_inner().ok().context("a client panicked")?;
    system.drained().await?;
    took_effect_once(&system, &sent).await?;
    system.finish().await
}
