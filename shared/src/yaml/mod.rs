//! Reads YAML files (catalogues, mappings of alerts) like the Python dashboard's parser (PyYAML, YAML 1.1),
//! with the line of each node.
//!
//! Aliases share their node, so that any number of them costs nothing. The file is trusted, but obvious
//! mistakes are refused: a duplicate key, a node that contains itself.

mod scalar;

use std::{borrow::Cow, collections::HashMap, rc::Rc};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use self::scalar::Scalar;

/// Maximum nesting depth: a catalogue has five levels.
const DEEPEST: usize = 100;

/// An error, with its line.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct YamlError {
    /// The file's line, from 1.
    pub line: u64,
    /// What is wrong there.
    pub reason: String,
}

/// An error in a line.
#[must_use]
pub fn error(line: u64, reason: impl Into<String>) -> YamlError {
    YamlError { line, reason: reason.into() }
}

/// A node and the line in which it is used: that of its alias, where there is one.
#[derive(Clone, Debug)]
pub struct Node {
    /// The file's line, from 1.
    pub line: u64,
    content: Rc<Content>,
}

#[derive(Debug)]
enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

/// The entries of a mapping, in the order of Python's dictionary.
pub type Entries = Vec<(Node, Node)>;

impl Node {
    /// The list's nodes, if it is one.
    pub fn list(&self) -> Option<&[Self]> {
        match &*self.content {
            Content::List(nodes) => Some(nodes),
            Content::Scalar(_) | Content::Mapping(_) => None,
        }
    }

    /// Whether it is nothing: `null`, `~`, or not written at all.
    pub fn is_null(&self) -> bool {
        matches!(&*self.content, Content::Scalar(Scalar::Null))
    }

    /// Whether nothing is in it: it is null, or a list or a mapping without entries.
    pub fn is_empty(&self) -> bool {
        match &*self.content {
            Content::Scalar(scalar) => *scalar == Scalar::Null,
            Content::List(nodes) => nodes.is_empty(),
            Content::Mapping(entries) => entries.is_empty(),
        }
    }

    /// The text. `what` says what it is to be, for the error message.
    ///
    /// # Errors
    /// When it is none, or when the Python dashboard would store it in another form.
    pub fn text(&self, what: &str) -> Result<&str, YamlError> {
        match &*self.content {
            Content::Scalar(scalar) => {
                scalar.text().map_err(|reason| error(self.line, format!("{what} {reason}")))
            }
            Content::List(_) | Content::Mapping(_) => Err(self.not_text(what)),
        }
    }

    /// The text as it is written, also where YAML reads a boolean, a number or a time. `what` says what it
    /// is to be, for the error message.
    ///
    /// # Errors
    /// When it is empty, a list or a mapping.
    pub fn written(&self, what: &str) -> Result<&str, YamlError> {
        match &*self.content {
            Content::Scalar(Scalar::Other { written, .. }) => Ok(written),
            Content::Scalar(_) => self.text(what),
            Content::List(_) | Content::Mapping(_) => Err(self.not_text(what)),
        }
    }

    fn not_text(&self, what: &str) -> YamlError {
        let kind = if self.list().is_some() { "a list" } else { "a mapping" };
        error(self.line, format!("{what} is {kind}, not a text"))
    }
}

/// Reads a file.
///
/// # Errors
/// When it is not YAML, or has more than one document.
pub fn read(yaml: &str) -> Result<Document, YamlError> {
    let mut builder = Builder::default();
    let mut root = None;
    for event in Parser::new_from_str(yaml) {
        let (event, span) = event.map_err(|problem| {
            let line = problem.marker().line() as u64;
            error(line, format!("this is not YAML: {}", problem.kind()))
        })?;
        let line = line(&span);
        if let Event::DocumentStart(..) = event
            && root.is_some()
        {
            return Err(error(line, "a second document begins here, and a file has one"));
        }
        if let Some(node) = builder.take(event, line)? {
            root = Some(node);
        }
    }
    let nothing = || Node { line: 1, content: Rc::new(Content::Scalar(Scalar::Null)) };
    Ok(Document { root: root.unwrap_or_else(nothing), merged: HashMap::new() })
}

fn line(span: &Span) -> u64 {
    span.start.line() as u64
}

/// Builds nodes without recursion, because a file may be nested to any depth.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Content>>,
}

/// A list or a mapping of which the end is to come.
struct Open {
    line: u64,
    anchor: usize,
    is_mapping: bool,
    nodes: Vec<Node>,
}

impl Builder {
    /// Takes an event; returns the root when it is whole.
    fn take(&mut self, event: Event<'_>, line: u64) -> Result<Option<Node>, YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = scalar(text, style, tag.as_deref())
                    .map_err(|foreign| foreign_tag(line, &foreign))?;
                Ok(self.finish(line, anchor, Content::Scalar(scalar)))
            }
            Event::Alias(anchor) => {
                let content = self.anchors.get(&anchor).cloned();
                let content = content.ok_or_else(|| {
                    error(line, "this alias is inside of what it names, which never ends")
                })?;
                Ok(self.place(Node { line, content }))
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(line, anchor, false, tag.as_deref())?;
                Ok(None)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(line, anchor, true, tag.as_deref())?;
                Ok(None)
            }
            Event::SequenceEnd | Event::MappingEnd => Ok(self.close()),
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..)
            | Event::UnresolvedAlias(_)
            | _ => Ok(None),
        }
    }

    fn open(
        &mut self,
        line: u64,
        anchor: usize,
        is_mapping: bool,
        tag: Option<&Tag>,
    ) -> Result<(), YamlError> {
        let expected = if is_mapping { "map" } else { "seq" };
        if let Some(tag) = tag.map(name).filter(|tag| tag != expected && tag != "!") {
            return Err(foreign_tag(line, &tag));
        }
        if self.open.len() == DEEPEST {
            return Err(error(line, "this is nested too deeply"));
        }
        self.open.push(Open { line, anchor, is_mapping, nodes: Vec::new() });
        Ok(())
    }

    /// Ends the innermost list or mapping.
    fn close(&mut self) -> Option<Node> {
        let Open { line, anchor, is_mapping, nodes } = self.open.pop()?;
        let content = if is_mapping {
            let mut nodes = nodes.into_iter();
            let pairs = std::iter::from_fn(|| Some((nodes.next()?, nodes.next()?)));
            Content::Mapping(pairs.collect())
        } else {
            Content::List(nodes)
        };
        self.finish(line, anchor, content)
    }

    fn finish(&mut self, line: u64, anchor: usize, content: Content) -> Option<Node> {
        let content = Rc::new(content);
        if anchor != 0 {
            self.anchors.insert(anchor, content.clone());
        }
        self.place(Node { line, content })
    }

    /// Returns the node if it is the root.
    fn place(&mut self, node: Node) -> Option<Node> {
        match self.open.last_mut() {
            Some(parent) => {
                parent.nodes.push(node);
                None
            }
            None => Some(node),
        }
    }
}

/// The value of a scalar.
///
/// # Errors
/// The name of its tag, if that is none of YAML's own.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Scalar, String> {
    match tag.map(name).as_deref() {
        None => Ok(scalar::resolve(&text, style == ScalarStyle::Plain)),
        Some("str" | "!") => Ok(Scalar::Text(text.into_owned())),
        Some("bool" | "float" | "int" | "null" | "timestamp") => Ok(scalar::resolve(&text, true)),
        Some(other) => Err(other.to_owned()),
    }
}

fn name(tag: &Tag) -> String {
    match tag.suffix_in_namespace("tag:yaml.org,2002:") {
        Some(name) => name.into_owned(),
        None => tag.original(),
    }
}

fn foreign_tag(line: u64, tag: &str) -> YamlError {
    error(line, format!("the tag {tag} can't be used here"))
}

/// A file that was read.
pub struct Document {
    /// The file's outermost node.
    pub root: Node,
    /// The entries of each mapping that was merged into another one.
    merged: HashMap<*const Content, Rc<Entries>>,
}

impl Document {
    /// The entries of a mapping as Python's dictionary has them. What is merged with `<<` comes first,
    /// wherever that is written; of several mappings in one `<<` the first wins, and comes last. An
    /// entry of the mapping's own that is merged, too, wins in the place of the merged one.
    ///
    /// None when it is no mapping.
    ///
    /// # Errors
    /// When a key is no text or is written twice, or when `<<` merges something else than mappings.
    pub fn entries(&mut self, node: &Node) -> Result<Option<Rc<Entries>>, YamlError> {
        let Content::Mapping(written) = &*node.content else { return Ok(None) };
        if let Some(merged) = self.merged.get(&Rc::as_ptr(&node.content)) {
            return Ok(Some(merged.clone()));
        }
        let mut entries = Python::default();
        let mut own = Python::default();
        for (key, value) in written {
            if !matches!(&*key.content, Content::Scalar(Scalar::Merge)) {
                let text = key.text("a key")?;
                if let Some(first) = own.put(text, key, value) {
                    let reason = format!("`{text}` is written twice, here and in line {first}");
                    return Err(error(key.line, reason));
                }
                continue;
            }
            let several = value.list();
            for merged in several.unwrap_or(std::slice::from_ref(value)).iter().rev() {
                let Some(merged) = self.entries(merged)? else {
                    let reason =
                        "`<<` merges a mapping, or a list of mappings, and this is neither";
                    return Err(error(merged.line, reason));
                };
                for (key, value) in &*merged {
                    entries.put(key.text("a key")?, key, value);
                }
            }
        }
        for (key, value) in &own.entries {
            entries.put(key.text("a key")?, key, value);
        }
        let entries = Rc::new(entries.entries);
        // The document keeps the node, so that no other one gets its address.
        self.merged.insert(Rc::as_ptr(&node.content), entries.clone());
        Ok(Some(entries))
    }
}

/// A dictionary like Python's: a repeated key replaces the value and keeps its position.
#[derive(Default)]
struct Python {
    entries: Entries,
    places: HashMap<String, usize>,
}

impl Python {
    /// Returns the line in which the key was before, if it was there.
    fn put(&mut self, text: &str, key: &Node, value: &Node) -> Option<u64> {
        if let Some(entry) = self.places.get(text).and_then(|place| self.entries.get_mut(*place)) {
            entry.1 = value.clone();
            return Some(entry.0.line);
        }
        self.places.insert(text.to_owned(), self.entries.len());
        self.entries.push((key.clone(), value.clone()));
        None
    }
}
