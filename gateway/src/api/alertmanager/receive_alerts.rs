//! What both endpoints do with a request: its alerts become updates, which are queued.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use shared::{
    telemetry::metrics::{AlertResult, GATEWAY, UnmappedAlert, Words},
    throttled,
    wire::message::{Report, UpdateMessage},
};
use tokio::{
    sync::SemaphorePermit,
    task::yield_now,
    time::{Duration, Instant},
};

use super::answer::{DryRun, PassedOverJson, PlannedJson, Received, Taken, UnmappedJson};
use crate::{
    alertmanager::{
        alert::{Alert, AlertState, BadAlert, Fingerprint},
        alert_bodies::{Alerts, NoAlerts},
        alert_to_update::{Mapped, MappedUpdate, Mapping, PassedOver, Rule, Unmapped, named},
    },
    api::admission::{check_type, read, unread},
    gateway::App,
    http::{body, error::ApiError, prefer::Preference, query::Query},
    ingest::submit::{ComponentRef, Intake, StatusUpdate, Submitted, Terms, Unresolved},
};

/// Time from a request's arrival to its answer: Prometheus gives up after 10 s.
const WAIT: Duration = Duration::from_secs(8);
/// Maximum number of alerts whose updates are in memory and in flight at once.
const PORTION: usize = 500;

/// Takes the alerts of a request, which `cut` finds in its body.
///
/// # Errors
/// When the request is refused, and 503 when not all mapped alerts could be queued: then the sender sends all
/// of them again, which is harmless.
pub(super) async fn receive(
    app: &App,
    request: Request<Body>,
    cut: for<'a> fn(&'a [u8]) -> Result<Alerts<'a>, NoAlerts>,
) -> Result<Received, ApiError> {
    let deadline = Instant::now() + WAIT;
    let (parts, body) = request.into_parts();
    let caller = app.auth.check(&parts.headers).map_err(unread)?;
    check_type(&parts.headers).map_err(unread)?;
    let is_dry_run = is_dry_run(&parts.uri).map_err(unread)?;
    let read = read(&app.stop, body::read_alerts(body, &app.bodies)).await;
    let (bytes, _memory) = read.map_err(slow_is_unavailable)?;
    let alerts = cut(&bytes).map_err(refused)?;
    let intake = app.intake();
    if !is_dry_run {
        intake.count_together(caller.token, alerts.len(), deadline).await?;
    }
    let terms = Terms::of_alerts(&caller.subject, deadline, is_dry_run);
    intake.check_subject(&terms).await?;
    let now = intake.now()?;
    let mapping = app.mapping.get();
    let mut receiver = Receiver { intake, terms, mapping: &mapping, found: Found::default() };
    let mut alerts_left = alerts.read(now);
    while receiver.take_portion(&mut alerts_left).await {
        // Reading and mapping a portion takes some milliseconds, in which no other request gets on.
        yield_now().await;
    }
    receiver.finish(alerts.truncated)
}

fn is_dry_run(uri: &axum::http::Uri) -> Result<bool, ApiError> {
    let mut query = Query::new(uri);
    let is_dry_run = query.switch("dry_run");
    query.finish()?;
    Ok(is_dry_run)
}

/// Alertmanager sends again at once what is answered 503, and what is answered 408 with its group's next interval.
fn slow_is_unavailable(error: ApiError) -> ApiError {
    if error.status() != StatusCode::REQUEST_TIMEOUT {
        return error;
    }
    let (_, message, _) = error.into_parts();
    unread(ApiError::unavailable(message))
}

/// The answer to a body that brings no alerts.
fn refused(error: NoAlerts) -> ApiError {
    match error {
        NoAlerts::TooMany => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("{error}; nothing was queued. Alertmanager's `max_alerts` limits them"),
        ),
        NoAlerts::List(_) | NoAlerts::Webhook(_) | NoAlerts::Version(_) => {
            ApiError::bad_request(format!("{error}; nothing was queued"))
        }
    }
}

/// Makes updates of alerts, portion by portion.
struct Receiver<'a> {
    intake: Intake<'a>,
    terms: Terms<'a>,
    mapping: &'a Mapping,
    found: Found,
}

/// What became of the alerts so far.
#[derive(Default)]
struct Found {
    accepted: usize,
    planned: Vec<PlannedJson>,
    passed_over: Vec<PassedOverJson>,
    unmapped: Vec<UnmappedJson>,
    /// How many mapped alerts could not be queued, and why the first of them was not.
    refused: Option<(usize, ApiError)>,
}

/// An alert that a rule makes an update of.
struct Planned<'a> {
    fingerprint: Fingerprint,
    rule: &'a Rule,
    update: StatusUpdate,
}

impl<'a> Receiver<'a> {
    /// Takes the next alerts; returns whether there may be more.
    async fn take_portion(
        &mut self,
        alerts: &mut impl Iterator<Item = Result<Alert, BadAlert>>,
    ) -> bool {
        let mut planned = Vec::new();
        let mut read = 0;
        for alert in alerts.take(PORTION) {
            read += 1;
            planned.extend(self.plan(alert));
        }
        while !planned.is_empty() {
            // A request may have more alerts than there are places.
            let places = match self.places(planned.len()).await {
                Ok(places) => places,
                Err(error) => {
                    self.found.refuse(planned.len(), error);
                    break;
                }
            };
            let count = places.as_ref().map_or(planned.len(), SemaphorePermit::num_permits);
            let later = planned.split_off(count);
            self.take(planned).await;
            planned = later;
        }
        read == PORTION
    }

    /// Some of these places for updates in flight; none for a dry run, which needs none.
    async fn places(&self, count: usize) -> Result<Option<SemaphorePermit<'a>>, ApiError> {
        if self.terms.is_dry_run {
            return Ok(None);
        }
        self.intake.some_places(count, self.terms.deadline).await.map(Some)
    }

    /// What the mapping makes of an alert.
    fn plan(&mut self, read: Result<Alert, BadAlert>) -> Option<Planned<'a>> {
        let alert = match read {
            Ok(alert) => alert,
            Err(reason) => {
                self.unmapped(UnmappedAlert::Malformed, None, reason.to_string());
                return None;
            }
        };
        let fingerprint = alert.fingerprint;
        match self.mapping.map(&alert) {
            Mapped::Update(rule, update) => {
                Some(Planned { fingerprint, rule, update: status_update(&alert, update) })
            }
            Mapped::PassedOver(rule, why) => {
                self.passed_over(fingerprint, rule, why);
                None
            }
            Mapped::Unmapped(rule, reason) => {
                let word = match reason {
                    Unmapped::NoRule => UnmappedAlert::NoRule,
                    Unmapped::NoName(_) => UnmappedAlert::NoName,
                    Unmapped::TooLong { .. } => UnmappedAlert::TooLong,
                };
                let reason = match rule {
                    Some(rule) => format!("{rule}: {reason}"),
                    None => reason.to_string(),
                };
                self.unmapped(word, Some(fingerprint), reason);
                None
            }
        }
    }

    /// Resolves updates and queues them.
    async fn take(&mut self, planned: Vec<Planned<'a>>) {
        let mut messages = Vec::with_capacity(planned.len());
        let resolved = self.resolve(&planned).await;
        for (planned, resolved) in planned.into_iter().zip(resolved) {
            match resolved {
                Ok(message) => messages.push((planned, message)),
                Err(reason) => self.unresolved(&planned, reason),
            }
        }
        if self.terms.is_dry_run {
            let shown = messages.into_iter().map(|(planned, message)| {
                PlannedJson::new(planned.fingerprint, planned.rule, message)
            });
            self.found.planned.extend(shown);
            return;
        }
        let messages = messages.into_iter().map(|(_, message)| message).collect();
        // The time to wait is that of the deadline; what counts is that no outcome is awaited.
        let preference = Preference::confirmation(WAIT);
        for submitted in self.intake.deliver(messages, &preference, self.terms.deadline).await {
            match submitted {
                Submitted::Decided(_) | Submitted::Accepted(..) => {
                    self.found.accepted += 1;
                    GATEWAY.alerts.of(AlertResult::Accepted).inc();
                }
                Submitted::Refused(_, error) => self.found.refuse(1, error),
            }
        }
    }

    /// The message of each alert. If the database can't store its title, or does not say so in time, the title
    /// has what is left of it in ASCII: one with a part missing is better than no incident.
    async fn resolve(&self, planned: &[Planned<'_>]) -> Vec<Result<UpdateMessage, Unresolved>> {
        let updates = planned.iter().map(|planned| Ok(planned.update.clone())).collect();
        let mut resolved = self.intake.resolve(updates, &self.terms).await;
        let (mut places, mut plain) = (Vec::new(), Vec::new());
        for (planned, resolved) in planned.iter().zip(&mut resolved) {
            if matches!(resolved, Err(Unresolved::Text { field: "text", .. })) {
                let mut update = planned.update.clone();
                update.text = update.text.replace(|c: char| !c.is_ascii(), "?");
                places.push(resolved);
                plain.push(Ok(update));
            }
        }
        let plain = self.intake.resolve(plain, &self.terms).await;
        for (place, plain) in places.into_iter().zip(plain) {
            *place = plain;
        }
        resolved
    }

    fn unresolved(&mut self, planned: &Planned<'_>, reason: Unresolved) {
        let Planned { fingerprint, rule, update } = planned;
        let component = match &update.component {
            ComponentRef::Named { name, attributes } => named(name, attributes),
            ComponentRef::Id(id) => id.to_string(),
        };
        let (word, reason) = match reason {
            Unresolved::NotFound => {
                (UnmappedAlert::NotFound, format!("{rule}: there is no component {component}"))
            }
            Unresolved::Ambiguous(candidates) => (
                UnmappedAlert::Ambiguous,
                format!("{rule}: several components are {component}: {candidates}"),
            ),
            other @ (Unresolved::Text { .. } | Unresolved::Refused(_)) => {
                self.found.refuse(1, other.into());
                return;
            }
        };
        self.unmapped(word, Some(*fingerprint), reason);
    }

    fn unmapped(&mut self, word: UnmappedAlert, fingerprint: Option<Fingerprint>, reason: String) {
        let fingerprint = fingerprint.map(|fingerprint| fingerprint.to_string());
        if !self.terms.is_dry_run {
            GATEWAY.alerts_unmapped.of(word).inc();
            throttled!(warn, word.word(), alert = fingerprint, reason, "an alert is not mapped");
        }
        self.found.unmapped.push(UnmappedJson { fingerprint, reason });
    }

    fn passed_over(&mut self, fingerprint: Fingerprint, rule: &Rule, why: PassedOver) {
        if !self.terms.is_dry_run {
            GATEWAY.alerts.of(AlertResult::PassedOver).inc();
            return;
        }
        let reason = match why {
            PassedOver::Ignored => format!("{rule} ignores it"),
            PassedOver::NoImpact => format!("{rule}: its impact is none"),
        };
        self.found
            .passed_over
            .push(PassedOverJson { fingerprint: fingerprint.to_string(), reason });
    }

    /// The answer.
    fn finish(self, truncated: u64) -> Result<Received, ApiError> {
        let Found { accepted, planned, passed_over, unmapped, refused } = self.found;
        if let Some((count, first)) = refused {
            let (_, message, _) = first.into_parts();
            return Err(ApiError::unavailable(if self.terms.is_dry_run {
                format!(
                    "It is not known what becomes of {count} alerts; nothing was to be queued. The first: \
                    {message}"
                )
            } else {
                format!(
                    "{count} of {} alerts were not queued, or that is unknown; send all of them again. The \
                    first: {message}",
                    count + accepted
                )
            }));
        }
        if self.terms.is_dry_run {
            return Ok(Received::DryRun(DryRun { updates: planned, passed_over, unmapped }));
        }
        GATEWAY.alerts_truncated.inc_by(truncated);
        Ok(Received::Taken(Taken { accepted, unmapped }))
    }
}

impl Found {
    fn refuse(&mut self, count: usize, error: ApiError) {
        match &mut self.refused {
            Some((refused, _)) => *refused += count,
            None => self.refused = Some((count, error)),
        }
    }
}

fn status_update(alert: &Alert, mapped: MappedUpdate) -> StatusUpdate {
    let MappedUpdate { name, attributes, condition, text } = mapped;
    let (ttl, ends_at) = match alert.state {
        AlertState::Firing { ttl } => (ttl.map(whole_seconds), None),
        AlertState::Resolved { ended_at } => (None, ended_at),
    };
    let (source, key) = (String::new(), alert.fingerprint.to_string());
    let report = Report { source, key, ttl, starts_at: alert.starts_at, ends_at };
    let component = ComponentRef::Named { name, attributes };
    StatusUpdate { component, condition, text, idempotency_key: None, report }
}

/// Rounded up, so that none is 0.
fn whole_seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_micros().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use shared::domain::{condition::Condition, impact::Impact};

    use super::*;

    #[test]
    fn an_alert_is_a_report_with_its_fingerprint_and_its_times() {
        let read = |ends_at: &str, now: &str| {
            let body = format!(
                r#"[{{"labels": {{"component": "DNS"}}, "fingerprint": "00000000000000ff",
                "startsAt": "2026-03-01T12:00:00.5Z", "endsAt": "{ends_at}"}}]"#
            );
            let alerts = Alerts::of_list(body.as_bytes()).expect("a list");
            let alert = alerts.read(now.parse().expect("a time")).next();
            let alert = alert.expect("an alert").expect("a good one");
            let mapping = crate::alertmanager::mapping_file::default_mapping();
            let Mapped::Update(_, update) = mapping.map(&alert) else { panic!("not mapped") };
            status_update(&alert, update)
        };
        let end = "2026-03-01T12:04:00Z";
        let time = |time: &str| Some(time.parse().expect("a time"));
        for (ends_at, now, condition, ttl, ended_at) in [
            (end, "2026-03-01T12:00:00Z", Impact::Minor.into(), Some(240), None),
            (end, "2026-03-01T12:03:59.999Z", Impact::Minor.into(), Some(1), None),
            (end, "2026-03-01T12:04:00Z", Condition::Ok, None, time(end)),
            ("0001-01-01T00:00:00Z", end, Impact::Minor.into(), None, None),
            ("2999-01-01T00:00:00Z", end, Impact::Minor.into(), Some(u32::MAX), None),
        ] {
            let update = read(ends_at, now);
            let report = Report {
                source: String::new(),
                key: "00000000000000ff".to_owned(),
                ttl,
                starts_at: time("2026-03-01T12:00:00.5Z"),
                ends_at: ended_at,
            };
            assert_eq!((update.condition, update.report), (condition, report), "{ends_at} {now}");
            assert_eq!(update.idempotency_key, None);
        }
    }
}
