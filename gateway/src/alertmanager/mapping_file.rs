//! The mapping file.

use std::collections::BTreeMap;

use shared::{
    domain::{
        component::{MAX_ATTRIBUTE_LENGTH, MAX_ATTRIBUTES},
        impact::Impact,
        shorten::{MAX_QUOTED_CHARS, shorten},
    },
    yaml::{self, Document, Node, YamlError, error},
};

use super::{
    alert_to_update::{Action, ImpactOf, Mapping, Rule, Severity, ToUpdate},
    matcher::{self, Matcher},
    template::Template,
};
use crate::http::impact::{ImpactInput, impact_from_text};

/// What applies without a file. `docs/reference/alert-mapping.md` shows it.
const DEFAULT: &str = "
rules:
  - component: {name: '{{ component }}', attributes: {region: '{{ region }}'}}
";

/// The mapping that applies without a file.
#[expect(clippy::expect_used, reason = "it is a literal, and tests use it")]
pub(crate) fn default_mapping() -> Mapping {
    let mut mapping = parse(DEFAULT).expect("it is a mapping");
    for rule in &mut mapping.rules {
        rule.line = None;
    }
    mapping
}

/// Reads a mapping file.
///
/// # Errors
/// When something in it can't be used; the text says what to write, and the line.
pub(crate) fn parse(yaml: &str) -> Result<Mapping, YamlError> {
    let mut document = yaml::read(yaml)?;
    let root = document.root.clone();
    let [severity, rules] = fields(&mut document, &root, "the file", ["severity", "rules"])?;
    let severity = read_severity(&mut document, severity)?;
    let list = rules.as_ref().and_then(Node::list).ok_or_else(|| {
        let line = rules.as_ref().map_or(root.line, |rules| rules.line);
        error(line, "the file needs `rules`, a list")
    })?;
    let rules: Vec<Rule> = (1..)
        .zip(list)
        .map(|(number, node)| read_rule(&mut document, number, node))
        .collect::<Result<_, _>>()?;
    Ok(Mapping { severity, rules })
}

/// The values of a mapping by their keys; other keys are refused.
fn fields<const N: usize>(
    document: &mut Document,
    node: &Node,
    what: &str,
    known: [&str; N],
) -> Result<[Option<Node>; N], YamlError> {
    let listed = || known.map(|key| format!("`{key}`")).join(", ");
    let entries = document.entries(node)?.ok_or_else(|| {
        error(node.line, format!("{what} must be a mapping with some of {}", listed()))
    })?;
    let mut values = [const { None }; N];
    for (key, value) in &*entries {
        let text = key.written("a key")?;
        let Some(place) = known.iter().position(|known| *known == text) else {
            let text = shorten(text, MAX_QUOTED_CHARS);
            let reason = format!("`{text}` is unknown: {what} has {}", listed());
            return Err(error(key.line, reason));
        };
        // A rule of which the matchers are still to be written must not match every alert.
        if value.is_empty() {
            let reason = format!("`{text}` is empty: write something, or leave it out");
            return Err(error(key.line, reason));
        }
        values[place] = Some(value.clone());
    }
    Ok(values)
}

/// `severity`: without it, or without a part of it, what alerts of Prometheus usually have.
fn read_severity(document: &mut Document, node: Option<Node>) -> Result<Severity, YamlError> {
    let [label, map, otherwise] = match node {
        Some(node) => fields(document, &node, "`severity`", ["label", "map", "otherwise"])?,
        None => [const { None }; 3],
    };
    let label = match label {
        Some(node) => node.written("`label`")?.to_owned(),
        None => "severity".to_owned(),
    };
    let map = match map {
        Some(node) => severities(document, &node)?,
        None => usual_severities(),
    };
    let otherwise = match otherwise {
        Some(node) => read_impact(&node)?,
        None => Some(Impact::Minor),
    };
    Ok(Severity { label, map, otherwise })
}

fn usual_severities() -> BTreeMap<String, Option<Impact>> {
    let usual = [
        ("critical", Some(Impact::Outage)),
        ("error", Some(Impact::Major)),
        ("warning", Some(Impact::Minor)),
        ("info", None),
    ];
    usual.into_iter().map(|(severity, impact)| (severity.to_owned(), impact)).collect()
}

fn severities(
    document: &mut Document,
    node: &Node,
) -> Result<BTreeMap<String, Option<Impact>>, YamlError> {
    let entries = document.entries(node)?.ok_or_else(|| {
        error(
            node.line,
            "`map` must be a mapping of severities to impacts, such as `critical: outage`",
        )
    })?;
    let severity = |(key, value): &(Node, Node)| {
        Ok((key.written("a severity")?.to_owned(), read_impact(value)?))
    };
    entries.iter().map(severity).collect()
}

/// An impact that an update can report, or `none`.
fn read_impact(node: &Node) -> Result<Option<Impact>, YamlError> {
    let written = node.written("an impact")?;
    match impact_from_text(written) {
        ImpactInput::Impact(impact) if impact != Impact::Maintenance => Ok(Some(impact)),
        _ if written == "none" => Ok(None),
        ImpactInput::Impact(_) | ImpactInput::OutOfRange | ImpactInput::Unreadable => {
            let reason = format!(
                "`{}` is no impact: write `minor`, `major` or `outage`, or `none` for alerts to be \
                ignored",
                shorten(written, MAX_QUOTED_CHARS)
            );
            Err(error(node.line, reason))
        }
    }
}

fn read_rule(document: &mut Document, number: usize, node: &Node) -> Result<Rule, YamlError> {
    let known = ["match", "ignore", "component", "impact", "text"];
    let [matching, ignore, component, impact, text] = fields(document, node, "a rule", known)?;
    let matchers = match matching {
        Some(node) => read_matchers(document, &node)?,
        None => Vec::new(),
    };
    let mut groups: Vec<&str> = matchers.iter().flat_map(Matcher::groups).collect();
    groups.sort_unstable();
    if let Some(pair) = groups.windows(2).find(|pair| pair[0] == pair[1]) {
        let reason = format!("two matchers of the rule have a group `{}`: rename one", pair[0]);
        return Err(error(node.line, reason));
    }
    let action = match (is_set(ignore)?, component) {
        (true, None) if impact.is_none() && text.is_none() => Action::Ignore,
        (true, _) => {
            let reason = "a rule with `ignore: true` has nothing else but `match`";
            return Err(error(node.line, reason));
        }
        (false, None) => {
            let reason = "a rule needs a `component`, or `ignore: true` to pass alerts over";
            return Err(error(node.line, reason));
        }
        (false, Some(component)) => {
            let (name, attributes) = read_component(document, &component, &groups)?;
            let impact = match impact {
                Some(node) => ImpactOf::Rule(read_impact(&node)?),
                None => ImpactOf::Severity,
            };
            let text = text.map(|node| template(&node, "`text`", &groups)).transpose()?;
            Action::Update(ToUpdate { name, attributes, impact, text })
        }
    };
    Ok(Rule { number, line: Some(node.line), matchers, action })
}

fn is_set(switch: Option<Node>) -> Result<bool, YamlError> {
    let Some(node) = switch else { return Ok(false) };
    match node.written("`ignore`")? {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(error(node.line, "`ignore` is to be `true` or `false`")),
    }
}

/// A list of matchers, or labels with their values.
fn read_matchers(document: &mut Document, node: &Node) -> Result<Vec<Matcher>, YamlError> {
    if let Some(entries) = document.entries(node)? {
        let equal = |(label, value): &(Node, Node)| {
            let label = label.written("the name of a label")?;
            Ok(Matcher::equal(label, value.written(&format!("the value of `{label}`"))?))
        };
        return entries.iter().map(equal).collect();
    }
    let several = node.list().unwrap_or(std::slice::from_ref(node));
    let mut matchers = Vec::new();
    for node in several {
        let written = node.written("a matcher")?;
        matchers.extend(matcher::parse(written).map_err(|problem| error(node.line, problem))?);
    }
    Ok(matchers)
}

fn read_component(
    document: &mut Document,
    node: &Node,
    groups: &[&str],
) -> Result<(Template, Vec<(String, Template)>), YamlError> {
    let [name, attributes] = fields(document, node, "`component`", ["name", "attributes"])?;
    let name = name.ok_or_else(|| error(node.line, "`component` needs a `name`"))?;
    let name = template_of_component(&name, "the name of the component", groups)?;
    let Some(node) = attributes else { return Ok((name, Vec::new())) };
    let entries = document
        .entries(&node)?
        .ok_or_else(|| error(node.line, "`attributes` must be a mapping of names to values"))?;
    if entries.len() > MAX_ATTRIBUTES {
        let reason = format!("an update can name {MAX_ATTRIBUTES} attributes at most");
        return Err(error(node.line, reason));
    }
    let attribute = |(name, value): &(Node, Node)| {
        let name = name.written("the name of an attribute")?;
        let what = format!("the attribute `{}`", shorten(name, MAX_QUOTED_CHARS));
        Ok((name.to_owned(), template_of_component(value, &what, groups)?))
    };
    Ok((name, entries.iter().map(attribute).collect::<Result<_, _>>()?))
}

/// A template of what names a component: no component has an empty text, or one that is too long.
fn template_of_component(node: &Node, what: &str, groups: &[&str]) -> Result<Template, YamlError> {
    let template = template(node, what, groups)?;
    if let Some(text) = template.constant() {
        if text.trim().is_empty() {
            return Err(error(node.line, format!("{what} is empty")));
        }
        if text.chars().count() > MAX_ATTRIBUTE_LENGTH {
            let reason = format!("{what} has more than {MAX_ATTRIBUTE_LENGTH} characters");
            return Err(error(node.line, reason));
        }
    }
    Ok(template)
}

fn template(node: &Node, what: &str, groups: &[&str]) -> Result<Template, YamlError> {
    // In YAML, braces without quotes are a mapping.
    let text = node.written(what).map_err(|YamlError { line, reason }| {
        error(line, format!("{reason}; braces are to be in quotes: '{{{{ name }}}}'"))
    })?;
    Template::parse(text, groups).map_err(|problem| error(node.line, format!("{what}: {problem}")))
}

#[cfg(test)]
mod tests;
