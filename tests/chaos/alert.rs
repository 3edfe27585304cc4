//! Alerts, which begin and end by the clock, so that all who watch see the same; and the bodies that bring them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::domain::{
    component::ComponentId, condition::Condition, impact::Impact, timestamp::Timestamp,
};
use tokio::time::Instant;

/// What the gateways make of alerts.
pub(crate) const MAPPING: &str = r#"rules:
  - match: {alertname: Watchdog}
    ignore: true
  - match: ['cluster=~"chaos-(?P<region>R[12])"']
    component: {name: '{{ service }}', attributes: {region: '{{ region }}'}}
    text: '{{ annotations.summary }}'
"#;
/// Groups of alerts: each has a name of its own, and is sent by itself.
pub(crate) const GROUPS: usize = 4;
/// Components that alerts of a group are about. The next group shares half of them.
const COMPONENTS: usize = 4;
/// Alerts of one group about one component.
const INSTANCES: usize = 2;
/// After how long it is seen that an alert began or ended, in microseconds: by more than a gateway's clock can be
/// behind, so that none takes an end for one that is to come.
const SEEN_AFTER: i64 = 6_000_000;
/// For how long an alert is to be taken as firing, as Prometheus says, in microseconds.
const FIRING_FOR: i64 = 240_000_000;
const SEVERITIES: [(&str, Impact); 3] =
    [("warning", Impact::Minor), ("error", Impact::Major), ("critical", Impact::Outage)];

type Labels = BTreeMap<&'static str, String>;

/// The database's clock, as it was read when the run began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) began: Timestamp,
    pub(crate) read: Instant,
}

impl Clock {
    pub(crate) fn now(self) -> Timestamp {
        self.began.plus_micros(self.read.elapsed().as_micros() as i64)
    }
}

/// The receivers of alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// The one that Alertmanager's webhook posts to.
    Webhook,
    /// The one that Prometheus posts to as to an Alertmanager.
    List,
}

/// An alert as it is seen at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    group: usize,
    component: usize,
    instance: usize,
    pub(crate) starts_at: Timestamp,
    /// None while it fires.
    pub(crate) ends_at: Option<Timestamp>,
}

/// All of a group: those that fire, and those that ended last.
pub(crate) fn seen(group: usize, now: Timestamp) -> impl Iterator<Item = Seen> {
    (0..COMPONENTS * INSTANCES).map(move |number| {
        // It begins anew every 6 to 20 s, and fires for two fifths of that.
        let place = (group * COMPONENTS * INSTANCES + number) as i64;
        let period = 6_000_000 + place * 3_700_000 % 14_000_000;
        let at = now.plus_micros(-SEEN_AFTER);
        let starts_at = at.plus_micros(-at.as_micros().rem_euclid(period));
        let ends_at = starts_at.plus_micros(period * 2 / 5);
        Seen {
            group,
            component: group * COMPONENTS / 2 + number / INSTANCES,
            instance: number % INSTANCES,
            starts_at,
            ends_at: (ends_at <= at).then_some(ends_at),
        }
    })
}

impl Seen {
    /// The id of the component that it is about.
    pub(crate) fn component(&self) -> ComponentId {
        ComponentId(self.component as i32 + 1)
    }

    pub(crate) fn condition(&self) -> Condition {
        if self.ends_at.is_some() { Condition::Ok } else { self.severity().1.into() }
    }

    /// By its labels.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(&self.labels())
    }

    fn severity(&self) -> (&'static str, Impact) {
        SEVERITIES[self.component % SEVERITIES.len()]
    }

    fn labels(&self) -> Labels {
        Labels::from([
            ("alertname", format!("Alert {}", self.group)),
            ("cluster", format!("chaos-R{}", 1 + self.component % 2)),
            ("instance", self.instance.to_string()),
            ("service", format!("Service {}", self.component / 2)),
            ("severity", self.severity().0.to_owned()),
        ])
    }
}

/// An alert that the mapping ignores.
fn watchdog() -> Labels {
    Labels::from([("alertname", "Watchdog".to_owned()), ("severity", "none".to_owned())])
}

/// An alert whose component the catalogue does not have: the database is asked for it.
fn stranger() -> Labels {
    Labels::from([
        ("alertname", "Strange".to_owned()),
        ("cluster", "chaos-R1".to_owned()),
        ("service", "Service none".to_owned()),
    ])
}

/// As Prometheus and Alertmanager compute it: FNV-1a over names and values, each with a byte 255 behind it.
fn fingerprint(labels: &Labels) -> String {
    let texts = labels.iter().flat_map(|(name, value)| [*name, value.as_str()]);
    let bytes = texts.flat_map(|text| text.bytes().chain([0xff]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

impl Endpoint {
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Webhook => "/alertmanager/webhook",
            Self::List => "/alertmanager/api/v2/alerts",
        }
    }

    /// The body with these alerts, each with its summary, behind others that become no updates.
    pub(crate) fn body(self, alerts: &[(Seen, String)], strangers: usize, now: Timestamp) -> Value {
        let firing = |labels| self.alert(&labels, "no update", (now, None), now);
        let others = [watchdog()].into_iter().chain((0..strangers).map(|_| stranger()));
        let own = alerts.iter().map(|(seen, summary)| {
            self.alert(&seen.labels(), summary, (seen.starts_at, seen.ends_at), now)
        });
        let all: Vec<Value> = others.map(firing).chain(own).collect();
        match self {
            Self::List => json!(all),
            Self::Webhook => json!({
                "receiver": "status",
                "status": "firing",
                "alerts": all,
                "groupLabels": {},
                "commonLabels": {},
                "commonAnnotations": {},
                "externalURL": "http://alertmanager:9093",
                "version": "4",
                "groupKey": "{}:{}",
                "truncatedAlerts": 0,
            }),
        }
    }

    fn alert(
        self,
        labels: &Labels,
        summary: &str,
        (starts_at, ends_at): (Timestamp, Option<Timestamp>),
        now: Timestamp,
    ) -> Value {
        let mut alert = json!({
            "labels": labels,
            "annotations": { "description": "value 0", "summary": summary },
            "startsAt": starts_at.to_the_microsecond(),
            "generatorURL": "http://prometheus:9090/graph?g0.expr=up+%3D%3D+0&g0.tab=1",
        });
        alert["endsAt"] = json!(match (ends_at, self) {
            (Some(ends_at), _) => ends_at.to_the_microsecond(),
            (None, Self::List) => now.plus_micros(FIRING_FOR).to_the_microsecond(),
            (None, Self::Webhook) => "0001-01-01T00:00:00Z".to_owned(),
        });
        if self == Self::Webhook {
            alert["status"] = json!(if ends_at.is_some() { "resolved" } else { "firing" });
            alert["fingerprint"] = json!(fingerprint(labels));
        }
        alert
    }

    /// Whether this is its answer to a body with so many alerts that become updates, and so many strangers.
    pub(crate) fn is_answer(self, answer: &Value, accepted: usize, strangers: usize) -> bool {
        match self {
            Self::List => answer.is_null(),
            Self::Webhook => {
                let unmapped = answer["unmapped"].as_array().map_or(&[][..], Vec::as_slice);
                let is_stranger = |each: &Value| each["fingerprint"] == fingerprint(&stranger());
                answer["accepted"] == accepted
                    && unmapped.len() == strangers
                    && unmapped.iter().all(is_stranger)
            }
        }
    }
}
