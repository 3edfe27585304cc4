//! The clients: monitors that post updates, and readers of the lists.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use harness::{Answer, burst::COMPONENTS};
use reqwest::Client;
use serde_json::Value;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use uuid::Uuid;

use crate::{
    diary::Diary,
    operator::TITLE,
    random::Random,
    record::{AttemptResult, Record},
    update::{Update, agrees, covering, prefer},
};

const READERS: usize = 4;
/// Time for an answer: more than any gateway may take for those that are asked for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);
/// Updates whose answer is compared with what the other gateway shows next, of a hundred.
const COMPARED: usize = 5;
/// One of so many monitors posts many updates at once.
const MANY: usize = 4;
/// Updates with a key that are sent to both gateways at once, of a hundred.
const TWICE: usize = 5;

/// What the clients share.
pub(crate) struct Load {
    pub(crate) client: Client,
    pub(crate) token: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) record: Record,
    pub(crate) diary: Arc<Diary>,
    pub(crate) stopped: AtomicBool,
    /// Whether gateways may be of an earlier release, without the endpoint for many updates.
    pub(crate) has_earlier_gateways: bool,
}

impl Load {
    /// Starts the monitors and the readers.
    pub(crate) fn start(self: &Arc<Self>, seed: u64, monitors: usize) -> Vec<JoinHandle<()>> {
        let monitor = |number: usize| {
            // Each component is one monitor's, so that the order of its updates is known.
            let own = (number..COMPONENTS).step_by(monitors).collect();
            let random = Random::new(seed, 100 + number as u64);
            if number % MANY == MANY - 1 {
                return tokio::spawn(self.clone().monitor_of_many(number, own, random));
            }
            tokio::spawn(self.clone().monitor(number, own, random))
        };
        let reader = |number: usize| {
            tokio::spawn(self.clone().reader(Random::new(seed, 10 + number as u64)))
        };
        (0..monitors).map(monitor).chain((0..READERS).map(reader)).collect()
    }

    pub(crate) fn runs(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    async fn monitor(self: Arc<Self>, number: usize, own: Vec<usize>, mut random: Random) {
        for count in 0_usize.. {
            if !self.runs() {
                return;
            }
            let mut update =
                Update { text: format!("{number}-{count}"), ..Update::draw(&own, &mut random) };
            update.prefer = prefer(&mut random);
            let gateway = random.below(self.addresses.len());
            let compared = random.percent(COMPARED);
            let mut pause = random.millis(0, 150);
            if update.has_key && random.percent(TWICE) {
                let other = self.other(gateway);
                let (one, two) = (
                    self.post(&update, gateway, false, compared),
                    self.post(&update, other, false, false),
                );
                tokio::join!(one, two);
            } else if !self.post(&update, gateway, false, compared).await {
                if !update.has_key {
                    // Nobody can tell that it is the same: it is another one.
                    update.text += " again";
                }
                if !self.post(&update, self.other(gateway), true, compared).await {
                    pause += Duration::from_millis(300);
                }
            }
            sleep(pause).await;
        }
    }

    pub(crate) fn other(&self, gateway: usize) -> usize {
        (gateway + 1) % self.addresses.len()
    }

    /// Sends an update once; returns whether it needs not be sent again.
    pub(crate) async fn post(
        &self,
        update: &Update,
        gateway: usize,
        again: bool,
        compared: bool,
    ) -> bool {
        let mut request = self
            .client
            .post(self.url(gateway, "/api/v1/component_status"))
            .bearer_auth(&self.token)
            .timeout(PATIENCE)
            .json(&update.body());
        if let Some(prefer) = update.prefer {
            request = request.header("Prefer", prefer);
        }
        if update.has_key {
            request = request.header("Idempotency-Key", &update.text);
        }
        let sent = Instant::now();
        let answer = harness::answer(request).await;
        let answered = Instant::now();
        let result = match &answer {
            Err(error) => AttemptResult::Nothing(format!("{error:#}: {}", error.root_cause())),
            Ok(answer) => self
                .read(answer, update)
                .unwrap_or_else(|error| AttemptResult::Wrong(format!("{error:#}: {answer:?}"))),
        };
        if let AttemptResult::Wrong(what) = &result {
            self.see_wrong(format!("the answer to update {}: {what}", update.text));
        }
        self.record.add(update.attempt(gateway, again, (sent, answered), result.clone()));
        if let (true, Ok(answer)) = (compared, answer) {
            if matches!(result, AttemptResult::Outcome { incident: Some(_), .. }) {
                self.compare(&update.text, &answer.body, self.other(gateway)).await;
            }
            self.compare_receipt(&result, self.other(gateway)).await;
        }
        result.is_final()
    }

    /// What an answer says.
    pub(crate) fn read(&self, answer: &Answer, update: &Update) -> Result<AttemptResult> {
        let id = answer.header("update-id").parse::<Uuid>();
        let message = answer.body["message"].as_str().unwrap_or_default().to_owned();
        Ok(match answer.status {
            status @ (200 | 201) => {
                let (changed, id) = (status == 201, id?);
                let incident = covering(answer, update.condition)?;
                AttemptResult::Outcome { changed, id, incident }
            }
            202 => AttemptResult::Accepted(id?),
            503 => AttemptResult::of_503(id.ok(), message)?,
            status if self.is_unknown(status, update) => AttemptResult::NoReports,
            _ => anyhow::bail!("an answer that is not expected"),
        })
    }

    /// Whether a gateway of an earlier release refuses what it does not know.
    pub(crate) fn is_unknown(&self, status: u16, update: &Update) -> bool {
        self.has_earlier_gateways && matches!(status, 400 | 422) && update.needs_reports()
    }

    /// Any gateway has the receipt of an update that was taken, and it says what the answer said.
    async fn compare_receipt(&self, result: &AttemptResult, gateway: usize) {
        let Some(id) = result.taken() else { return };
        let url = self.url(gateway, &format!("/api/v1/updates/{id}"));
        let request = self.client.get(url).bearer_auth(&self.token).timeout(PATIENCE);
        // One that is away, or has no database now, is not asked again.
        let Ok(receipt) = harness::answer(request).await else { return };
        let is_right = match (receipt.status, result) {
            (503, _) => true,
            (200, AttemptResult::Outcome { changed, incident, .. }) => {
                agrees(&receipt, *changed, *incident)
            }
            (status, _) => status == 200,
        };
        if !is_right {
            let what = format!("gateway {} has, after {result:?}: {receipt:?}", gateway + 1);
            self.see_wrong(what);
        }
    }

    /// What was answered must be in the list that any gateway shows afterwards, or more.
    async fn compare(&self, update: &str, incident: &Value, gateway: usize) {
        let path = "/api/v1/incidents?limit=200";
        let Some(list) = self.get(gateway, path).await else { return };
        let shown = list.iter().find(|each| each["id"] == incident["id"]);
        let updates = |incident: &Value| incident["updates"].as_array().map_or(0, Vec::len);
        let is_older = |shown: &Value| {
            shown["impact"].as_i64() < incident["impact"].as_i64()
                || updates(shown) < updates(incident)
        };
        if shown.is_none_or(is_older) {
            self.see_wrong(format!(
                "gateway {} shows an older state than update {update} was answered with: \
                {incident}, then {shown:?}",
                gateway + 1
            ));
        }
    }

    async fn reader(self: Arc<Self>, mut random: Random) {
        while self.runs() {
            let gateway = random.below(self.addresses.len());
            let components = random.percent(50);
            let path = match (components, random.percent(70)) {
                (true, true) => "/api/v1/component_status?active=true",
                (true, false) => "/api/v1/component_status",
                (false, true) => "/api/v1/incidents?active=true",
                (false, false) => "/api/v1/incidents",
            };
            if let Some(list) = self.get(gateway, path).await {
                let broken = if components { doubled_component(&list) } else { doubled(&list) };
                if let Some(broken) = broken {
                    self.see_wrong(format!("gateway {} shows in {path}: {broken}", gateway + 1));
                }
                self.record.read();
            }
            sleep(random.millis(100, 800)).await;
        }
    }

    /// A list; none when it can't be had now.
    async fn get(&self, gateway: usize, path: &str) -> Option<Vec<Value>> {
        let request = self.client.get(self.url(gateway, path)).timeout(PATIENCE);
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        // A body that breaks off is an error here: a list that is shown is whole.
        let bytes = response.bytes().await.ok()?;
        match (status, serde_json::from_slice(&bytes)) {
            (200, Ok(Value::Array(list))) => Some(list),
            (503, _) => None,
            (status, read) => {
                let read = read.map(|_| "JSON").map_err(|error| error.to_string());
                self.see_wrong(format!("{path}: {status} with {read:?}"));
                None
            }
        }
    }

    pub(crate) fn see_wrong(&self, what: String) {
        self.diary.note(format!("WRONG: {what}"));
        self.record.wrong(what);
    }

    pub(crate) fn url(&self, gateway: usize, path: &str) -> String {
        let address = self.addresses.get(gateway).map(String::as_str).unwrap_or_default();
        format!("http://{address}{path}")
    }
}

/// Whether an incident in a list is active and the system's: an operator's are named so.
fn is_active_of_the_system(incident: &Value) -> bool {
    let is_operators = incident["text"].as_str().is_some_and(|text| text.starts_with(TITLE));
    incident["end_date"].is_null() && !is_operators
}

/// Two active incidents of one impact, in a list of incidents.
fn doubled(incidents: &[Value]) -> Option<String> {
    let mut seen = HashSet::new();
    let active = incidents.iter().filter(|incident| is_active_of_the_system(incident));
    let twice = active.clone().find(|incident| !seen.insert(incident["impact"].as_i64()));
    twice.map(|_| format!("two active incidents of an impact: {:?}", active.collect::<Vec<_>>()))
}

/// A component in two active incidents, in a list of components.
fn doubled_component(components: &[Value]) -> Option<String> {
    let active = |component: &Value| {
        let incidents = component["incidents"].as_array().map(Vec::as_slice).unwrap_or_default();
        incidents.iter().filter(|incident| is_active_of_the_system(incident)).count()
    };
    if components.len() != COMPONENTS {
        return Some(format!("{} components of {COMPONENTS}", components.len()));
    }
    components.iter().find(|component| active(component) > 1).map(ToString::to_string)
}
