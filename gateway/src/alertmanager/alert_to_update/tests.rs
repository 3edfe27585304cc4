use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    super::{alert::Labels, mapping_file},
    *,
};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn alert(given: &[(&str, &str)], annotations: &[(&str, &str)]) -> Alert {
    Alert::firing(labels(given), labels(annotations))
}

/// In short: the rule's number, and the update, the word of what passes it over, or why it is unmapped.
fn shown(mapped: &Mapped<'_>) -> String {
    match mapped {
        Mapped::Update(rule, update) => format!("{}: {update}", rule.number),
        Mapped::PassedOver(rule, PassedOver::Ignored) => format!("{}: ignored", rule.number),
        Mapped::PassedOver(rule, PassedOver::NoImpact) => format!("{}: none", rule.number),
        Mapped::Unmapped(Some(rule), reason) => format!("{}: {reason}", rule.number),
        Mapped::Unmapped(None, reason) => reason.to_string(),
    }
}

const RULES: &str = r#"
rules:
  - match: {alertname: Watchdog}
    ignore: true
  - match: ['team="storage"', 'cluster=~"otc-(?P<region>.+)"']
    component: {name: 'Storage {{ service }}', attributes: {region: '{{ region }}', zone: 'z{{ zone }}'}}
    impact: major
  - match: {team: storage}
    component: {name: Storage}
  - match: {team: logs}
    component: {name: Logs}
    impact: none
  - match: ['team=~".+"']
    component: {name: '{{ team }}'}
"#;

#[test]
fn the_first_rule_that_matches_decides() {
    let mapping = mapping_file::parse(RULES).expect("it is a mapping");
    let long = "x".repeat(256);
    for (given, expected) in [
        (&[("alertname", "Watchdog"), ("team", "storage")][..], "1: ignored"),
        (
            &[("team", "storage"), ("cluster", "otc-eu"), ("service", "s3"), ("zone", "1")],
            "2: Storage s3 (region=eu, zone=z1)=major",
        ),
        // Without the zone, the component is named without it.
        (
            &[("team", "storage"), ("cluster", "otc-eu"), ("service", "s3")],
            "2: Storage s3 (region=eu)=major",
        ),
        // No later rule is tried.
        (
            &[("team", "storage"), ("cluster", "otc-eu")],
            "2: it names no component: the alert has no label `service`",
        ),
        (&[("team", "storage"), ("cluster", "eu"), ("severity", "critical")], "3: Storage=outage"),
        (&[("team", "storage"), ("severity", "info")], "3: none"),
        (&[("team", "logs"), ("severity", "critical")], "4: none"),
        (&[("team", "DNS")], "5: DNS=minor"),
        (&[("alertname", "Slow")], "no rule matches it"),
        (
            &[("team", &long)],
            "5: the name of the component has more than 255 characters, which no component has",
        ),
        (
            &[("team", "storage"), ("cluster", "otc-e"), ("service", "x"), ("zone", &long)],
            "2: the attribute `zone` has more than 255 characters, which no component has",
        ),
    ] {
        assert_eq!(shown(&mapping.map(&alert(given, &[]))), expected, "{given:?}");
    }
}

#[test]
fn a_resolved_alert_ends_what_it_reported() {
    let mapping = mapping_file::parse(RULES).expect("it is a mapping");
    for (given, expected) in [
        (&[("team", "DNS")][..], "5: DNS=ok"),
        (&[("team", "logs")], "4: none"),
        (&[("alertname", "Watchdog")], "1: ignored"),
    ] {
        let resolved =
            Alert { state: AlertState::Resolved { ended_at: None }, ..alert(given, &[]) };
        assert_eq!(shown(&mapping.map(&resolved)), expected, "{given:?}");
    }
}

/// The rule's text, the annotations, and the title.
#[test]
fn titles_are_one_line_of_what_an_update_may_have() {
    let (fits, long) = ("ü".repeat(255), "ü".repeat(256));
    let cut = format!("{}…", "ü".repeat(254));
    for (text, annotations, expected) in [
        ("'{{ annotations.title }}'", &[("title", "It is slow")][..], "It is slow"),
        ("'{{ annotations.title }}'", &[("summary", "Slow")], "Slow"),
        ("'{{ annotations.title }}'", &[], "SlowDns"),
        ("'{{ annotations.title }}: {{ alertname }}'", &[], ": SlowDns"),
        ("'{{ annotations.title }}'", &[("title", " one\n\ttwo\u{7f}  three ")], "one two three"),
        ("'{{ annotations.title }}'", &[("title", &fits)], &fits),
        ("'{{ annotations.title }}'", &[("title", &long)], &cut),
        ("' {{ annotations.title }}'", &[("title", "\u{1}"), ("summary", "Slow")], "Slow"),
    ] {
        let yaml = format!("rules:\n- component: {{name: DNS}}\n  text: {text}\n");
        let mapping = mapping_file::parse(&yaml).expect(text);
        let alert = alert(&[("alertname", "SlowDns")], annotations);
        let Mapped::Update(_, update) = mapping.map(&alert) else { panic!("{text}: no update") };
        assert_eq!(update.text, expected, "{text} {annotations:?}");
    }
    let mapping =
        mapping_file::parse("rules:\n- component: {name: DNS}\n").expect("it is a mapping");
    let nameless = alert(&[("a", "b")], &[]);
    let Mapped::Update(_, update) = mapping.map(&nameless) else { panic!("no update") };
    assert_eq!(update.text, "Incident");
}

proptest! {
    /// Whatever an alert has, its update is one that the API takes.
    #[test]
    fn updates_are_within_the_limits_of_the_api(
        values in prop::collection::vec("(?s).{0,300}", 4),
        present in prop::collection::vec(any::<bool>(), 4),
    ) {
        let names = ["component", "region", "alertname", "severity"];
        let given: Labels = names
            .iter()
            .zip(values)
            .zip(present)
            .filter(|((_, value), is_present)| *is_present && !value.is_empty())
            .map(|((name, value), _)| ((*name).to_owned(), value))
            .collect();
        let alert = Alert::firing(given.clone(), given);
        let mapping = mapping_file::default_mapping();
        if let Mapped::Update(_, update) = mapping.map(&alert) {
            let MappedUpdate { name, attributes, condition: _, text } = update;
            prop_assert!((1..=255).contains(&name.chars().count()));
            prop_assert!((1..=255).contains(&text.chars().count()) && !text.contains(char::is_control));
            prop_assert!(attributes.iter().all(|a| (1..=255).contains(&a.value.chars().count())));
            let different: BTreeSet<_> = attributes.iter().map(|a| &a.name).collect();
            prop_assert_eq!(different.len(), attributes.len());
        }
    }
}
