use super::{super::alert_to_update::Mapped, *};
use crate::alertmanager::alert::{Alert, Labels};

/// The example of the reference, and more.
const MAPPING: &str = r#"
severity: {label: level, map: {page: outage, ticket: 2, log: none}, otherwise: major}
rules:
  - match: {alertname: Watchdog, ready: yes}
    ignore: true
  - match: ['team="storage"', 'cluster=~"otc-(?P<region>.+)"']
    component:
      name: '{{ service }}'
      attributes: {region: '{{ region }}', type: s3, port: 080}
    impact: minor
    text: '{{ annotations.summary }}'
  - match: 'team=~"a|b",team!="c"'
    component: {name: Other}
    ignore: false
"#;

#[test]
fn a_file_is_read_with_numbers_and_lines() {
    let mapping = parse(MAPPING).expect("it is a mapping");
    let severities: Vec<_> = mapping.severity.map.iter().map(|(s, i)| (s.as_str(), *i)).collect();
    let expected = [("log", None), ("page", Some(Impact::Outage)), ("ticket", Some(Impact::Major))];
    assert_eq!((mapping.severity.label.as_str(), severities.as_slice()), ("level", &expected[..]));
    assert_eq!(mapping.severity.otherwise, Some(Impact::Major));
    let rules: Vec<String> = mapping.rules.iter().map(Rule::to_string).collect();
    assert_eq!(rules, ["rule 1 (line 4)", "rule 2 (line 6)", "rule 3 (line 12)"]);
    let matchers: Vec<String> =
        mapping.rules.iter().flat_map(|r| &r.matchers).map(Matcher::to_string).collect();
    assert_eq!(
        matchers,
        [
            r#"alertname="Watchdog""#,
            r#"ready="yes""#,
            r#"team="storage""#,
            r#"cluster=~"otc-(?P<region>.+)""#,
            r#"team=~"a|b""#,
            r#"team!="c""#
        ]
    );
    let Action::Update(to_update) = &mapping.rules[1].action else { panic!("it is ignored") };
    assert_eq!(to_update.impact, ImpactOf::Rule(Some(Impact::Minor)));
    // As it is written, though YAML reads a number.
    let (port, value) = &to_update.attributes[2];
    assert_eq!((port.as_str(), value.constant()), ("port", Some("080")));
    let Action::Update(to_update) = &mapping.rules[2].action else { panic!("it is ignored") };
    assert_eq!((to_update.impact, &to_update.text), (ImpactOf::Severity, &None));
}

#[test]
fn without_severities_those_of_prometheus_are_known() {
    let given = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let mapping = default_mapping();
    assert_eq!(mapping.rules[0].to_string(), "the default rule");
    for (severity, impact) in
        [("critical", "outage"), ("error", "major"), ("warning", "minor"), ("page", "minor")]
    {
        let labels = given(&[("component", "DNS"), ("region", "eu"), ("severity", severity)]);
        let alert = Alert::firing(labels, Labels::new());
        let Mapped::Update(_, update) = mapping.map(&alert) else { panic!("{severity}") };
        assert_eq!(update.to_string(), format!("DNS (region=eu)={impact}"));
    }
    let labels = given(&[("component", "DNS"), ("severity", "info")]);
    let alert = Alert::firing(labels, Labels::new());
    assert!(matches!(mapping.map(&alert), Mapped::PassedOver(..)));
}

/// What is written, the line, and what the error says.
#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line() {
    let long = format!("rules:\n- component:\n    name: {}", "x".repeat(256));
    let many = (0..33).map(|n| format!("a{n}: x")).collect::<Vec<_>>().join(", ");
    let many = format!("rules:\n- component: {{name: x, attributes: {{{many}}}}}");
    for (yaml, line, says) in [
        ("", 1, "the file must be a mapping with some of `severity`, `rules`"),
        ("- a", 1, "the file must be a mapping"),
        ("rules: [", 1, "this is not YAML"),
        ("severity: {label: a}", 1, "the file needs `rules`, a list"),
        ("rules: {a: b}", 1, "the file needs `rules`, a list"),
        ("\nrules:", 2, "`rules` is empty"),
        ("rules: []", 1, "`rules` is empty"),
        ("rules:\n- a", 2, "a rule must be a mapping with some of `match`, `ignore`"),
        ("rules:\n- {ignore: true}\nroutes: []", 3, "`routes` is unknown: the file has `severity`"),
        ("rules:\n- ignore: true\n  matchers: []", 3, "`matchers` is unknown: a rule has `match`"),
        ("rules:\n- match: [a]\n  ignore: true", 2, "is missing after `a`"),
        ("rules:\n- match:\n  - a=~\"(\"\n  ignore: true", 3, "the expression `(` can't be used"),
        ("rules:\n- match: []\n  ignore: true", 2, "`match` is empty"),
        ("rules:\n- match:\n  ignore: true", 2, "`match` is empty"),
        ("rules:\n- match: {}\n  ignore: true", 2, "`match` is empty"),
        ("rules:\n- match: {a: [b]}\n  ignore: true", 2, "the value of `a` is a list"),
        (
            "rules:\n- match: ['a=~\"(?P<x>.)\"', 'b=~\"(?P<x>.)\"']\n  component: {name: x}",
            2,
            "a group `x`: rename one",
        ),
        ("rules:\n- ignore: 1", 2, "`ignore` is to be `true` or `false`"),
        ("rules:\n- ignore: true\n  impact: minor", 2, "has nothing else but `match`"),
        ("rules:\n- ignore: false", 2, "a rule needs a `component`"),
        ("rules:\n- match: {a: b}", 2, "a rule needs a `component`"),
        ("rules:\n- component: x", 2, "`component` must be a mapping with some of `name`"),
        ("rules:\n- component: {attributes: {a: b}}", 2, "`component` needs a `name`"),
        ("rules:\n- component: {name: ' '}", 2, "the name of the component is empty"),
        ("rules:\n- component: {name: x, attributes: {a: ''}}", 2, "the attribute `a` is empty"),
        ("rules:\n- component:\n    name: {{ a }}", 3, "are to be in quotes: '{{ name }}'"),
        ("rules:\n- component:\n    name: '{{ labels.a }}'", 3, "write `{{ name }}` for a label"),
        ("rules:\n- component: {name: x}\n  text: '{{ a'", 3, "`text`: `{{ a` has a `{{`"),
        ("rules:\n- component: {name: x}\n  impact: bad", 3, "`bad` is no impact: write `minor`"),
        ("rules:\n- component: {name: x}\n  impact: 0", 3, "`0` is no impact"),
        ("rules:\n- component: {name: x}\n  impact: ok", 3, "`ok` is no impact"),
        ("rules:\n- component: {name: x, attributes: [a]}", 2, "`attributes` must be a mapping"),
        (&many, 2, "an update can name 32 attributes at most"),
        (&long, 3, "the name of the component has more than 255 characters"),
        ("severity: {levels: {a: b}}\nrules:\n- ignore: true", 1, "`levels` is unknown"),
        ("severity: {map: {a: bad}}\nrules:\n- ignore: true", 1, "`bad` is no impact"),
        ("severity: {map: [a]}\nrules:\n- ignore: true", 1, "such as `critical: outage`"),
        ("severity: {otherwise: no}\nrules:\n- ignore: true", 1, "`no` is no impact"),
    ] {
        let error = parse(yaml).err().unwrap_or_else(|| panic!("{yaml} is a mapping"));
        assert!(error.reason.contains(says), "{yaml}: {error}");
        assert_eq!(error.line, line, "{yaml}: {error}");
    }
}
