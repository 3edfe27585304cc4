//! Migrations that databases have applied are as they were.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use sqlx::migrate::Migrator;

use harness::{Fixture, tests};

tests!(no_migration_has_changed, a_migration_that_has_changed_is_found);

/// The checksums of the migrations, in the form of `sha384sum`.
const CHECKSUMS: &str = "SHA384SUMS";

async fn no_migration_has_changed(_: Arc<Fixture>) -> Result<()> {
    let folder = deploy::checkout().join("migrations");
    let changed = changed(&folder).await?;
    ensure!(
        changed.is_empty(),
        "{changed:?} differ from migrations/{CHECKSUMS}. Databases that have applied a migration refuse \
        another version of it: write a further one instead. Only if no database but your own has it: \
        `cd migrations && sha384sum 0*.sql >{CHECKSUMS}`"
    );
    Ok(())
}

async fn a_migration_that_has_changed_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let (from, to) = (deploy::checkout().join("migrations"), fixture.folder.join("migrations"));
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        fs::copy(&path, to.join(path.file_name().context("a file without a name")?))?;
    }
    let one = to.join("0002_journal.sql");
    let text = fs::read_to_string(&one)?;
    fs::write(&one, format!("{text}-- A comment.\n"))?;
    fs::remove_file(to.join("0003_deployment.sql"))?;
    fs::write(to.join("0999_new.sql"), "SELECT 1")?;
    let changed = changed(&to).await?;
    ensure!(changed == ["0002_journal.sql", "0003_deployment.sql", "0999_new.sql"], "{changed:?}");
    Ok(())
}

/// The migrations of a folder that have not the checksum that is noted there, by which sqlx knows them in
/// a database; and those that are missing in the folder or among the checksums.
async fn changed(folder: &Path) -> Result<Vec<String>> {
    let mut found = BTreeMap::new();
    for migration in Migrator::new(folder).await?.iter() {
        let name = migration.description.replace(' ', "_");
        let hex: String = migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        found.insert(format!("{:04}_{name}.sql", migration.version), hex);
    }
    let mut noted = BTreeMap::new();
    for line in fs::read_to_string(folder.join(CHECKSUMS))?.lines() {
        let (hex, name) = line.split_once("  ").with_context(|| line.to_owned())?;
        noted.insert(name.to_owned(), hex.to_owned());
    }
    let mut names: Vec<&String> = found.keys().chain(noted.keys()).collect();
    names.sort();
    names.dedup();
    Ok(names.into_iter().filter(|name| found.get(*name) != noted.get(*name)).cloned().collect())
}
