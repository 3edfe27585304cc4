//! `worker catalogue`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Subcommand;
use shared::{process::output, settings::Settings};

use super::{connect, printed};
use crate::catalogue::{self, ApplyOptions, CatalogueFile, CataloguePlan, Changed};

/// Commands on the catalogue.
#[derive(Subcommand)]
pub enum CatalogueCommand {
    /// Add the components of a catalogue file (YAML) that are not there, all in one transaction; those
    /// that the file does not have stay as they are, unless `--prune` is given.
    ///
    /// All attributes except `category` distinguish components of one name: an entry with another region
    /// or type is another component. If only the category differs, and no other component or entry has
    /// this name and these other attributes, it is changed in place.
    ///
    /// To rename a component, or to change its other attributes, give its entry `renamed-from`: the former
    /// name, or the former `name` and `attributes`; omitted parts are unchanged. The attributes identify
    /// the component as those of an update do. It keeps its id and its history. While it is in an active
    /// incident or maintenance, nothing is applied. Applied again, the line changes nothing. For example:
    ///
    ///   - name: Virtual Private Network
    ///     attributes: {category: Network, region: EU-NL, type: vpn}
    ///     renamed-from: VPN
    #[command(verbatim_doc_comment)]
    Apply {
        /// The file: `components`, a list of `name`, `attributes` and `renamed-from`.
        file: PathBuf,
        /// Print what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Remove the components that the file does not have. If incidents have one of them, closed
        /// ones included, it is named and nothing is applied. Updates of it that still wait are
        /// parked.
        #[arg(long)]
        prune: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Returns what to print.
pub(super) async fn run(command: CatalogueCommand, settings: &Settings) -> Result<String> {
    let CatalogueCommand::Apply { file, dry_run, prune, json } = command;
    let yaml = std::fs::read_to_string(&file)
        .with_context(|| format!("{} can't be read", file.display()))?;
    let named = || file.display().to_string();
    let CatalogueFile { entries, ignored } = catalogue::parse(&yaml).with_context(named)?;
    for line in ignored {
        output::error(format_args!("worker: {}: {line}", file.display()));
    }
    let options = ApplyOptions { dry_run, prune };
    let plan = catalogue::apply(&mut connect(settings).await?, entries, options)
        .await
        .with_context(named)?;
    let end = if dry_run { "\nA dry run: nothing was changed." } else { "" };
    printed(&plan, || format!("{}{end}", text(&plan)), json)
}

/// A line for each component that is not the same, and one that counts them.
fn text(plan: &CataloguePlan) -> String {
    let CataloguePlan { add, change, rename, remove, stay, same } = plan;
    let mut lines = Vec::new();
    for entry in add {
        let mut line = format!("added    {}", entry.label());
        if let Some(former) = &entry.renamed_from {
            line += &format!("; there is no {} that could be renamed", former.label());
        }
        lines.push(line);
    }
    for (word, list) in [("changed", change), ("renamed", rename)] {
        lines.extend(list.iter().map(|Changed { before, after }| {
            format!("{word}  {} to {}", before.label(), after.label())
        }));
    }
    lines.extend(remove.iter().map(|component| format!("removed  {}", component.label())));
    lines.extend(
        stay.iter().map(|component| {
            format!("stays    {}, which the file does not have", component.label())
        }),
    );
    if plan.may_rename() {
        lines.push(
            "An added component has the name of one that the file does not have. If they are the \
            same, the entry needs `renamed-from` before it is applied: see --help."
                .to_owned(),
        );
    }
    let counts = [
        (add.len(), "added", true),
        (change.len(), "changed", true),
        (rename.len(), "renamed", false),
        (*same, "as they were", true),
        (remove.len(), "removed", false),
        (stay.len(), "not in the file", true),
    ];
    let counts = counts.iter().filter(|(count, _, always)| *always || *count > 0);
    lines.push(
        counts.map(|(count, word, _)| format!("{count} {word}")).collect::<Vec<_>>().join(", "),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use shared::domain::component::{Component, ComponentId};

    use super::*;

    fn plan(database: &[&str], file: &[&str]) -> CataloguePlan {
        let components = database.iter().zip(1..).map(|(name, id)| Component {
            id: ComponentId(id),
            name: (*name).to_owned(),
            attributes: Vec::new(),
        });
        let lines = file.iter().map(|line| format!("- {{name: {line}, attributes: {{}}}}\n"));
        let yaml = format!("components:\n{}", lines.collect::<String>());
        let entries = catalogue::parse(&yaml).expect("it is YAML").entries;
        CataloguePlan::new(components.collect(), entries).expect("it is clear")
    }

    #[test]
    fn renamings_are_shown() {
        assert_eq!(
            text(&plan(&[], &["New, renamed-from: Old"])),
            "added    New (); there is no Old () that could be renamed\n\
            1 added, 0 changed, 0 as they were, 0 not in the file"
        );
        assert_eq!(
            text(&plan(&["Old"], &["New, renamed-from: Old"])),
            "renamed  Old () to New ()\n\
            0 added, 0 changed, 1 renamed, 0 as they were, 0 not in the file"
        );
    }
}
