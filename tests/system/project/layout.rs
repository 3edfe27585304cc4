//! The layout of the code: imports point one way, pure code stays pure, and each folder says what it is for.
//! docs/architecture.md has the folders.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use syn::visit::Visit;

use super::{
    documents::rust_files,
    imports::{Graph, Paths, circle, graph, parse, room, sources},
};
use harness::{Fixture, tests};

tests!(
    files_import_each_other_in_one_direction,
    folders_import_each_other_in_one_direction,
    no_folder_uses_what_it_must_not_know,
    every_folder_says_what_it_is_for,
    a_circle_that_is_planted_is_found,
    a_circle_through_a_re_export_is_found,
    a_use_that_is_planted_is_found,
    a_folder_without_a_sign_is_found,
);

pub(super) const CRATES: [&str; 4] = ["gateway", "worker", "shared", "deploy"];
/// The tests of the whole system, what they share, and the larger programs of the tests.
pub(super) const TESTS: [&str; 4] =
    ["tests/system", "tests/harness", "tests/chaos", "tests/benchmark"];
/// Code that decides or reads and writes the database, and what it must not know.
const UNKNOWN_TO: [(&str, &[&str]); 6] = [
    ("worker/src/domain", &["sqlx", "lapin", "tokio", "axum", "store", "broker"]),
    ("worker/src/batch/plan.rs", &["sqlx", "lapin", "tokio", "axum", "broker"]),
    ("gateway/src/alertmanager", &["sqlx", "lapin", "tokio", "axum", "store", "ingest"]),
    // Ids and times are columns, too: `sqlx` gives them their type.
    ("shared/src/domain", &["lapin", "tokio", "axum", "database", "amqp"]),
    ("gateway/src/store", &["lapin", "axum", "utoipa", "http", "view", "ingest"]),
    ("worker/src/store", &["lapin", "axum", "http", "broker"]),
];

async fn files_import_each_other_in_one_direction(_: Arc<Fixture>) -> Result<()> {
    let mut modules = 0;
    for name in CRATES {
        let graph = graph(&sources(name)?);
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
        for (module, used) in graph(&sources(name)?) {
            let used = used.iter().map(|used| room(used)).filter(|used| *used != room(&module));
            rooms.entry(room(&module).to_owned()).or_default().extend(used.map(str::to_owned));
        }
        let circle = circle(&rooms);
        ensure!(circle.is_none(), "{name}: {}", circle.unwrap_or_default().join(" → "));
    }
    Ok(())
}

async fn no_folder_uses_what_it_must_not_know(_: Arc<Fixture>) -> Result<()> {
    for (path, unknown) in UNKNOWN_TO {
        let mut files = Vec::new();
        let path = deploy::checkout().join(path);
        if path.is_dir() {
            rust_files(&path, &mut files)?;
        } else {
            files.push(path.clone());
        }
        ensure!(!files.is_empty(), "there is nothing at {}", path.display());
        for file in files.iter().filter(|file| !file.display().to_string().contains("/tests/")) {
            let used = used_of(&parse(file)?, unknown);
            ensure!(used.is_none(), "{} uses {}", file.display(), used.unwrap_or_default());
        }
    }
    Ok(())
}

/// The first path of a file that has one of these words.
fn used_of(file: &syn::File, words: &[&str]) -> Option<String> {
    let mut paths = Paths::default();
    paths.visit_file(file);
    // `batch/plan.rs` may take values that `store` has read.
    let used = paths.found.iter().find(|path| path.iter().any(|part| words.contains(&&**part)))?;
    Some(used.join("::"))
}

async fn a_use_that_is_planted_is_found(_: Arc<Fixture>) -> Result<()> {
    let used = |text: &str| -> Result<Option<String>> {
        Ok(used_of(&syn::parse_file(text)?, &["axum", "http"]))
    };
    for (text, path) in [
        ("use axum::Json;", "axum::Json"),
        ("use crate::{store::pools::Pool, http::error::ApiError};", "crate::http::error::ApiError"),
        ("fn f() -> super::http::Answer { todo!() }", "super::http::Answer"),
    ] {
        ensure!(used(text)?.as_deref() == Some(path), "{text}: {:?}", used(text)?);
    }
    ensure!(used("use crate::store::{http_rows, axums};")?.is_none(), "whole words count");
    Ok(())
}

/// The folders of the programs' code and of the tests'.
pub(super) fn roots() -> impl Iterator<Item = PathBuf> {
    let sources = CRATES.map(|name| format!("{name}/src"));
    let tests = TESTS.map(str::to_owned);
    sources.into_iter().chain(tests).map(|root| deploy::checkout().join(root))
}

async fn every_folder_says_what_it_is_for(_: Arc<Fixture>) -> Result<()> {
    let mut checked = 0;
    for root in roots() {
        let (folders, unsigned) = unsigned(&root)?;
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

async fn a_folder_without_a_sign_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let root = fixture.folder.join("planted");
    let plant = |path: &str, text: &str| -> Result<()> {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        Ok(fs::write(&path, text)?)
    };
    plant("main.rs", "//! All.\n")?;
    plant("beside.rs", "//! It stands beside its folder.\n")?;
    plant("beside/one.rs", "")?;
    ensure!(unsigned(&root)? == (2, vec![]), "{:?}", unsigned(&root)?);
    plant("silent/mod.rs", "mod one;\n")?;
    plant("without/one.rs", "//! It is no door.\n")?;
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
    let circle = circle(&graph(&planted)).context("no circle was found")?;
    ensure!(circle.len() == 4, "{circle:?}");
    let straight: BTreeMap<String, syn::File> =
        planted.into_iter().filter(|(module, _)| module != "three").collect();
    ensure!(self::circle(&graph(&straight)).is_none(), "what only tests import counts");
    Ok(())
}

async fn a_circle_through_a_re_export_is_found(_: Arc<Fixture>) -> Result<()> {
    let circle = |import: &str| -> Result<Option<Vec<String>>> {
        let planted: BTreeMap<String, syn::File> = [
            ("", "mod one; mod two; pub use self::one::{deep::{self as below, Thing}, deep};"),
            ("one", "pub mod deep;"),
            ("one::deep", "use crate::two::Other; pub struct Thing;"),
            ("two", import),
        ]
        .into_iter()
        .map(|(module, text)| Ok((module.to_owned(), syn::parse_file(text)?)))
        .collect::<Result<_>>()?;
        Ok(circle(&graph(&planted)))
    };
    for import in ["use crate::Thing;", "use crate::below::Thing;", "fn f() { super::deep::g() }"] {
        let circle = circle(import)?.with_context(|| import.to_owned())?;
        ensure!(circle.len() == 3, "{import}: {circle:?}");
    }
    ensure!(circle("use crate::other::Thing;")?.is_none(), "nothing leads back");
    Ok(())
}
