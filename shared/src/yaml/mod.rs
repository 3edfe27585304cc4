//! Reads YAML files (catalogues, mappings of alerts) like the Python dashboard's parser (PyYAML, YAML 1.1),
//! with the line of each node.
//!
//! Aliases share their node, so that any number of them costs nothing. The file is trusted, but obvious
//! mistakes are refused: a duplicate key, a node that contains itself.

mod document;
mod node;
mod read;
mod scalar;

pub use self::{
    document::{Document, Entries},
    node::{Node, YamlError, error},
    read::read,
};
