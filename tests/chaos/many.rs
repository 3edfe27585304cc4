//! Monitors that post many updates at once: each result is an answer.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{Answer, verdict::InboxRow};
use serde_json::{Value, json};
use shared::domain::{condition::Condition, update_id::UpdateId};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    load::{Load, PATIENCE},
    random::Random,
    record::{Attempt, AttemptResult},
    update::{Update, prefer},
};

/// Updates of one request, at most: several of each component that is the monitor's.
const MOST: usize = 12;

impl Load {
    /// Sends many updates at once, and those that were not taken once more to the other gateway.
    pub(crate) async fn monitor_of_many(
        self: Arc<Self>,
        number: usize,
        own: Vec<usize>,
        mut random: Random,
    ) {
        for count in 0_usize.. {
            if !self.runs() {
                return;
            }
            let prefer = prefer(&mut random);
            let updates = (0..=random.below(MOST)).map(|place| Update {
                text: format!("{number}-{count}-{place}"),
                prefer,
                ..Update::draw(&own, &mut random)
            });
            let mut updates: Vec<Update> = updates.collect();
            let gateway = random.below(self.addresses.len());
            let mut pause = random.millis(0, 300);
            self.post_many(&mut updates, gateway, false).await;
            if !updates.is_empty() {
                for update in updates.iter_mut().filter(|update| !update.has_key) {
                    // Nobody can tell that it is the same: it is another one.
                    update.text += " again";
                }
                self.post_many(&mut updates, self.other(gateway), true).await;
                if !updates.is_empty() {
                    pause += Duration::from_millis(300);
                }
            }
            sleep(pause).await;
        }
    }

    /// Sends updates once; leaves those that were not taken.
    async fn post_many(&self, updates: &mut Vec<Update>, gateway: usize, again: bool) {
        let bodies: Vec<Value> = updates.iter().map(Update::body_of_many).collect();
        let mut request = self
            .client
            .post(self.url(gateway, "/api/v1/updates"))
            .bearer_auth(&self.token)
            .timeout(PATIENCE)
            .json(&json!({ "updates": bodies }));
        if let Some(prefer) = updates.first().and_then(|update| update.prefer) {
            request = request.header("Prefer", prefer);
        }
        let sent = Instant::now();
        let answer = harness::answer(request).await;
        let answered = Instant::now();
        if self.has_earlier_gateways && matches!(&answer, Ok(answer) if answer.status == 404) {
            self.post_each(updates, gateway, again).await;
            return;
        }
        let result: Vec<AttemptResult> = match &answer {
            Err(error) => {
                let what = format!("{error:#}: {}", error.root_cause());
                updates.iter().map(|_| AttemptResult::Nothing(what.clone())).collect()
            }
            Ok(answer) => self.results(answer, updates).unwrap_or_else(|error| {
                let what = format!("{error:#}: {answer:?}");
                updates.iter().map(|_| AttemptResult::Wrong(what.clone())).collect()
            }),
        };
        let first = updates.first().map(|update| update.text.clone());
        let mut is_final =
            result.iter().map(AttemptResult::is_final).collect::<Vec<_>>().into_iter();
        for (update, result) in updates.iter().zip(result) {
            if let AttemptResult::Wrong(what) = &result {
                self.see_wrong(format!("the result of update {}: {what}", update.text));
            }
            self.record.add(Attempt {
                together: first.clone(),
                ..update.attempt(gateway, again, (sent, answered), result)
            });
        }
        updates.retain(|_| !is_final.next().unwrap_or_default());
    }

    /// The answer for each update; a refusal of the whole request counts for each.
    fn results(&self, answer: &Answer, updates: &[Update]) -> Result<Vec<AttemptResult>> {
        if answer.status != 200 {
            return updates.iter().map(|update| self.read(answer, update)).collect();
        }
        let list = |name: &str| answer.body[name].as_array().context("a list is missing");
        let (results, incidents) = (list("results")?, list("incidents")?);
        ensure!(results.len() == updates.len(), "{} results", results.len());
        let each = results.iter().zip(updates);
        each.map(|(result, update)| self.one(result, update, incidents)).collect()
    }

    fn one(&self, result: &Value, update: &Update, incidents: &[Value]) -> Result<AttemptResult> {
        let id = result["id"].as_str().map(str::parse::<Uuid>).transpose()?;
        let message = result["error"].as_str().unwrap_or_default().to_owned();
        let status = result["status"].as_u64().and_then(|status| status.try_into().ok());
        Ok(match status {
            Some(status @ (200 | 201)) => {
                let (changed, incident) = (status == 201, result["incident"].as_i64());
                let needs_none = !changed && update.condition == Condition::Ok;
                ensure!(incident.is_some() || needs_none, "an outcome without incident");
                if let Some(incident) = incident {
                    let shown = incidents.iter().filter(|shown| shown["id"] == incident).count();
                    ensure!(shown == 1, "incident {incident} is shown {shown} times");
                }
                AttemptResult::Outcome { changed, id: id.context("no id")?, incident }
            }
            Some(202) => AttemptResult::Accepted(id.context("no id")?),
            Some(503) => AttemptResult::of_503(id, message)?,
            Some(status) if self.is_unknown(status, update) => AttemptResult::NoReports,
            _ => anyhow::bail!("a result that is not expected: {result}"),
        })
    }

    /// Sends updates one after the other, to a gateway without the endpoint for many; leaves those that
    /// were not taken.
    async fn post_each(&self, updates: &mut Vec<Update>, gateway: usize, again: bool) {
        let mut refused = Vec::new();
        for update in updates.drain(..) {
            if !self.post(&update, gateway, again, false).await {
                refused.push(update);
            }
        }
        *updates = refused;
    }
}

/// Updates of one component in one request that were applied in another order than they stood there.
pub(crate) fn out_of_order(attempts: &[Attempt], inbox: &[InboxRow]) -> Vec<String> {
    let positions: HashMap<UpdateId, i64> = inbox
        .iter()
        .filter(|row| row.original.is_none())
        .map(|row| (row.id, row.position))
        .collect();
    let of_text: HashMap<&str, i64> =
        inbox.iter().map(|row| (row.text.as_str(), row.position)).collect();
    let mut latest: BTreeMap<(&str, bool, i32), (i64, &str)> = BTreeMap::new();
    let mut found = Vec::new();
    for attempt in attempts {
        let Some(together) = attempt.together.as_deref() else { continue };
        // What is sent again with its key, or of an alert, may have been applied when it was sent first.
        if attempt.again && (attempt.has_key || attempt.alert.is_some()) {
            continue;
        }
        let position = if matches!(attempt.result, AttemptResult::Queued) {
            of_text.get(attempt.update.as_str())
        } else {
            attempt.result.taken().and_then(|id| positions.get(&UpdateId(id)))
        };
        let Some(position) = position else { continue };
        let place = (together, attempt.again, attempt.component);
        let before = latest.insert(place, (*position, &attempt.update));
        if let Some((earlier, before)) = before.filter(|(earlier, _)| earlier > position) {
            found.push(format!(
                "{} stands at place {position}, before {before} of the same request at {earlier}",
                attempt.update
            ));
        }
    }
    found
}
