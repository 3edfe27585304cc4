//! What becomes of an alert: an update of a component, or nothing, by the first rule that matches it.

use std::{collections::BTreeMap, fmt};

use shared::domain::{
    component::{Attribute, MAX_ATTRIBUTE_LENGTH},
    condition::Condition,
    impact::Impact,
    incident::{DEFAULT_TITLE, MAX_TITLE_CHARS},
    shorten::shorten,
};

use super::{
    alert::{Alert, AlertState},
    matcher::{Groups, Matcher},
    template::{Missing, Template},
};

/// The label by which every pipeline names its alerts.
const ALERT_NAME: &str = "alertname";

/// The content of a mapping file.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(super) severity: Severity,
    /// At least one, in the file's order.
    pub(crate) rules: Vec<Rule>,
}

/// The impact that alerts have by one of their labels. None: they are ignored.
#[derive(Debug)]
pub(super) struct Severity {
    pub(super) label: String,
    pub(super) map: BTreeMap<String, Option<Impact>>,
    /// For any other value, and for none.
    pub(super) otherwise: Option<Impact>,
}

/// A rule: which alerts it is for, and what becomes of them.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Its place in the list, from 1.
    pub(super) number: usize,
    /// The file's line, from 1; none for the rule that applies without a file.
    pub(super) line: Option<u64>,
    /// All of them must match; without any, all alerts do.
    pub(super) matchers: Vec<Matcher>,
    pub(super) action: Action,
}

/// What becomes of an alert.
#[derive(Debug)]
pub(super) enum Action {
    /// It is ignored.
    Ignore,
    /// It is a status update.
    Update(ToUpdate),
}

/// How the update is made.
#[derive(Debug)]
pub(super) struct ToUpdate {
    pub(super) name: Template,
    pub(super) attributes: Vec<(String, Template)>,
    pub(super) impact: ImpactOf,
    pub(super) text: Option<Template>,
}

/// Where the impact comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ImpactOf {
    /// The alert's severity.
    Severity,
    /// The rule. None: its alerts are ignored.
    Rule(Option<Impact>),
}

/// What becomes of one alert.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mapped<'a> {
    /// An update.
    Update(&'a Rule, MappedUpdate),
    /// Nothing, as the rule wants it.
    PassedOver(&'a Rule, PassedOver),
    /// Nothing, though something was to become of it.
    Unmapped(Option<&'a Rule>, Unmapped),
}

/// The update that an alert makes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MappedUpdate {
    /// The name of the component.
    pub(crate) name: String,
    /// Its attributes, as an update names it, in the rule's order.
    pub(crate) attributes: Vec<Attribute>,
    /// What the alert says of it: `Ok` if it is resolved.
    pub(crate) condition: Condition,
    /// The title of an incident that it opens.
    pub(crate) text: String,
}

/// Why a rule passes an alert over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassedOver {
    /// It ignores what it matches.
    Ignored,
    /// The impact is `none`.
    NoImpact,
}

/// Why nothing becomes of an alert that was not to be ignored.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unmapped {
    /// There is no rule for it.
    #[error("no rule matches it")]
    NoRule,
    /// The name of the component needs what the alert lacks.
    #[error("it names no component: {0}")]
    NoName(Missing),
    /// No component can have such a text.
    #[error("{what} has more than 255 characters, which no component has")]
    TooLong {
        /// Which text it is.
        what: String,
    },
}

impl Mapping {
    /// What becomes of an alert.
    pub(crate) fn map(&self, alert: &Alert) -> Mapped<'_> {
        for rule in &self.rules {
            let mut groups = Groups::new();
            if rule.matchers.iter().all(|matcher| matcher.matches(&alert.labels, &mut groups)) {
                return self.apply(rule, alert, &groups);
            }
        }
        Mapped::Unmapped(None, Unmapped::NoRule)
    }

    fn apply<'a>(&'a self, rule: &'a Rule, alert: &Alert, groups: &Groups<'_>) -> Mapped<'a> {
        let Action::Update(to_update) = &rule.action else {
            return Mapped::PassedOver(rule, PassedOver::Ignored);
        };
        let impact = match to_update.impact {
            ImpactOf::Severity => self.severity.impact(alert),
            ImpactOf::Rule(impact) => impact,
        };
        let Some(impact) = impact else {
            return Mapped::PassedOver(rule, PassedOver::NoImpact);
        };
        let condition = match alert.state {
            AlertState::Firing { .. } => Condition::Impact(impact),
            AlertState::Resolved { .. } => Condition::Ok,
        };
        match to_update.update(alert, groups, condition) {
            Ok(update) => Mapped::Update(rule, update),
            Err(reason) => Mapped::Unmapped(Some(rule), reason),
        }
    }
}

impl Severity {
    fn impact(&self, alert: &Alert) -> Option<Impact> {
        let severity = alert.labels.get(&self.label);
        severity.and_then(|severity| self.map.get(severity)).copied().unwrap_or(self.otherwise)
    }
}

impl ToUpdate {
    fn update(
        &self,
        alert: &Alert,
        groups: &Groups<'_>,
        condition: Condition,
    ) -> Result<MappedUpdate, Unmapped> {
        let name = self.name.fill(alert, groups).map_err(Unmapped::NoName)?;
        check_length("the name of the component", &name)?;
        let mut attributes = Vec::with_capacity(self.attributes.len());
        for (name, value) in &self.attributes {
            // An alert that does not say it is about a component that does not need it.
            let Ok(value) = value.fill(alert, groups) else { continue };
            check_length(&format!("the attribute `{name}`"), &value)?;
            attributes.push(Attribute { name: name.clone(), value });
        }
        let text = self.text.as_ref().map(|text| text.fill_what_is_there(alert, groups));
        Ok(MappedUpdate { name, attributes, condition, text: title(text, alert) })
    }
}

/// The first of these that says something: the rule's text, the alert's summary, its name.
fn title(text: Option<String>, alert: &Alert) -> String {
    let summary = alert.annotations.get("summary").cloned();
    let name = alert.labels.get(ALERT_NAME).cloned();
    let texts = [text, summary, name].into_iter().flatten();
    let title = texts.map(|text| one_line(&text)).find(|text| !text.is_empty());
    title.unwrap_or_else(|| DEFAULT_TITLE.to_owned())
}

/// As a title can be: white space and control characters are one space, and what is too long is cut. An
/// incident with a part of its title is better than none.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if line.chars().count() > MAX_TITLE_CHARS {
        shorten(&line, MAX_TITLE_CHARS - 1).into_owned()
    } else {
        line
    }
}

fn check_length(what: &str, text: &str) -> Result<(), Unmapped> {
    if text.chars().count() > MAX_ATTRIBUTE_LENGTH {
        return Err(Unmapped::TooLong { what: what.to_owned() });
    }
    Ok(())
}

impl PartialEq for Rule {
    /// Rules of one mapping differ in their numbers.
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Rule {}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "rule {} (line {line})", self.number),
            None => f.write_str("the default rule"),
        }
    }
}

impl fmt::Display for MappedUpdate {
    /// `Object Storage (region=eu)=major`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", named(&self.name, &self.attributes), self.condition)
    }
}

/// A component as operators name it: `Object Storage (region=eu, type=s3)`.
pub(crate) fn named(name: &str, attributes: &[Attribute]) -> String {
    if attributes.is_empty() {
        return name.to_owned();
    }
    let attributes = attributes.iter().map(|Attribute { name, value }| format!("{name}={value}"));
    format!("{name} ({})", attributes.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
