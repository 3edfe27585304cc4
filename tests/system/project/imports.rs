//! Which module of a crate imports which, as its source says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use syn::{
    Attribute, Item, UseTree,
    visit::{self, Visit},
};

use super::documents::rust_files;

/// Which module uses which, by their paths in the crate; the root is empty.
pub(super) type Graph = BTreeMap<String, BTreeSet<String>>;

/// The folder or file below the crate's root that a module is in.
pub(super) fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// The modules of a crate, by their paths, but for those of tests.
pub(super) fn sources(name: &str) -> Result<BTreeMap<String, syn::File>> {
    let root = deploy::checkout().join(name).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files)?;
    let mut sources = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(&root)?.with_extension("");
        let mut parts: Vec<&str> =
            path.iter().map(|part| part.to_str().context("a name")).collect::<Result<_>>()?;
        if parts.contains(&"tests") || parts == ["main"] {
            continue;
        }
        if parts == ["lib"] || parts.last() == Some(&"mod") {
            parts.pop();
        }
        sources.insert(parts.join("::"), parse(&file)?);
    }
    Ok(sources)
}

pub(super) fn parse(file: &Path) -> Result<syn::File> {
    let text = fs::read_to_string(file)?;
    syn::parse_file(&text).with_context(|| file.display().to_string())
}

/// Which modules use which. A folder's door belongs to its folder, so that what is between a module and one
/// below it does not count; nor does what tests use.
pub(super) fn graph(sources: &BTreeMap<String, syn::File>) -> Graph {
    let imports = sources.iter().map(|(module, file)| (module.as_str(), imports(file))).collect();
    let mut graph = Graph::new();
    for (module, file) in sources {
        let mut paths = Paths::default();
        paths.visit_file(file);
        let used = graph.entry(module.clone()).or_default();
        for path in paths.found {
            let Some(target) = target(&imports, module, &path) else { continue };
            let is_within = |outer: &str, inner: &str| {
                outer.is_empty() || inner == outer || inner.starts_with(&format!("{outer}::"))
            };
            if !is_within(&target, module) && !is_within(module, &target) {
                used.insert(target);
            }
        }
    }
    graph
}

/// What each module imports: names, and the paths that they stand for.
type Imports<'a> = BTreeMap<&'a str, BTreeMap<String, Vec<String>>>;

fn imports(file: &syn::File) -> BTreeMap<String, Vec<String>> {
    fn of_tree(tree: &UseTree, path: &mut Vec<String>, found: &mut BTreeMap<String, Vec<String>>) {
        let mut found_as = |name: String, ident: &syn::Ident| {
            let last = (ident != "self").then(|| ident.to_string());
            found.insert(name, path.iter().cloned().chain(last).collect());
        };
        match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                of_tree(&tree.tree, path, found);
                path.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                found_as(path.last().cloned().unwrap_or_default(), &name.ident);
            }
            UseTree::Name(name) => found_as(name.ident.to_string(), &name.ident),
            UseTree::Rename(name) => found_as(name.rename.to_string(), &name.ident),
            // Nothing is re-exported as a whole.
            UseTree::Glob(_) => {}
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| of_tree(tree, path, found));
            }
        }
    }
    let mut found = BTreeMap::new();
    for item in &file.items {
        if let Item::Use(item) = item {
            of_tree(&item.tree, &mut Vec::new(), &mut found);
        }
    }
    found
}

/// The module that a path leads to, also where modules on its way only re-export what it names.
fn target(imports: &Imports<'_>, module: &str, path: &[String]) -> Option<String> {
    let mut at: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.iter().map(String::as_str).peekable();
    match parts.next()? {
        "crate" => at.clear(),
        "self" => {}
        "super" => {
            at.pop();
            while parts.next_if_eq(&"super").is_some() {
                at.pop();
            }
        }
        _ => return None,
    }
    while let Some(part) = parts.next() {
        let outer = at.join("::");
        at.push(part);
        if imports.contains_key(at.join("::").as_str()) {
            continue;
        }
        let imported = imports.get(outer.as_str()).and_then(|names| names.get(part));
        let Some(imported) = imported else { return Some(outer) };
        let path: Vec<String> = imported.iter().cloned().chain(parts.map(str::to_owned)).collect();
        return Some(target(imports, &outer, &path).unwrap_or(outer));
    }
    Some(at.join("::"))
}

/// A way that leads back to where it began.
pub(super) fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn search(
        graph: &Graph,
        at: &str,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(begin) = way.iter().position(|module| module == at) {
            let mut circle = way.split_off(begin);
            circle.push(at.to_owned());
            return Some(circle);
        }
        if done.contains(at) {
            return None;
        }
        way.push(at.to_owned());
        for next in graph.get(at).into_iter().flatten() {
            if let Some(circle) = search(graph, next, way, done) {
                return Some(circle);
            }
        }
        way.pop();
        done.insert(at.to_owned());
        None
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|module| search(graph, module, &mut Vec::new(), &mut done))
}

/// All paths of a file, but for those of tests.
#[derive(Default)]
pub(super) struct Paths {
    pub(super) found: Vec<Vec<String>>,
}

impl Paths {
    fn of_tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |part: String| {
            let mut path = before.to_vec();
            path.push(part);
            path
        };
        match tree {
            UseTree::Path(path) => self.of_tree(&path.tree, &with(path.ident.to_string())),
            UseTree::Name(name) => self.found.push(with(name.ident.to_string())),
            UseTree::Rename(name) => self.found.push(with(name.ident.to_string())),
            UseTree::Glob(_) => self.found.push(before.to_vec()),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.of_tree(tree, before));
            }
        }
    }
}

impl<'a> Visit<'a> for Paths {
    fn visit_item(&mut self, item: &'a Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.of_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.found.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

pub(super) fn attributes(item: &Item) -> &[Attribute] {
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other item is ever only for tests")]
    match item {
        Item::Fn(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        _ => &[],
    }
}

pub(super) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}
