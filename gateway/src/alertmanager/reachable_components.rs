//! Which components a mapping can reach.
//!
//! What alerts there will be is not known, so a rule is taken to reach a component unless something excludes
//! it: a text of the rule, a matcher, another component that its updates would be about instead.

use std::collections::BTreeMap;

use regex::Regex;
use shared::domain::component::{ByName, Component};

use super::{
    alert_to_update::{Action, ImpactOf, Mapping, Rule, ToUpdate},
    expression::NamedGroup,
    matcher::Matcher,
    template::{Placeholder, Template, TemplatePart},
};

/// What a mapping does not reach.
#[derive(Debug)]
pub(crate) struct Unreached<'a> {
    /// The components that no rule reaches, in order of their ids.
    pub(crate) components: Vec<&'a Component>,
    /// The rules that reach no component.
    pub(crate) rules: Vec<Useless<'a>>,
}

/// A rule that reaches no component.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Useless<'a> {
    /// An earlier rule matches each of its alerts.
    Shadowed {
        /// The rule.
        rule: &'a Rule,
        /// The earlier one.
        by: &'a Rule,
    },
    /// It matches alerts, but there is no component for them.
    WithoutComponent(&'a Rule),
}

/// Compares a mapping with a catalogue.
pub(crate) fn unreached<'a>(mapping: &'a Mapping, catalogue: &'a ByName) -> Unreached<'a> {
    let mut rules = Vec::new();
    let mut is_reached = vec![false; catalogue.len()];
    for (place, rule) in mapping.rules.iter().enumerate() {
        let before = mapping.rules.get(..place).unwrap_or_default();
        if let Some(by) = before.iter().find(|earlier| matches_all_of(earlier, rule)) {
            rules.push(Useless::Shadowed { rule, by });
            continue;
        }
        let Some(reaching) = Reaching::of(rule) else { continue };
        let mut reaches_some = false;
        for (component, is_reached) in catalogue.all().iter().zip(&mut is_reached) {
            if reaching.reaches(component, catalogue) {
                (*is_reached, reaches_some) = (true, true);
            }
        }
        if !reaches_some {
            rules.push(Useless::WithoutComponent(rule));
        }
    }
    let components = catalogue.all().iter().zip(is_reached);
    let components = components.filter(|(_, is_reached)| !is_reached).map(|(c, _)| c).collect();
    Unreached { components, rules }
}

/// Whether a rule certainly matches each alert that another one matches.
fn matches_all_of(earlier: &Rule, later: &Rule) -> bool {
    earlier.matchers.iter().all(|matcher| later.matchers.contains(matcher))
}

/// A rule that makes updates, prepared for many components.
struct Reaching<'a> {
    matchers: &'a [Matcher],
    groups: BTreeMap<&'a str, NamedGroup>,
    name: Pattern<'a>,
    attributes: Vec<(&'a str, Pattern<'a>)>,
}

/// The texts that a template can be.
struct Pattern<'a> {
    placeholders: Vec<&'a Placeholder>,
    texts: Regex,
}

/// The values that an alert must have to be about a component.
type Values<'a> = BTreeMap<&'a Placeholder, &'a str>;

impl<'a> Reaching<'a> {
    /// None for a rule that passes its alerts over.
    fn of(rule: &'a Rule) -> Option<Self> {
        let to_update = match &rule.action {
            Action::Ignore | Action::Update(ToUpdate { impact: ImpactOf::Rule(None), .. }) => {
                return None;
            }
            Action::Update(to_update) => to_update,
        };
        let mut groups = BTreeMap::new();
        for matcher in &rule.matchers {
            let Some(expression) = matcher.expression() else { continue };
            groups.extend(
                matcher.groups().filter_map(|name| Some((name, NamedGroup::of(expression, name)?))),
            );
        }
        let attributes = to_update.attributes.iter();
        let attributes = attributes
            .map(|(name, value)| Some((name.as_str(), Pattern::of(value)?)))
            .collect::<Option<_>>()?;
        let name = Pattern::of(&to_update.name)?;
        Some(Self { matchers: &rule.matchers, groups, name, attributes })
    }

    /// Whether an alert is possible whose update is about this component.
    fn reaches(&self, component: &'a Component, catalogue: &ByName) -> bool {
        let mut values = Values::new();
        if !self.fits(&self.name, &component.name, &mut values) {
            return false;
        }
        let mut given = Vec::new();
        for (name, pattern) in &self.attributes {
            let attribute = component.attributes.iter().find(|attribute| attribute.name == *name);
            match attribute {
                Some(attribute) if self.fits(pattern, &attribute.value, &mut values) => {
                    given.push(attribute.clone());
                }
                _ if self.may_be_left_out(pattern, &values) => {}
                _ => return false,
            }
        }
        // The more attributes an update names, the fewer other components it may be about.
        let found = catalogue.find(&component.name, &given);
        found.is_ok_and(|found| found.id == component.id)
    }

    /// Whether a template can be this text; adds the value that an alert must have for it.
    fn fits(&self, pattern: &Pattern<'a>, text: &'a str, values: &mut Values<'a>) -> bool {
        let Some(captures) = pattern.texts.captures(text) else { return false };
        // Of several values in one text, it is not known where one ends and the next begins.
        let ([placeholder], Some(value)) = (pattern.placeholders.as_slice(), captures.get(1))
        else {
            return true;
        };
        let value = value.as_str();
        if values.get(placeholder).is_some_and(|known| *known != value)
            || !self.admits(placeholder, value)
        {
            return false;
        }
        values.insert(placeholder, value);
        true
    }

    /// Whether an alert that the rule matches can have this value.
    fn admits(&self, placeholder: &Placeholder, value: &str) -> bool {
        match placeholder {
            Placeholder::Label(label) => self.of_label(label).all(|matcher| matcher.admits(value)),
            Placeholder::Group(name) => {
                self.groups.get(name.as_str()).is_none_or(|group| group.values.is_match(value))
            }
            Placeholder::Annotation(_) => true,
        }
    }

    /// Whether an alert can lack a value that a template needs.
    fn may_be_left_out(&self, pattern: &Pattern<'a>, values: &Values<'a>) -> bool {
        pattern.placeholders.iter().filter(|placeholder| !values.contains_key(**placeholder)).any(
            |placeholder| match placeholder {
                Placeholder::Label(label) => self.of_label(label).all(|matcher| matcher.admits("")),
                Placeholder::Group(name) => {
                    self.groups.get(name.as_str()).is_none_or(|group| group.is_optional)
                }
                Placeholder::Annotation(_) => true,
            },
        )
    }

    fn of_label(&self, label: &str) -> impl Iterator<Item = &Matcher> {
        self.matchers.iter().filter(move |matcher| matcher.label() == label)
    }
}

impl<'a> Pattern<'a> {
    /// None if it is too large for an expression.
    fn of(template: &'a Template) -> Option<Self> {
        let parts = template.parts.iter().map(|part| match part {
            TemplatePart::Text(text) => regex::escape(text),
            TemplatePart::Value(_) => "(.+)".to_owned(),
        });
        let texts = Regex::new(&format!("(?s)^{}$", parts.collect::<String>())).ok()?;
        Some(Self { placeholders: template.placeholders().collect(), texts })
    }
}

#[cfg(test)]
mod tests;
