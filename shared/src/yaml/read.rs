//! Builds the nodes of a file from the parser's events.

use std::{borrow::Cow, collections::HashMap, rc::Rc};

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{
    document::Document,
    node::{Content, Node, YamlError, error},
    scalar::{self, Scalar},
};

/// Maximum nesting depth: a catalogue has five levels.
const MAX_DEPTH: usize = 100;

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
    Ok(Document::new(root.unwrap_or_else(nothing)))
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
        if self.open.len() == MAX_DEPTH {
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
