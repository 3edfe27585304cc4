//! The layout of the code: imports point one way, pure code stays pure, and each folder says what it is for.
//! ARCHITECTURE.md has the rooms.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use syn::{
    Attribute, Item, UseTree,
    visit::{self, Visit},
};

use super::documents::rust_files;
use harness::{Fixture, tests};

tests!(
    files_import_each_other_in_one_direction,
    folders_import_each_other_in_one_direction,
    pure_code_does_no_io,
    every_folder_says_what_it_is_for,
    no_file_of_the_tests_is_long,
    a_circle_that_is_planted_is_found,
    a_long_file_and_a_folder_without_a_sign_are_found,
);

const CRATES: [&str; 4] = ["gateway", "worker", "shared", "deploy"];
/// The tests of the whole system, what they share, and the larger programs of the tests.
const TESTS: [&str; 4] = ["tests/system", "tests/harness", "tests/chaos", "tests/benchmark"];
/// The most lines that one of their files may have.
const LINES: usize = 400;
/// Code that decides, and what it must not know.
const PURE: [(&str, &[&str]); 4] = [
    ("worker/src/domain", &["sqlx", "lapin", "tokio", "axum", "store", "broker"]),
    ("worker/src/batch/plan.rs", &["sqlx", "lapin", "tokio", "axum", "broker"]),
    ("gateway/src/alertmanager", &["sqlx", "lapin", "tokio", "axum", "store", "ingest"]),
    // Ids and times are columns, too: `sqlx` gives them their type.
    ("shared/src/domain", &["lapin", "tokio", "axum", "database", "amqp"]),
];

/// Which module uses which, by their paths in the crate; the root is empty.
type Graph = BTreeMap<String, BTreeSet<String>>;

async fn files_import_each_other_in_one_direction(_: Arc<Fixture>) -> Result<()> {
    let mut modules = 0;
    for name in CRATES {
        let graph = graph(&sources(name)?)?;
        modules += graph.len();
        let circle = circle(&graph);
        ensure!(circle.is_none(), "{name}: {}", circle.unwrap_or_default().join(" → "));
    }
    ensure!(modules > 100, "only {modules} modules were found: the check looks at nothing");
    Ok(())
}

async fn folders_import_each_other_in_one_direction(_: Arc<Fixture>) -> Result<()> {
    for name in CRATES {
        let mut rooms = Graph::new();
        for (module, used) in graph(&sources(name)?)? {
            let used = used.iter().map(|used| room(used)).filter(|used| *used != room(&module));
            rooms.entry(room(&module).to_owned()).or_default().extend(used.map(str::to_owned));
        }
        let circle = circle(&rooms);
        ensure!(circle.is_none(), "{name}: {}", circle.unwrap_or_default().join(" → "));
    }
    Ok(())
}

/// The folder or file below the crate's root that a module is in.
pub(super) fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

async fn pure_code_does_no_io(_: Arc<Fixture>) -> Result<()> {
    for (path, forbidden) in PURE {
        let mut files = Vec::new();
        let path = deploy::checkout().join(path);
        if path.is_dir() {
            rust_files(&path, &mut files)?;
        } else {
            files.push(path.clone());
        }
        ensure!(!files.is_empty(), "there is nothing at {}", path.display());
        for file in files.iter().filter(|file| !file.display().to_string().contains("/tests/")) {
            let mut paths = Paths::default();
            paths.visit_file(&parse(file)?);
            for path in paths.found {
                // `batch/plan.rs` may take values that `store` has read.
                let found = path.iter().find(|part| forbidden.contains(&part.as_str()));
                ensure!(found.is_none(), "{} uses {}", file.display(), path.join("::"));
            }
        }
    }
    Ok(())
}

async fn every_folder_says_what_it_is_for(_: Arc<Fixture>) -> Result<()> {
    let mut checked = 0;
    let sources = CRATES.map(|name| format!("{name}/src"));
    for root in sources.iter().map(String::as_str).chain(TESTS) {
        let (folders, unsigned) = unsigned(&deploy::checkout().join(root))?;
        ensure!(unsigned.is_empty(), "folders without a line on what they are for: {unsigned:?}");
        checked += folders;
    }
    ensure!(checked > 40, "only {checked} folders were found: the check looks at nothing");
    Ok(())
}

/// How many folders there are, and those of them that do not say what they are for.
fn unsigned(root: &Path) -> Result<(usize, Vec<PathBuf>)> {
    let mut files = Vec::new();
    rust_files(root, &mut files)?;
    let folders: BTreeSet<&Path> = files.iter().filter_map(|file| file.parent()).collect();
    let mut unsigned = Vec::new();
    for folder in &folders {
        // The module of a folder stands in it, or beside it under its name.
        let doors = ["mod.rs", "lib.rs", "main.rs"].map(|name| folder.join(name));
        let door =
            doors.into_iter().chain([folder.with_extension("rs")]).find(|door| door.exists());
        let is_signed = match &door {
            Some(door) if door.ends_with("tests.rs") => true,
            Some(door) => fs::read_to_string(door)?.starts_with("//! "),
            None => false,
        };
        if !is_signed {
            unsigned.push(folder.to_path_buf());
        }
    }
    Ok((folders.len(), unsigned))
}

async fn no_file_of_the_tests_is_long(_: Arc<Fixture>) -> Result<()> {
    let mut checked = 0;
    for root in TESTS {
        let (files, long) = long(&deploy::checkout().join(root))?;
        ensure!(long.is_empty(), "files of more than {LINES} lines: {long:?}");
        checked += files;
    }
    ensure!(checked > 100, "only {checked} files were found: the check looks at nothing");
    Ok(())
}

/// How many files there are, and those of them that are too long.
fn long(root: &Path) -> Result<(usize, Vec<PathBuf>)> {
    let mut files = Vec::new();
    rust_files(root, &mut files)?;
    let mut long = Vec::new();
    for file in &files {
        if fs::read_to_string(file)?.lines().count() > LINES {
            long.push(file.clone());
        }
    }
    Ok((files.len(), long))
}

async fn a_long_file_and_a_folder_without_a_sign_are_found(fixture: Arc<Fixture>) -> Result<()> {
    let root = fixture.folder.join("planted");
    let plant = |path: &str, text: &str| -> Result<PathBuf> {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(&path, text)?;
        Ok(path)
    };
    plant("main.rs", &format!("//! All.\n{}", "\n".repeat(LINES - 1)))?;
    plant("beside.rs", "//! It stands beside its folder.\n")?;
    plant("beside/one.rs", "")?;
    ensure!(long(&root)? == (3, vec![]) && unsigned(&root)? == (2, vec![]));
    let too_long = plant("beside/two.rs", &"\n".repeat(LINES + 1))?;
    plant("silent/mod.rs", "mod one;\n")?;
    plant("without/one.rs", "//! It is no door.\n")?;
    ensure!(long(&root)? == (6, vec![too_long]), "{:?}", long(&root)?);
    let expected = (4, vec![root.join("silent"), root.join("without")]);
    ensure!(unsigned(&root)? == expected, "{:?}", unsigned(&root)?);
    Ok(())
}

async fn a_circle_that_is_planted_is_found(_: Arc<Fixture>) -> Result<()> {
    let source = |text: &str| syn::parse_file(text);
    let planted: BTreeMap<String, syn::File> = [
        ("", source("mod one; mod two; mod three;")?),
        ("one", source("use crate::two::{Something, Other as Another};")?),
        (
            "two",
            source("fn f() { super::three::g(); } #[cfg(test)] mod tests { use crate::one; }")?,
        ),
        ("three", source("pub fn g() -> crate::one::Back { todo!() }")?),
    ]
    .map(|(module, file)| (module.to_owned(), file))
    .into();
    let circle = circle(&graph(&planted)?).context("no circle was found")?;
    ensure!(circle.len() == 4, "{circle:?}");
    let straight: BTreeMap<String, syn::File> =
        planted.into_iter().filter(|(module, _)| module != "three").collect();
    ensure!(self::circle(&graph(&straight)?).is_none(), "what only tests import counts");
    Ok(())
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

fn parse(file: &Path) -> Result<syn::File> {
    let text = fs::read_to_string(file)?;
    syn::parse_file(&text).with_context(|| file.display().to_string())
}

/// Which modules use which. A folder's door belongs to its folder, so that what is between a module and one
/// below it does not count; nor does what tests use.
fn graph(sources: &BTreeMap<String, syn::File>) -> Result<Graph> {
    let mut graph = Graph::new();
    for (module, file) in sources {
        let mut paths = Paths::default();
        paths.visit_file(file);
        let used = graph.entry(module.clone()).or_default();
        for path in paths.found {
            let Some(target) = target(sources, module, &path) else { continue };
            let is_within = |outer: &str, inner: &str| {
                outer.is_empty() || inner == outer || inner.starts_with(&format!("{outer}::"))
            };
            if !is_within(&target, module) && !is_within(module, &target) {
                used.insert(target);
            }
        }
    }
    Ok(graph)
}

/// The module that a path leads to.
fn target(sources: &BTreeMap<String, syn::File>, module: &str, path: &[String]) -> Option<String> {
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
    for part in parts {
        at.push(part);
        if !sources.contains_key(&at.join("::")) {
            at.pop();
            break;
        }
    }
    Some(at.join("::"))
}

/// A way that leads back to where it began.
fn circle(graph: &Graph) -> Option<Vec<String>> {
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
