//! A burst of updates that goes on while a test breaks things, and the check of what became of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
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
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{System, answer, eventually, replay};

/// Components that updates are about: 50 names in two regions.
pub const COMPONENTS: usize = 100;
/// Clients at once.
const CLIENTS: usize = 8;
/// What a client waits for after each answer, as monitors do.
const PACE: Duration = Duration::from_millis(10);

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

/// What a client was told about an update.
#[derive(Clone, Debug)]
pub enum Told {
    /// 200 or 201: its outcome.
    Decided(Uuid),
    /// 202: it is safe.
    Accepted(Uuid),
    /// 503: it may have been queued or not.
    Unknown(Uuid, String),
    /// 503: nothing was queued.
    Refused(Option<Uuid>, String),
}

/// An update as it was sent once, and its answer.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its place in the burst. An update with an idempotency key is sent until it is taken.
    pub number: usize,
    /// The gateway that answered.
    pub gateway: usize,
    /// Whether the client waited for the outcome.
    pub waited: bool,
    /// When it was sent.
    pub at: Instant,
    /// When its answer was there.
    pub answered: Instant,
    /// The answer.
    pub told: Told,
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
        add_components(system).await?;
        let shared = Arc::new(Shared {
            client: system.client.clone(),
            addresses: system.addresses.clone(),
            token: system.token.clone(),
            stopped: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let clients = (0..CLIENTS).map(|client| tokio::spawn(shared.clone().post(client)));
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
        let (now, mut looked) = (Instant::now(), 0);
        let mut missing: BTreeSet<usize> = gateways.into_iter().collect();
        eventually(&format!("gateways {missing:?} answer {what}"), async || {
            let seen = self.shared.seen();
            if let Some(wrong) = &seen.wrong {
                bail!("{wrong}");
            }
            for sent in seen.sent.get(looked..).unwrap_or_default() {
                if sent.at > now && such(sent) {
                    missing.remove(&sent.gateway);
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
        let such = |sent: &Sent| matches!(sent.told, Told::Decided(_));
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
        let such = |sent: &Sent| sent.waited && matches!(sent.told, Told::Accepted(_));
        self.hears(gateways, "202 to one that waits", such).await
    }

    /// Waits until this gateway does not know whether an update was queued.
    pub async fn is_unknown_to(&self, gateway: usize) -> Result<()> {
        let such = |sent: &Sent| matches!(sent.told, Told::Unknown(..));
        self.hears([gateway], "that it does not know", such).await
    }

    /// Waits until this gateway refuses updates with a sentence that has these words.
    pub async fn is_refused_by(&self, gateway: usize, words: &str) -> Result<()> {
        let such = |sent: &Sent| matches!(&sent.told, Told::Refused(_, why) if why.contains(words));
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
                        let again =
                            has_key && matches!(sent.told, Told::Unknown(..) | Told::Refused(..));
                        self.seen().sent.push(sent);
                        sleep(PACE).await;
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
        if !waits {
            request = request.header("Prefer", "respond-async");
        }
        if has_key {
            request = request.header("Idempotency-Key", format!("update {number}"));
        }
        let at = Instant::now();
        let answer = answer(request).await?;
        let answered = Instant::now();
        let id = answer.header("update-id").parse::<Uuid>();
        let sentence = answer.body["message"].as_str().unwrap_or_default();
        let told = match answer.status {
            200 | 201 => Told::Decided(id?),
            202 => Told::Accepted(id?),
            503 if sentence.contains("may have been queued or not") => {
                Told::Unknown(id?, sentence.to_owned())
            }
            503 if sentence.contains("nothing was queued") => {
                ensure!(answer.header("retry-after") == "1", "{answer:?}");
                Told::Refused(id.ok(), sentence.to_owned())
            }
            _ => bail!("{answer:?}"),
        };
        Ok(Sent { number, gateway, waited: waits, at, answered, told })
    }
}

/// A row of the inbox.
struct Row {
    component: i32,
    position: i64,
    original: Option<Uuid>,
}

/// All that was taken took effect exactly once and in order, nothing else did, and the state
/// follows from it. The queues must be empty.
pub async fn took_effect_once(system: &System, all: &[Sent]) -> Result<()> {
    is_in_the_inbox_once(system, all).await?;
    replay::agrees(&system.database).await?;
    replay::holds_one_active_incident(&system.database).await
}

/// The same without the state, for a test in which others changed it, too.
pub async fn is_in_the_inbox_once(system: &System, all: &[Sent]) -> Result<()> {
    let rows: Vec<(Uuid, i32, i64, Option<Uuid>)> =
        sqlx::query_as("SELECT id, component_id, position, original FROM sdb_inbox")
            .fetch_all(&system.database)
            .await?;
    let stored = rows.len();
    let inbox: HashMap<Uuid, Row> = rows
        .into_iter()
        .map(|(id, component, position, original)| (id, Row { component, position, original }))
        .collect();
    ensure!(inbox.len() == stored, "an id is in the inbox twice");

    let mut updates: BTreeMap<usize, Vec<&Sent>> = BTreeMap::new();
    for sent in all {
        updates.entry(sent.number).or_default().push(sent);
    }
    let mut named = BTreeSet::new();
    let mut effects = Vec::new();
    for (number, sent) in &updates {
        effects.extend(effect(*number, sent, &inbox, &mut named)?);
    }
    for (id, row) in &inbox {
        // A repetition whose answer names the original is not named itself.
        let known = named.contains(id) || row.original.is_some_and(|first| named.contains(&first));
        ensure!(known, "{id} is in the inbox, but nobody sent it");
    }
    are_in_order(effects)
}

/// An update that was taken, and its place in the inbox.
struct Effect {
    number: usize,
    component: i32,
    sent: Instant,
    taken: Instant,
    position: i64,
}

/// What one update led to, however often it was sent; none when it was never taken.
fn effect(
    number: usize,
    all: &[&Sent],
    inbox: &HashMap<Uuid, Row>,
    named: &mut BTreeSet<Uuid>,
) -> Result<Option<Effect>> {
    let mut decided = BTreeSet::new();
    for sent in all {
        let (id, must_be_there) = match &sent.told {
            Told::Decided(id) | Told::Accepted(id) => (id, true),
            Told::Unknown(id, _) => (id, false),
            Told::Refused(Some(id), sentence) => {
                ensure!(!inbox.contains_key(id), "{id} took effect after `{sentence}`");
                continue;
            }
            Told::Refused(None, _) => continue,
        };
        named.insert(*id);
        let Some(row) = inbox.get(id) else {
            ensure!(!must_be_there, "{id} was taken and is lost: {sent:?}");
            continue;
        };
        ensure!(row.component == component(number), "{id} took effect on another component");
        // A repetition stands for its original, which may have had no answer that told its id.
        named.extend(row.original);
        decided.insert(row.original.unwrap_or(*id));
    }
    ensure!(decided.len() <= 1, "update {number} took effect several times: {decided:?}");
    let (Some(first), Some(last)) = (all.first(), all.last()) else { return Ok(None) };
    let Some(id) = decided.first() else { return Ok(None) };
    let position = inbox.get(id).context("a repetition without its original")?.position;
    let taken = matches!(last.told, Told::Decided(_) | Told::Accepted(_));
    Ok(taken.then_some(Effect {
        number,
        component: component(number),
        sent: first.at,
        taken: last.answered,
        position,
    }))
}

/// An update that was sent after another one of its component was taken stands after it, whichever
/// clients and gateways they came through.
fn are_in_order(mut effects: Vec<Effect>) -> Result<()> {
    effects.sort_by_key(|effect| effect.position);
    let mut latest: HashMap<i32, &Effect> = HashMap::new();
    for effect in &effects {
        // The one that was sent last of those with an earlier place.
        if let Some(before) = latest.get(&effect.component) {
            ensure!(
                effect.taken >= before.sent,
                "update {} of component {} was taken before update {} was sent, but stands after it",
                effect.number,
                effect.component,
                before.number
            );
        }
        let last = latest.entry(effect.component).or_insert(effect);
        if effect.sent > last.sent {
            *last = effect;
        }
    }
    Ok(())
}
