//! Files and functions are short enough to be read alone.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, ensure};

use super::{
    documents::rust_files,
    layout::{CRATES, roots},
};
use harness::{Fixture, tests};

tests!(
    no_file_is_long,
    no_function_of_the_programs_is_long,
    a_long_file_is_found,
    a_long_function_is_found,
);

/// The most lines that a file may have.
const FILE: usize = 400;
/// The most lines that a function of the programs may have, from its name to its closing brace.
const FUNCTION: usize = 50;

async fn no_file_is_long(_: Arc<Fixture>) -> Result<()> {
    let mut checked = 0;
    for root in roots() {
        let (files, long) = long_files(&root)?;
        ensure!(long.is_empty(), "files of more than {FILE} lines: {long:?}");
        checked += files;
    }
    ensure!(checked > 300, "only {checked} files were found: the check looks at nothing");
    Ok(())
}

/// How many files there are, and those of them that are too long.
fn long_files(root: &Path) -> Result<(usize, Vec<PathBuf>)> {
    let mut files = Vec::new();
    rust_files(root, &mut files)?;
    let mut long = Vec::new();
    for file in &files {
        if fs::read_to_string(file)?.lines().count() > FILE {
            long.push(file.clone());
        }
    }
    Ok((files.len(), long))
}

async fn no_function_of_the_programs_is_long(_: Arc<Fixture>) -> Result<()> {
    let mut checked = 0;
    for name in CRATES {
        let mut files = Vec::new();
        rust_files(&deploy::checkout().join(name).join("src"), &mut files)?;
        for file in files.iter().filter(|file| !file.display().to_string().contains("/tests")) {
            let functions = functions(&fs::read_to_string(file)?);
            let long = functions.iter().find(|(_, lines)| *lines > FUNCTION);
            ensure!(long.is_none(), "{}: {long:?}", file.display());
            checked += functions.len();
        }
    }
    ensure!(checked > 1000, "only {checked} functions were found: the check looks at nothing");
    Ok(())
}

/// The functions of a file as rustfmt writes them, with their numbers of lines.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut functions = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(name) = function(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        // A body ends with a brace, and a signature without one with a semicolon, both as far in.
        let is_end = |line: &str| match line.split_at_checked(indent) {
            Some((before, end)) if before.trim().is_empty() => {
                end == "}" || (end.starts_with(')') && end.ends_with(';'))
            }
            Some(_) | None => false,
        };
        let after = match line.ends_with(['}', ';']) {
            true => 0,
            false => lines.iter().skip(start).take_while(|line| !is_end(line)).count(),
        };
        functions.push((name.to_owned(), after + 1));
    }
    functions
}

/// The name of the function that begins in a line.
fn function(line: &str) -> Option<&str> {
    let is_before = |word: &&str| {
        word.starts_with("pub") || ["const", "async", "unsafe", "extern"].contains(word)
    };
    let mut words = line.split_whitespace().skip_while(is_before);
    if words.next()? != "fn" {
        return None;
    }
    words.next()?.split(['(', '<']).next()
}

async fn a_long_file_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let root = fixture.folder.join("planted");
    fs::create_dir_all(root.join("folder"))?;
    fs::write(root.join("main.rs"), "\n".repeat(FILE))?;
    ensure!(long_files(&root)? == (1, vec![]), "{:?}", long_files(&root)?);
    let too_long = root.join("folder/one.rs");
    fs::write(&too_long, "\n".repeat(FILE + 1))?;
    ensure!(long_files(&root)? == (2, vec![too_long]), "{:?}", long_files(&root)?);
    Ok(())
}

async fn a_long_function_is_found(_: Arc<Fixture>) -> Result<()> {
    let body = |lines: usize| "        a();\n".repeat(lines);
    let planted = format!(
        "trait Short {{\n    fn one(&self);\n    fn two(\n        &self,\n    ) -> u8;\n}}\n\
        impl A {{\n    pub(crate) async fn long(&self) {{\n{}    }}\n\n    const fn empty() {{}}\n\n    \
        fn generic<T>(\n        a: T,\n    ) -> T {{\n{}    }}\n}}\n",
        body(FUNCTION - 1),
        body(3),
    );
    let found = functions(&planted);
    let expected = [("one", 1), ("two", 3), ("long", FUNCTION + 1), ("empty", 1), ("generic", 7)];
    let expected: Vec<_> = expected.map(|(name, lines)| (name.to_owned(), lines)).into();
    ensure!(found == expected, "{found:?}");
    Ok(())
}
