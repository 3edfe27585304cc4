//! The generated reference is that of the programs and their settings.

use std::{fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use tokio::task::spawn_blocking;

use harness::{
    Fixture,
    reference::{Page, WRITE, pages},
    tests,
};

tests!(the_reference_is_what_the_programs_say, a_stale_reference_is_found,);

async fn the_reference_is_what_the_programs_say(_: Arc<Fixture>) -> Result<()> {
    let [commands, settings] = spawn_blocking(pages).await??;
    for (page, line, least) in [(&commands, "##", 30), (&settings, "| `SDB_", 20)] {
        let found = page.text.lines().filter(|text| text.starts_with(line)).count();
        ensure!(
            found > least,
            "{} has only {found} of {line}: the check looks at nothing",
            page.path
        );
        difference(&written(page)?, page)?;
    }
    Ok(())
}

fn written(page: &Page) -> Result<String> {
    fs::read_to_string(deploy::checkout().join(page.path)).context(page.path)
}

/// Fails with the first line that is not as it must be.
fn difference(written: &str, Page { path, text }: &Page) -> Result<()> {
    let mut written = written.lines();
    for (number, expected) in (1..).zip(text.lines()) {
        let line = written.next();
        ensure!(
            line == Some(expected),
            "{path} is stale in line {number}, `{WRITE}` writes it anew: it has {line:?} for {expected:?}"
        );
    }
    let more = written.next();
    ensure!(more.is_none(), "{path} has more than it must, `{WRITE}` writes it anew: {more:?}");
    Ok(())
}

async fn a_stale_reference_is_found(_: Arc<Fixture>) -> Result<()> {
    for (page, text) in
        [("docs/reference/commands.md", "--partitions"), ("docs/reference.md", "| `1024` |")]
    {
        let page = Page { path: page, text: fs::read_to_string(deploy::checkout().join(page))? };
        difference(&page.text, &page)?;
        ensure!(page.text.contains(text), "there is no {text} to plant a difference into");
        for planted in [
            page.text.replace(text, "--queues"),
            page.text.lines().skip(1).collect::<Vec<_>>().join("\n"),
            format!("{}\n### worker unknown\n", page.text),
            String::new(),
        ] {
            ensure!(difference(&planted, &page).is_err(), "a difference was not found");
        }
    }
    Ok(())
}
