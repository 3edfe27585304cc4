//! A file that was read, and its mappings as Python's dictionaries.

use std::{collections::HashMap, rc::Rc};

use indexmap::IndexMap;

use super::{
    node::{Content, Node, YamlError, error},
    scalar::Scalar,
};

/// The entries of a mapping, in the order of Python's dictionary.
pub type Entries = Vec<(Node, Node)>;

/// A file that was read.
pub struct Document {
    /// The file's outermost node.
    pub root: Node,
    /// The entries of each mapping that was merged into another one.
    merged: HashMap<*const Content, Rc<Entries>>,
}

impl Document {
    pub(super) fn new(root: Node) -> Self {
        Self { root, merged: HashMap::new() }
    }

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
        let mut entries = Dictionary::default();
        let mut own = Dictionary::default();
        for (key, value) in written {
            if !matches!(&*key.content, Content::Scalar(Scalar::Merge)) {
                let text = key.text("a key")?;
                if let Some(first) = put(&mut own, text, key, value) {
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
                    put(&mut entries, key.text("a key")?, key, value);
                }
            }
        }
        for (key, value) in own.values() {
            put(&mut entries, key.text("a key")?, key, value);
        }
        let entries = Rc::new(entries.into_values().collect::<Entries>());
        // The document keeps the node, so that no other one gets its address.
        self.merged.insert(Rc::as_ptr(&node.content), entries.clone());
        Ok(Some(entries))
    }
}

/// A dictionary like Python's: a repeated key replaces the value and keeps its position.
type Dictionary = IndexMap<String, (Node, Node)>;

/// Returns the line in which the key was before, if it was there.
fn put(dictionary: &mut Dictionary, text: &str, key: &Node, value: &Node) -> Option<u64> {
    if let Some(entry) = dictionary.get_mut(text) {
        entry.1 = value.clone();
        return Some(entry.0.line);
    }
    dictionary.insert(text.to_owned(), (key.clone(), value.clone()));
    None
}
