//! SQL stands in the store of each program, and nowhere else.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Result, ensure};
use syn::{
    Attribute, Expr, Item, Token,
    punctuated::Punctuated,
    visit::{self, Visit},
};

use super::imports::{Paths, attributes, is_test, room, sources};
use harness::{Fixture, tests};

tests!(sql_stands_in_the_store, sql_that_is_planted_is_found);

/// Where the SQL of a program stands: in its store, and for its DDL in the worker's schema.
const WITH_SQL: [(&str, &[&str]); 2] = [("gateway", &["store"]), ("worker", &["store", "schema"])];

async fn sql_stands_in_the_store(_: Arc<Fixture>) -> Result<()> {
    for (name, rooms) in WITH_SQL {
        let sources = sources(name)?;
        let outside = sql_outside(&sources, rooms);
        ensure!(outside.is_empty(), "{name} has SQL outside of {rooms:?}: {outside:?}");
        for within in rooms {
            let others: Vec<&str> = rooms.iter().copied().filter(|room| room != within).collect();
            let found = sql_outside(&sources, &others).len();
            ensure!(found > 5, "only {found} are found in {within}: the check looks at nothing");
        }
    }
    Ok(())
}

async fn sql_that_is_planted_is_found(_: Arc<Fixture>) -> Result<()> {
    for planted in [
        r#"fn f() { run("SELECT 1"); }"#,
        r#"fn f() { run(format!("  DELETE FROM {table}")); }"#,
        r#"const LOCK: &str = concat!("BEGIN; ", "SELECT FROM sdb_scope FOR UPDATE");"#,
        r#"fn f() { run(&vec![concat!("WITH a AS (", rest!())]); }"#,
        "fn f() { sqlx::query(statement()); }",
        "use sqlx::{PgConnection, query_as};",
        "fn f() { sqlx::raw_sql(ATTACH); }",
    ] {
        let sources = [("room::file".to_owned(), syn::parse_file(planted)?)].into();
        ensure!(!sql_outside(&sources, &["store"]).is_empty(), "nothing is found in {planted}");
        ensure!(sql_outside(&sources, &["room"]).is_empty(), "{planted} is in its room");
    }
    let innocent = r#"use sqlx::PgConnection; fn f() { say("SELECTED, and SELECT in a text"); }
        #[cfg(test)] mod tests { fn f() { sqlx::query("SELECT 1"); } }"#;
    let sources = [("room".to_owned(), syn::parse_file(innocent)?)].into();
    let found = sql_outside(&sources, &["store"]);
    ensure!(found.is_empty(), "{found:?} is no SQL, or a test's");
    Ok(())
}

/// The statements in modules outside of some rooms, and the uses of what runs them; each with its module.
fn sql_outside(sources: &BTreeMap<String, syn::File>, rooms: &[&str]) -> Vec<String> {
    let is_statement = |text: &String| {
        const VERBS: [&str; 9] =
            ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "BEGIN", "CREATE", "ALTER", "DROP"];
        // A verb alone is a method of HTTP.
        let first = text.trim_start().split_once([' ', '\n', ';']);
        first.is_some_and(|(verb, _)| VERBS.contains(&verb))
    };
    let runs_one = |path: &Vec<String>| match path.as_slice() {
        [library, rest @ ..] => {
            library == "sqlx"
                && rest.iter().any(|part| part.starts_with("query") || part == "raw_sql")
        }
        [] => false,
    };
    let mut found = Vec::new();
    for (module, file) in sources.iter().filter(|(module, _)| !rooms.contains(&room(module))) {
        let (mut texts, mut paths) = (Texts::default(), Paths::default());
        texts.visit_file(file);
        paths.visit_file(file);
        found
            .extend(texts.found.into_iter().filter(is_statement).map(|t| format!("{module}: {t}")));
        let uses = paths.found.into_iter().filter(runs_one);
        found.extend(uses.map(|path| format!("{module}: {}", path.join("::"))));
    }
    found
}

/// All texts of a file, but for those of tests, comments and attributes.
#[derive(Default)]
struct Texts {
    found: Vec<String>,
}

impl<'a> Visit<'a> for Texts {
    fn visit_item(&mut self, item: &'a Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_attribute(&mut self, _: &'a Attribute) {}

    fn visit_lit_str(&mut self, text: &'a syn::LitStr) {
        self.found.push(text.value());
    }

    fn visit_macro(&mut self, item: &'a syn::Macro) {
        // Statements are put together by `format!` and `concat!`, too.
        let arguments = item.parse_body_with(Punctuated::<Expr, Token![,]>::parse_terminated);
        for argument in arguments.into_iter().flatten() {
            let mut inner = Self::default();
            inner.visit_expr(&argument);
            self.found.append(&mut inner.found);
        }
    }
}
