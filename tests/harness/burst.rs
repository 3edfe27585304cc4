//! A burst of updates that goes on while a test breaks things, and the check of what became of it.

mod sent;

use std::{
    collections::BTreeSet,
    fmt::Debug,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use shared::domain::update_id::UpdateId;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

pub use self::sent::{Sent, outcome};
use super::{
    System, answer, eventually, replay,
    verdict::{self, Answered, Expected},
};

/// Components that updates are about: 50 names in two regions.
pub const COMPONENTS: usize = 100;
/// Clients at once.
const CLIENTS: usize = 8;
/// What a client waits for after each answer, as monitors do.
const PACE: Duration = Duration::from_millis(10);
/// The same for a burst of at most 150 updates a second: more clients, so that those that wait for a
/// partition leave others.
const LIGHT: (usize, Duration) = (24, Duration::from_millis(160));
/// How long those of its clients wait that wait for an outcome: the default is over before a slow machine is done.
const LIGHT_WAIT: &str = "wait=10";

/// Adds the components that updates are about to an empty catalogue.
pub async fn add_components(system: &System) -> Result<()> {
    system
        .sql(
            "INSERT INTO component (name) SELECT 'Service ' || n / 2 FROM generate_series(0, 99) n;
            INSERT INTO component_attribute (component_id, name, value)
            SELECT id, 'region', CASE id % 2 WHEN 1 THEN 'R1' ELSE 'R2' END FROM component;",
        )
        .await?;
    system.catalogue_seen().await
}

/// The `number`th update of a burst: components and impacts vary without a pattern that repeats
/// soon, and outages are rare enough to leave something to raise.
#[must_use]
pub fn update(number: usize) -> Value {
    let mixed = mixed(number);
    let component = mixed % COMPONENTS;
    let impact = match mixed / COMPONENTS % 50 {
        0 => 3,
        1..=9 => 2,
        _ => 1,
    };
    json!({
        "name": format!("Service {}", component / 2),
        "impact": impact,
        "attributes": [{
            "name": "region",
            "value": if component.is_multiple_of(2) { "R1" } else { "R2" },
        }],
    })
}

/// The component of the `number`th update, by its id.
const fn component(number: usize) -> i32 {
    (mixed(number) % COMPONENTS) as i32 + 1
}

const fn mixed(number: usize) -> usize {
    number.wrapping_mul(2_654_435_761) >> 7
}

/// Clients that send updates until they are stopped. Some wait for outcomes and some don't; some
/// send again what was not taken, with an idempotency key, and some go on to the next update.
pub struct Burst {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    client: Client,
    addresses: Vec<String>,
    token: String,
    pace: Duration,
    /// What the clients that wait for an outcome say about it.
    wait: Option<&'static str>,
    stopped: AtomicBool,
    next: AtomicUsize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    sent: Vec<Sent>,
    /// The first answer that no client should get.
    wrong: Option<String>,
}

impl Burst {
    /// Starts a burst on all gateways of the system, and returns when it is under way: each has
    /// answered with outcomes.
    pub async fn start(system: &System) -> Result<Self> {
        Self::start_with(system, CLIENTS, PACE, None).await
    }

    /// The same with a light load and patient clients, for tests that are not to measure the CPU.
    pub async fn start_light(system: &System) -> Result<Self> {
        let (clients, pace) = LIGHT;
        Self::start_with(system, clients, pace, Some(LIGHT_WAIT)).await
    }

    async fn start_with(
        system: &System,
        clients: usize,
        pace: Duration,
        wait: Option<&'static str>,
    ) -> Result<Self> {
        add_components(system).await?;
        let shared = Arc::new(Shared {
            client: system.client.clone(),
            addresses: system.addresses.clone(),
            token: system.token.clone(),
            pace,
            wait,
            stopped: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let clients = (0..clients).map(|client| tokio::spawn(shared.clone().post(client)));
        let burst = Self { clients: clients.collect(), shared };
        burst.is_decided().await?;
        Ok(burst)
    }

    /// Waits until each of these gateways has given such an answer to an update that was sent from
    /// now on.
    async fn hears(
        &self,
        gateways: impl IntoIterator<Item = usize>,
        what: &str,
        such: impl Fn(&Sent) -> bool,
    ) -> Result<()> {
        let what = format!("gateways answer {what}");
        self.hears_of(gateways, &what, |sent| such(sent).then_some(sent.gateway)).await
    }

    /// Waits until each of these was seen in an update that was sent from now on.
    async fn hears_of<Seen: Ord + Debug>(
        &self,
        these: impl IntoIterator<Item = Seen>,
        what: &str,
        seen_in: impl Fn(&Sent) -> Option<Seen>,
    ) -> Result<()> {
        let (now, mut looked) = (Instant::now(), 0);
        let mut missing: BTreeSet<Seen> = these.into_iter().collect();
        eventually(&format!("{what}: {missing:?}"), async || {
            let seen = self.shared.seen();
            if let Some(wrong) = &seen.wrong {
                bail!("{wrong}");
            }
            for sent in seen.sent.get(looked..).unwrap_or_default() {
                if let Some(seen) = seen_in(sent).filter(|_| sent.at > now) {
                    missing.remove(&seen);
                }
            }
            looked = seen.sent.len();
            Ok(missing.is_empty())
        })
        .await
    }

    /// All gateways.
    fn everyone(&self) -> Range<usize> {
        0..self.shared.addresses.len()
    }

    /// Waits until every gateway answers with outcomes.
    pub async fn is_decided(&self) -> Result<()> {
        self.decide(self.everyone()).await
    }

    /// Waits until this gateway answers with outcomes.
    pub async fn is_decided_by(&self, gateway: usize) -> Result<()> {
        self.decide([gateway]).await
    }

    async fn decide(&self, gateways: impl IntoIterator<Item = usize>) -> Result<()> {
        let such = |sent: &Sent| matches!(sent.answer, Answered::Outcome { .. });
        self.hears(gateways, "with an outcome", such).await
    }

    /// Waits until every gateway accepts updates whose outcome does not come.
    pub async fn is_accepted(&self) -> Result<()> {
        self.accept(self.everyone()).await
    }

    /// Waits until this gateway accepts an update whose outcome does not come.
    pub async fn is_accepted_by(&self, gateway: usize) -> Result<()> {
        self.accept([gateway]).await
    }

    async fn accept(&self, gateways: impl IntoIterator<Item = usize>) -> Result<()> {
        let such = |sent: &Sent| sent.waited && matches!(sent.answer, Answered::Accepted(_));
        self.hears(gateways, "202 to one that waits", such).await
    }

    /// Waits until every gateway takes updates of each of so many partitions.
    pub async fn is_taken_everywhere(&self, partitions: u16) -> Result<()> {
        let ways =
            self.everyone().flat_map(|gateway| (0..partitions).map(move |one| (gateway, one)));
        self.hears_of(ways, "gateways take updates of partitions", |sent| {
            sent.is_taken().then(|| (sent.gateway, sent.component().partition(partitions)))
        })
        .await
    }

    /// Waits until this gateway does not know whether an update was queued.
    pub async fn is_unknown_to(&self, gateway: usize) -> Result<()> {
        let such = |sent: &Sent| matches!(sent.answer, Answered::Unknown(_));
        self.hears([gateway], "that it does not know", such).await
    }

    /// Waits until this gateway answers an update with 503, whatever it knows.
    pub async fn is_not_taken_by(&self, gateway: usize) -> Result<()> {
        let such = |sent: &Sent| !sent.is_taken();
        self.hears([gateway], "503", such).await
    }

    /// Waits until this gateway refuses updates with an error message that contains these words.
    pub async fn is_refused_by(&self, gateway: usize, words: &str) -> Result<()> {
        let such =
            |sent: &Sent| matches!(&sent.answer, Answered::Refused(_, why) if why.contains(words));
        self.hears([gateway], &format!("503, `{words}`"), such).await
    }

    /// Stops the clients once each has its last answer, and returns all that they sent.
    pub async fn stop(mut self) -> Result<Vec<Sent>> {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.await.context("a client panicked")?;
        }
        let mut seen = self.shared.seen();
        match seen.wrong.take() {
            Some(wrong) => bail!("{wrong}"),
            None => Ok(std::mem::take(&mut seen.sent)),
        }
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        // A test that fails must not leave its clients to the others.
        self.shared.stopped.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts updates until stopped, or until an answer is wrong.
    async fn post(self: Arc<Self>, client: usize) {
        let (waits, has_key) = (client.is_multiple_of(2), client % 4 >= 2);
        let mut gateway = client;
        while !self.stopped.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            loop {
                gateway = (gateway + 1) % self.addresses.len();
                match self.send(number, gateway, waits, has_key).await {
                    Ok(sent) => {
                        let again = has_key
                            && matches!(sent.answer, Answered::Unknown(_) | Answered::Refused(..));
                        self.seen().sent.push(sent);
                        sleep(self.pace).await;
                        if !again {
                            break;
                        }
                    }
                    Err(error) => {
                        let wrong = format!("gateway {gateway}, update {number}: {error:#}");
                        self.seen().wrong.get_or_insert(wrong);
                        return;
                    }
                }
            }
        }
    }

    async fn send(
        &self,
        number: usize,
        gateway: usize,
        waits: bool,
        has_key: bool,
    ) -> Result<Sent> {
        let address = self.addresses.get(gateway).context("no such gateway")?;
        let mut request = self
            .client
            .post(format!("http://{address}/api/v1/component_status"))
            .bearer_auth(&self.token)
            .json(&update(number));
        let prefer = if waits { self.wait } else { Some("respond-async") };
        if let Some(prefer) = prefer {
            request = request.header("Prefer", prefer);
        }
        if has_key {
            request = request.header("Idempotency-Key", format!("update {number}"));
        }
        let at = Instant::now();
        let response = answer(request).await?;
        let answered = Instant::now();
        let id = response.header("update-id").parse().map(UpdateId);
        let message = response.body["message"].as_str().unwrap_or_default();
        let answer = match response.status {
            200 | 201 => outcome(&response)?,
            202 => Answered::Accepted(id?),
            503 if message.contains("may have been queued or not") => Answered::Unknown(Some(id?)),
            503 if message.contains("nothing was queued") => {
                ensure!(response.header("retry-after") == "1", "{response:?}");
                Answered::Refused(id.ok(), message.to_owned())
            }
            _ => bail!("{response:?}"),
        };
        Ok(Sent { number, gateway, waited: waits, at, answered, answer })
    }
}

/// All that was taken took effect exactly once and in order, nothing else did, and the state
/// follows from it: nobody else wrote, but the test itself. The queues must be empty.
pub async fn took_effect_once(system: &System, all: &[Sent]) -> Result<()> {
    // The test's own connections have no name.
    judged(system, all, vec![String::new()]).await
}

/// The same for a test in which an operator's commands changed the state, too.
pub async fn took_effect_beside_commands(system: &System, all: &[Sent]) -> Result<()> {
    judged(system, all, Vec::new()).await
}

async fn judged(system: &System, all: &[Sent], operators: Vec<String>) -> Result<()> {
    let mut database = system.database.acquire().await?;
    let mut run = verdict::read(&mut database).await?;
    let begin = all.iter().map(|sent| sent.at).min().context("nothing was sent")?;
    run.attempts = all.iter().map(|sent| sent.attempt(begin)).collect::<Result<_>>()?;
    run.expected = Expected { compares: true, operators, ..Expected::default() };
    verdict::judge(&run).into_result()?;
    replay::holds_one_active_incident(&system.database).await
}
