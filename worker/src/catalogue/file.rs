//! The catalogue file.

use std::{collections::HashMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_saphyr::Spanned;
use shared::{
    component::{self, Attribute, MAX_ATTRIBUTE_LENGTH, MAX_ATTRIBUTES},
    shorten::shorten,
};

use super::CatalogueError;

/// Characters of a text of the file in an error message, at most.
const QUOTED: usize = 60;

/// A component as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The file's line, from 1.
    #[serde(skip)]
    pub line: u64,
    /// Its name.
    pub name: String,
    /// Its attributes, in the file's order.
    pub attributes: Vec<Attribute>,
    /// What it was called before, where the file says so.
    #[serde(skip)]
    pub renamed_from: Option<Former>,
}

/// What a component was called before: it is the one with this name and exactly these attributes,
/// failing that the only one whose attributes contain these, as for an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    /// Its name then.
    pub name: String,
    /// Its attributes then, or some of them.
    pub attributes: Vec<Attribute>,
}

impl Entry {
    /// As a component's label.
    #[must_use]
    pub fn label(&self) -> String {
        component::label(&self.name, &self.attributes)
    }
}

impl Former {
    /// As a component's label.
    #[must_use]
    pub fn label(&self) -> String {
        component::label(&self.name, &self.attributes)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    components: Vec<Spanned<Written>>,
}

/// An entry as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default, rename = "renamed-from")]
    renamed_from: RenamedFrom,
}

/// A mapping whose order is kept: it is the order of the values in a component's label.
#[derive(Default)]
struct Attributes(Vec<Attribute>);

impl<'de> Deserialize<'de> for Attributes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> de::Visitor<'de> for InOrder {
            type Value = Attributes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of attribute names to values")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Attributes, A::Error> {
                let mut attributes = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    attributes.push(Attribute { name, value });
                }
                Ok(Attributes(attributes))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// What `renamed-from` says: a name alone, or what of both was otherwise.
#[derive(Default)]
struct RenamedFrom(Option<FormerFields>);

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FormerFields {
    name: Option<String>,
    attributes: Option<Attributes>,
}

impl<'de> Deserialize<'de> for RenamedFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrFields;
        impl<'de> de::Visitor<'de> for NameOrFields {
            type Value = RenamedFrom;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name before, or `name` and `attributes` before")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<RenamedFrom, E> {
                Ok(RenamedFrom(Some(FormerFields {
                    name: Some(name.to_owned()),
                    attributes: None,
                })))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RenamedFrom, A::Error> {
                let fields = FormerFields::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(RenamedFrom(Some(fields)))
            }
        }
        deserializer.deserialize_any(NameOrFields)
    }
}

/// Reads a catalogue file.
///
/// # Errors
/// When it is not of the form, or a component in it makes no sense; with the line.
pub fn parse(yaml: &str) -> Result<Vec<Entry>, CatalogueError> {
    let file: File =
        serde_saphyr::from_str(yaml).map_err(|e| CatalogueError::Malformed(e.to_string()))?;
    let mut seen: HashMap<(String, Vec<Attribute>), u64> = HashMap::new();
    let mut entries = Vec::with_capacity(file.components.len());
    for written in file.components {
        let line = written.referenced.line();
        let nonsense = |reason: String| CatalogueError::Nonsense { line, reason };
        let entry = entry(line, written.value).map_err(nonsense)?;
        let mut sorted = entry.attributes.clone();
        sorted.sort();
        if let Some(first) = seen.insert((entry.name.clone(), sorted), line) {
            let label = component::short_label(&entry.name, &entry.attributes);
            return Err(nonsense(format!("{label} stands already at line {first}")));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(line: u64, written: Written) -> Result<Entry, String> {
    let Written { name, attributes: Attributes(attributes), renamed_from } = written;
    check(&name, &attributes)?;
    let renamed_from =
        renamed_from.0.map(|fields| former(&name, &attributes, fields)).transpose()?;
    Ok(Entry { line, name, attributes, renamed_from })
}

/// What is not said was as it is now.
fn former(name: &str, attributes: &[Attribute], fields: FormerFields) -> Result<Former, String> {
    if fields.name.is_none() && fields.attributes.is_none() {
        return Err(
            "renamed-from says neither the name before nor the attributes before".to_owned()
        );
    }
    let former = Former {
        name: fields.name.unwrap_or_else(|| name.to_owned()),
        attributes: match fields.attributes {
            Some(Attributes(attributes)) => attributes,
            // Its category may have been renamed with it.
            None => attributes.iter().filter(|a| a.tells_apart()).cloned().collect(),
        },
    };
    check(&former.name, &former.attributes)
        .map_err(|problem| format!("renamed-from: {problem}"))?;
    Ok(former)
}

fn check(name: &str, attributes: &[Attribute]) -> Result<(), String> {
    check_text("the name of a component", name)?;
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(format!(
            "{} has {} attributes, and an update can name {MAX_ATTRIBUTES} at most",
            shorten(name, QUOTED),
            attributes.len()
        ));
    }
    for Attribute { name, value } in attributes {
        check_text("the name of an attribute", name)?;
        let of_value = format!("the value of {}", shorten(name, QUOTED));
        check_text(&of_value, value)?;
        for (what, text) in [("the name of an attribute", name), (&of_value, value)] {
            if text.chars().count() > MAX_ATTRIBUTE_LENGTH {
                return Err(format!(
                    "{what}, `{}`, has more than {MAX_ATTRIBUTE_LENGTH} characters",
                    shorten(text, QUOTED)
                ));
            }
        }
    }
    Ok(())
}

fn check_text(what: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("{what} is empty"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{what} has a control character"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "components:
  - name: DNS
    attributes:
      region: R1
      category: Net
  - name: DNS
    attributes: {region: R2, category: Net}
";

    #[test]
    fn order_and_lines_are_kept() {
        let parsed = parse(TWO).expect("parses");
        let shown: Vec<_> = parsed.iter().map(|w| (w.line, w.label())).collect();
        assert_eq!(shown, [(2, "DNS (R1, Net)".to_owned()), (6, "DNS (R2, Net)".to_owned())]);
    }

    /// What is written, and the name before.
    #[test]
    fn what_a_component_was_before_is_read() {
        for (renamed_from, expected) in [
            ("Names", "Names (R1, dns)"),
            ("'Names'", "Names (R1, dns)"),
            ("{name: Names}", "Names (R1, dns)"),
            ("{attributes: {region: R2}}", "DNS (R2)"),
            ("{name: Names, attributes: {type: ns, region: R2}}", "Names (ns, R2)"),
            ("{name: Names, attributes: {}}", "Names ()"),
        ] {
            let yaml = format!(
                "components:\n- name: DNS\n  attributes: {{region: R1, category: Net, type: dns}}\n  \
                renamed-from: {renamed_from}\n"
            );
            let parsed = parse(&yaml).expect(renamed_from);
            let former = parsed[0].renamed_from.as_ref().map(Former::label);
            assert_eq!(former.as_deref(), Some(expected), "{renamed_from}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let pairs =
            |count: usize| (0..count).map(|n| format!("a{n}: b")).collect::<Vec<_>>().join(", ");
        let many = format!("components:\n- name: DNS\n  attributes: {{{}}}\n", pairs(33));
        assert!(parse(&many.replace(", a32: b", "")).is_ok());
        let long = format!("components:\n- name: DNS\n  attributes: {{a: {}}}\n", "x".repeat(256));
        let long_name = long.replace("a: xxx", "xxx").replace("xx}", "xxx: b}");
        for (yaml, says) in [
            ("", "not of the form"),
            ("components: 5", "line 1"),
            ("components:\n  - title: DNS\n", "line 2"),
            ("components:\n  - name: DNS\n    attributes: [a]\n", "line 3"),
            ("components:\n  - name: DNS\n    colour: red\n", "line 3"),
            ("components:\n  - name: ' '\n", "line 2: the name of a component is empty"),
            (
                "components:\n  - name: DNS\n    attributes: {region: ''}\n",
                "line 2: the value of region is empty",
            ),
            (
                "components:\n  - name: \"a\\u0000b\"\n",
                "line 2: the name of a component has a control character",
            ),
            ("components:\n  - name: DNS\n    attributes: {a: b, a: c}\n", "line 3"),
            (
                "components:\n  - name: DNS\n  - name: CDN\n  - name: DNS\n",
                "line 4: DNS () stands already at line 2",
            ),
            (&many, "line 2: DNS has 33 attributes, and an update can name 32 at most"),
            (&long, "line 2: the value of a, `xxx"),
            (&long_name, "line 2: the name of an attribute, `xxx"),
            ("components:\n- name: DNS\n  renamed-from: {}\n", "line 2: renamed-from says neither"),
            ("components:\n- name: DNS\n  renamed-from:\n", "the name before"),
            ("components:\n- name: DNS\n  renamed-from: [CDN]\n", "the name before"),
            ("components:\n- name: DNS\n  renamed-from: {title: CDN}\n", "line 3"),
            (
                "components:\n- name: DNS\n  renamed-from: ' '\n",
                "line 2: renamed-from: the name of a component is empty",
            ),
        ] {
            let error = parse(yaml).expect_err(yaml).to_string();
            assert!(error.contains(says), "{yaml:?} gives {error:?}, not {says:?}");
        }
    }
}
