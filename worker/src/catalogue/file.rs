//! The catalogue file.

use std::collections::HashMap;

use serde::Serialize;
use shared::{
    domain::{
        component::{self, Attribute, MAX_ATTRIBUTE_LENGTH, MAX_ATTRIBUTES},
        shorten::{MAX_QUOTED_CHARS, shorten},
    },
    yaml::{self, Document, Node, YamlError},
};

use super::CatalogueError;

/// An entry of the file: a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct CatalogueEntry {
    /// The file's line, from 1.
    #[serde(skip)]
    pub(crate) line: u64,
    /// Its name.
    pub(crate) name: String,
    /// Its attributes, in the file's order.
    pub(crate) attributes: Vec<Attribute>,
    /// Its former name, if the file has one.
    #[serde(skip)]
    pub(crate) renamed_from: Option<FormerIdentity>,
}

/// The former name of a component: it refers to the one with this name and exactly these attributes;
/// otherwise to the only one whose attributes include these, as for an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FormerIdentity {
    /// Its name then.
    pub(crate) name: String,
    /// Its attributes then, or some of them.
    pub(crate) attributes: Vec<Attribute>,
}

impl CatalogueEntry {
    /// As a component's label.
    #[must_use]
    pub(crate) fn label(&self) -> String {
        component::label(&self.name, &self.attributes)
    }
}

impl FormerIdentity {
    /// As a component's label.
    #[must_use]
    pub(crate) fn label(&self) -> String {
        component::label(&self.name, &self.attributes)
    }
}

/// The content of a catalogue file.
#[derive(Debug)]
pub(crate) struct CatalogueFile {
    /// Its components.
    pub(crate) entries: Vec<CatalogueEntry>,
    /// Warnings about what is ignored, a line each.
    pub(crate) ignored: Vec<String>,
}

/// The keys of a component's mapping.
const NAME: &str = "name";
const ATTRIBUTES: &str = "attributes";
const RENAMED_FROM: &str = "renamed-from";

/// Reads a catalogue file like the Python dashboard, which reads the list `components` of the file, and
/// `name` and `attributes` of each entry. This also reads `renamed-from`.
///
/// # Errors
/// When it has another structure, or an entry is invalid; with the line.
pub(crate) fn parse(yaml: &str) -> Result<CatalogueFile, CatalogueError> {
    let malformed = |error: YamlError| {
        CatalogueError::Malformed(format!("line {}: {}", error.line, error.reason))
    };
    let mut document = yaml::read(yaml).map_err(malformed)?;
    let components = components(&mut document).map_err(malformed)?;
    let components = components.list().ok_or_else(|| {
        malformed(yaml::error(components.line, "`components` must be a list of components"))
    })?;
    let mut ignored = Vec::new();
    let mut entries: Vec<CatalogueEntry> = Vec::with_capacity(components.len());
    let mut seen: HashMap<(String, Vec<Attribute>), usize> = HashMap::new();
    for component in components {
        let invalid = |YamlError { line, reason }| CatalogueError::Invalid { line, reason };
        let entry = entry(&mut document, component, &mut ignored).map_err(invalid)?;
        let mut sorted = entry.attributes.clone();
        sorted.sort();
        let before = seen.entry((entry.name.clone(), sorted)).or_insert(entries.len());
        match entries.get_mut(*before) {
            Some(first) => ignored.push(same_again(first, entry).map_err(invalid)?),
            None => entries.push(entry),
        }
    }
    Ok(CatalogueFile { entries, ignored })
}

/// Ignores an entry for a component that an earlier entry has, as the Python dashboard does; returns a
/// warning.
fn same_again(first: &mut CatalogueEntry, again: CatalogueEntry) -> Result<String, YamlError> {
    let CatalogueEntry { line, name, attributes, renamed_from } = again;
    let label = component::short_label(&name, &attributes);
    match (&first.renamed_from, renamed_from) {
        (Some(one), Some(other)) if *one != other => {
            let reason = format!(
                "{label} is also in line {}, with another `renamed-from`: write it once",
                first.line
            );
            return Err(yaml::error(line, reason));
        }
        (None, renamed_from) => first.renamed_from = renamed_from,
        (Some(_), _) => {}
    }
    Ok(format!("line {line}: {label} is also in line {}; this entry is ignored", first.line))
}

fn components(document: &mut Document) -> Result<Node, YamlError> {
    let root = document.root.clone();
    let entries = document.entries(&root)?;
    let entries = entries.ok_or_else(|| yaml::error(root.line, "the file is not a mapping"))?;
    let found = entries.iter().find(|(key, _)| key.text("a key").is_ok_and(|k| k == "components"));
    let (_, components) =
        found.ok_or_else(|| yaml::error(root.line, "the file has no list `components`"))?;
    Ok(components.clone())
}

fn entry(
    document: &mut Document,
    node: &Node,
    ignored: &mut Vec<String>,
) -> Result<CatalogueEntry, YamlError> {
    let line = node.line;
    let written = document.entries(node)?.ok_or_else(|| {
        yaml::error(line, "a component must be a mapping with `name` and `attributes`")
    })?;
    let Fields { name, attributes, renamed_from, unknown } = fields(&written, line)?;
    let name = name.ok_or_else(|| yaml::error(line, "a component without a `name`"))?;
    // Later errors name this component.
    let about = |line: u64, reason: &str| {
        yaml::error(line, format!("{}: {reason}", shorten(&name, MAX_QUOTED_CHARS)))
    };
    let for_it = |error: YamlError| about(error.line, &error.reason);
    let attributes = match attributes {
        Some(node) => read_attributes(document, &node).map_err(for_it)?,
        None => Vec::new(),
    };
    check_text("the name of a component", &name).map_err(|reason| yaml::error(line, reason))?;
    check_attributes(&attributes).map_err(|reason| about(line, &reason))?;
    let renamed_from = match renamed_from {
        Some(node) => Some(
            former_fields(document, &node)
                .map_err(for_it)
                .and_then(|f| former(&name, &attributes, f).map_err(|r| about(line, &r)))?,
        ),
        None => None,
    };
    ignored.extend(unknown.iter().map(|(line, other)| {
        let (name, other) = (shorten(&name, MAX_QUOTED_CHARS), shorten(other, MAX_QUOTED_CHARS));
        format!("line {line}: `{other}` of {name} is unknown and ignored")
    }));
    Ok(CatalogueEntry { line, name, attributes, renamed_from })
}

/// The fields of a component's mapping, as they are written.
#[derive(Default)]
struct Fields<'a> {
    name: Option<String>,
    attributes: Option<Node>,
    renamed_from: Option<Node>,
    /// The unknown ones, with their lines, without those that begin with `x-`.
    unknown: Vec<(u64, &'a str)>,
}

/// # Errors
/// When an unknown field is probably a known one misspelt; `line` is that of the component.
fn fields(written: &[(Node, Node)], line: u64) -> Result<Fields<'_>, YamlError> {
    let mut fields = Fields::default();
    for (key, value) in written {
        match key.text("a key")? {
            NAME => fields.name = Some(value.text("the name of a component")?.to_owned()),
            ATTRIBUTES => fields.attributes = Some(value.clone()),
            RENAMED_FROM => fields.renamed_from = Some(value.clone()),
            other => fields.unknown.push((key.line, other)),
        }
    }
    for (at, other) in &fields.unknown {
        if let Some(meant) = meant(other) {
            let reason = format!("`{other}` in line {at} is unknown: write `{meant}`");
            return Err(yaml::error(line, reason));
        }
    }
    fields.unknown.retain(|(_, other)| !other.starts_with("x-"));
    Ok(fields)
}

/// The key that an unknown key probably means: ignoring it would have another effect.
fn meant(unknown: &str) -> Option<&'static str> {
    let letters: String =
        unknown.chars().filter(char::is_ascii_alphabetic).collect::<String>().to_ascii_lowercase();
    match letters.as_str() {
        "name" | "names" => Some(NAME),
        "attribute" | "attributes" | "atributes" | "attrs" | "attr" => Some(ATTRIBUTES),
        "renamedfrom" | "renamefrom" | "renamed" | "renamesfrom" => Some(RENAMED_FROM),
        _ => None,
    }
}

/// A mapping whose order is preserved: it is the order of the values in a component's label.
fn read_attributes(document: &mut Document, node: &Node) -> Result<Vec<Attribute>, YamlError> {
    if node.is_null() {
        return Ok(Vec::new());
    }
    let entries = document.entries(node)?.ok_or_else(|| {
        yaml::error(node.line, "`attributes` must be a mapping of names to values")
    })?;
    let attribute = |(name, value): &(Node, Node)| {
        let name = name.text("the name of an attribute")?;
        let of_value = format!("the value of {}", shorten(name, MAX_QUOTED_CHARS));
        Ok(Attribute { name: name.to_owned(), value: value.text(&of_value)?.to_owned() })
    };
    entries.iter().map(attribute).collect()
}

/// The value of `renamed-from`: a name, or the changed ones of name and attributes.
#[derive(Default)]
struct FormerFields {
    name: Option<String>,
    attributes: Option<Vec<Attribute>>,
}

fn former_fields(document: &mut Document, node: &Node) -> Result<FormerFields, YamlError> {
    const EXPECTED: &str = "is to be the name before, or `name` and `attributes` before";
    let Some(written) = document.entries(node)? else {
        if node.is_null() || node.list().is_some() {
            return Err(yaml::error(node.line, format!("renamed-from {EXPECTED}")));
        }
        let name = Some(node.text("renamed-from")?.to_owned());
        return Ok(FormerFields { name, attributes: None });
    };
    let mut fields = FormerFields::default();
    for (key, value) in &*written {
        match key.text("a key")? {
            NAME => fields.name = Some(value.text("renamed-from: the name")?.to_owned()),
            ATTRIBUTES => fields.attributes = Some(read_attributes(document, value)?),
            other => {
                let reason = format!("renamed-from {EXPECTED}, and has `{other}`");
                return Err(yaml::error(key.line, reason));
            }
        }
    }
    Ok(fields)
}

/// Anything omitted is unchanged.
fn former(
    name: &str,
    attributes: &[Attribute],
    fields: FormerFields,
) -> Result<FormerIdentity, String> {
    if fields.name.is_none() && fields.attributes.is_none() {
        return Err("renamed-from has neither a former name nor former attributes".to_owned());
    }
    let former = FormerIdentity {
        name: fields.name.unwrap_or_else(|| name.to_owned()),
        attributes: match fields.attributes {
            Some(attributes) => attributes,
            // Its category may have been renamed with it.
            None => attributes.iter().filter(|a| a.tells_apart()).cloned().collect(),
        },
    };
    check_text("the name of a component", &former.name)
        .and_then(|()| check_attributes(&former.attributes))
        .map_err(|problem| format!("renamed-from: {problem}"))?;
    Ok(former)
}

fn check_attributes(attributes: &[Attribute]) -> Result<(), String> {
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(format!(
            "it has {} attributes, and an update can name {MAX_ATTRIBUTES} at most",
            attributes.len()
        ));
    }
    for Attribute { name, value } in attributes {
        check_text("the name of an attribute", name)?;
        let of_value = format!("the value of {}", shorten(name, MAX_QUOTED_CHARS));
        check_text(&of_value, value)?;
        for (what, text) in [("the name of an attribute", name), (&of_value, value)] {
            if text.chars().count() > MAX_ATTRIBUTE_LENGTH {
                return Err(format!(
                    "{what}, `{}`, has more than {MAX_ATTRIBUTE_LENGTH} characters",
                    shorten(text, MAX_QUOTED_CHARS)
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
mod tests;
