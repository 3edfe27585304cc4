//! `gateway mapping check`.

use std::sync::Arc;

use anyhow::{Result, ensure};

use super::{mapping, written};
use harness::{Fixture, System, tests};

tests!(
    a_mapping_is_compared_with_the_catalogue,
    without_a_prepared_database_or_a_good_file_the_check_fails,
);

const MAPPING: &str = r#"rules:
  - match: ['cluster=~"otc-(?P<region>eu|us)"']
    component: {name: '{{ service }}', attributes: {region: '{{ region }}'}}
  - match: {team: mail}
    component: {name: Mail}
  - match: {team: mail, severity: critical}
    component: {name: Mail}
    impact: outage
  - match: {team: dns}
    component: {name: Names}
"#;

async fn a_mapping_is_compared_with_the_catalogue(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::prepared(&fixture).await?;
    system
        .components(&[
            ("DNS", &[("region", "eu"), ("type", "dns")]),
            ("DNS", &[("region", "ap"), ("type", "dns")]),
            ("CDN", &[]),
            ("Mail", &[("region", "ap")]),
        ])
        .await?;
    let file = written(&fixture, "mapping.yaml", MAPPING)?;
    let database = [("SDB_DATABASE_URI", system.database_uri.as_str())];
    let expected = "No rule can reach these components:\n  \
            DNS (region=ap, type=dns)\n  \
            CDN\n\
        These rules reach no component:\n  \
            rule 3 (line 6): rule 2 (line 4) matches all of its alerts\n  \
            rule 4 (line 9)\n\
        Rules: 4, of which 2 reach no component. Components: 4, of which 2 can't be reached.\n";
    let with_setting = [database[0], ("SDB_ALERT_MAPPING", file.as_str())];
    for (arguments, variables) in
        [(&["check"][..], &with_setting[..]), (&["check", "--file", &file], &database)]
    {
        let (done, said) = mapping(&fixture, arguments, variables).await?;
        ensure!(done && said == expected, "{arguments:?}: {said}, not {expected}");
    }
    // What the check says is what alerts meet.
    let labels = "team=mail,severity=critical";
    let test = ["test", "--labels", labels, "--expect", "Mail=outage", "--file", &file];
    let (done, said) = mapping(&fixture, &test, &[]).await?;
    ensure!(done && said.starts_with("matched    by rule 2 (line 4)\n"), "{said}");
    // The default rule reaches each of them by its labels.
    let (done, said) = mapping(&fixture, &["check"], &database).await?;
    let all =
        "Rules: 1, of which 0 reach no component. Components: 4, of which 0 can't be reached.\n";
    ensure!(done && said == all, "{said}");
    system.finish().await
}

async fn without_a_prepared_database_or_a_good_file_the_check_fails(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::bare(&fixture).await?;
    let bad = written(&fixture, "bad.yaml", "rules:\n  - match: {team: dns}\n")?;
    let database = [("SDB_DATABASE_URI", system.database_uri.as_str())];
    let elsewhere = system.database_uri.replace(&system.vhost, "nowhere");
    for (arguments, variables, says) in [
        (
            &["check", "--file", &bad][..],
            &database[..],
            "bad.yaml: line 2: a rule needs a `component`",
        ),
        (&["check"], &database, "the database is not prepared: run `worker migrate`"),
        (&["check"], &[], "SDB_DATABASE_URI is not set"),
        (&["check"], &[("SDB_DATABASE_URI", &elsewhere)], "the database can't be reached"),
    ] {
        let (done, said) = mapping(&fixture, arguments, variables).await?;
        ensure!(!done && said.contains(says), "{arguments:?}: {said}");
    }
    Ok(())
}
