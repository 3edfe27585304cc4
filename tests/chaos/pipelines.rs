//! Alerting pipelines: two Alertmanagers that watch the same, and a Prometheus beside them. What they send may be late,
//! so that the other one is faster, and Alertmanagers send it again as it is until it is taken.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use harness::{CLAIM, SECRET, token, verdict::Run};
use serde_json::{Value, json};
use shared::domain::{component::ComponentId, timestamp::Timestamp};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    alert::{Clock, Endpoint, GROUPS, Seen, seen},
    load::Load,
    random::Random,
    record::{Attempt, AttemptResult},
};

/// Both Alertmanagers have the same token, and so are one source.
const PIPELINES: [Pipeline; 3] = [
    Pipeline { name: "alertmanager", endpoint: Endpoint::Webhook },
    Pipeline { name: "alertmanager", endpoint: Endpoint::Webhook },
    Pipeline { name: "prometheus", endpoint: Endpoint::List },
];
/// Time for an answer: that of Prometheus. A gateway takes up to 8 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of a hundred notifications, those that are late.
const LATE: usize = 25;
/// Of a hundred notifications, those with an alert whose component nobody knows.
const STRANGE: usize = 20;
/// How often an Alertmanager sends a notification until it makes a new one.
const TRIES: u32 = 4;

/// What sends alerts.
#[derive(Clone, Copy)]
struct Pipeline {
    name: &'static str,
    endpoint: Endpoint,
}

/// What is sent at once, with the summary of each alert: its own, by which its update is known again.
struct Notification {
    pipeline: Pipeline,
    token: String,
    alerts: Vec<(Seen, String)>,
    /// Alerts beside them whose component nobody knows.
    strangers: usize,
    body: Value,
}

impl Load {
    /// Starts the pipelines, each of which sends its groups of alerts at the same time.
    pub(crate) fn start_pipelines(
        self: &Arc<Self>,
        seed: u64,
        clock: Clock,
    ) -> Vec<JoinHandle<()>> {
        let all = (0..PIPELINES.len() * GROUPS).map(|number| {
            let random = Random::new(seed, 1_000 + number as u64);
            tokio::spawn(self.clone().watch_group(number, clock, random))
        });
        all.collect()
    }

    async fn watch_group(self: Arc<Self>, number: usize, clock: Clock, mut random: Random) {
        let (pipeline, group) = (PIPELINES[number / GROUPS], number % GROUPS);
        let token = token(SECRET, &json!({ CLAIM: true, "sub": pipeline.name }));
        // An Alertmanager sends an end until it is taken.
        let mut taken: HashMap<String, Timestamp> = HashMap::new();
        for count in 0_usize.. {
            if !self.runs() {
                return;
            }
            let now = clock.now();
            let is_news = |seen: &Seen| {
                pipeline.endpoint == Endpoint::List
                    || seen.ends_at.is_none()
                    || seen.ends_at > taken.get(&seen.fingerprint()).copied()
            };
            let alerts: Vec<(Seen, String)> = seen(group, now)
                .filter(is_news)
                .enumerate()
                .map(|(place, seen)| (seen, format!("alert {number}-{count}-{place}")))
                .collect();
            if !alerts.is_empty() {
                if random.percent(LATE) {
                    sleep(random.millis(500, 6_000)).await;
                }
                let strangers = usize::from(random.percent(STRANGE));
                let body = pipeline.endpoint.body(&alerts, strangers, now);
                let token = token.clone();
                let notification = Notification { pipeline, token, alerts, strangers, body };
                if self.notify(&notification, random.below(self.addresses.len())).await {
                    let ends = notification.alerts.iter();
                    taken.extend(
                        ends.filter_map(|(seen, _)| Some((seen.fingerprint(), seen.ends_at?))),
                    );
                }
            }
            sleep(random.millis(300, 2_000)).await;
        }
    }

    /// Sends a notification; returns whether it was taken.
    async fn notify(&self, notification: &Notification, mut gateway: usize) -> bool {
        // Prometheus sends nothing again, but the next time what it then sees.
        let tries = if notification.pipeline.endpoint == Endpoint::List { 1 } else { TRIES };
        for number in 0..tries {
            if number > 0 {
                sleep(Duration::from_millis(200) * 2_u32.pow(number)).await;
                gateway = self.other(gateway);
            }
            let result = self.send(notification, gateway, number > 0).await;
            if result.is_final() || !self.runs() {
                return result.is_taken();
            }
        }
        false
    }

    async fn send(
        &self,
        notification: &Notification,
        gateway: usize,
        again: bool,
    ) -> AttemptResult {
        let Notification { pipeline: Pipeline { name, endpoint }, token, alerts, strangers, body } =
            notification;
        let request = self.client.post(self.url(gateway, endpoint.path())).bearer_auth(token);
        let sent = Instant::now();
        let answer = harness::answer(request.timeout(PATIENCE).json(body)).await;
        let answered = Instant::now();
        let message = |body: &Value| body["message"].as_str().unwrap_or_default().to_owned();
        let result = match answer {
            Err(error) => AttemptResult::Nothing(format!("{error:#}: {}", error.root_cause())),
            Ok(answer) => match answer.status {
                200 if endpoint.is_answer(&answer.body, alerts.len(), *strangers) => {
                    AttemptResult::Queued
                }
                503 => AttemptResult::of_503_to_alerts(message(&answer.body)),
                404 if self.has_earlier_gateways => AttemptResult::NoReports,
                _ => AttemptResult::Wrong(format!("{answer:?}")),
            },
        };
        if let AttemptResult::Wrong(what) = &result {
            self.see_wrong(format!("the answer to {alerts:?}: {what}"));
        }
        let first = alerts.first().map(|(_, summary)| summary.clone());
        for (seen, summary) in alerts {
            self.record.add(Attempt {
                update: summary.clone(),
                component: seen.component().0,
                condition: seen.condition(),
                source: Some(name),
                alert: Some(*seen),
                has_key: false,
                prefer: None,
                gateway,
                again,
                together: first.clone(),
                sent,
                answered,
                result: result.clone(),
            });
        }
        result
    }
}

/// Alerts of which the reports say something else at the end than what was taken and is newest, whatever came late.
pub(crate) fn told_otherwise(attempts: &[Attempt], run: &Run) -> Vec<String> {
    // By the beginning, and then by the end; of those that were taken, and of all.
    let mut newest: BTreeMap<_, (Option<_>, Option<_>)> = BTreeMap::new();
    for attempt in attempts {
        let (Some(alert), Some(source)) = (&attempt.alert, attempt.source) else { continue };
        let of = (ComponentId(attempt.component), source.to_owned(), alert.fingerprint());
        let (taken, sent) = newest.entry(of).or_default();
        let said = Some((alert.starts_at, alert.ends_at));
        *sent = (*sent).max(said);
        if attempt.result.is_taken() {
            *taken = (*taken).max(said);
        }
    }
    // Nobody knows what became of newer ones that were not taken.
    newest.retain(|_, (taken, sent)| taken == sent);
    let is_wrong = newest.iter().filter_map(|(of, (taken, _))| {
        let fires = (*taken)?.1.is_none();
        let stands = run.end_reports.get(of).is_some_and(|report| report.stands);
        (fires != stands)
            .then(|| format!("alert {of:?} was last told as {taken:?}, and stands: {stands}"))
    });
    let nothing = newest.is_empty().then(|| "of no alert the newest was taken".to_owned());
    is_wrong.chain(nothing).collect()
}
