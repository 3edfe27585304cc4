use super::*;

const TWO: &str = "components:
  - name: DNS
    attributes:
      region: R1
      category: Net
  - name: DNS
    attributes: {region: R2, category: Net}
";

#[test]
fn order_and_lines_are_kept() {
    let parsed = parse(TWO).expect("parses").entries;
    let shown: Vec<_> = parsed.iter().map(|w| (w.line, w.label())).collect();
    assert_eq!(shown, [(2, "DNS (R1, Net)".to_owned()), (6, "DNS (R2, Net)".to_owned())]);
}

/// What is written, and the name before.
#[test]
fn what_a_component_was_before_is_read() {
    for (renamed_from, expected) in [
        ("Names", "Names (R1, dns)"),
        ("'Names'", "Names (R1, dns)"),
        ("{name: Names}", "Names (R1, dns)"),
        ("{attributes: {region: R2}}", "DNS (R2)"),
        ("{name: Names, attributes: {type: ns, region: R2}}", "Names (ns, R2)"),
        ("{name: Names, attributes: {}}", "Names ()"),
    ] {
        let yaml = format!(
            "components:\n- name: DNS\n  attributes: {{region: R1, category: Net, type: dns}}\n  \
                renamed-from: {renamed_from}\n"
        );
        let parsed = parse(&yaml).expect(renamed_from).entries;
        let former = parsed[0].renamed_from.as_ref().map(FormerIdentity::label);
        assert_eq!(former.as_deref(), Some(expected), "{renamed_from}");
    }
}

#[test]
fn invalid_entries_are_refused_with_their_line() {
    let pairs =
        |count: usize| (0..count).map(|n| format!("a{n}: b")).collect::<Vec<_>>().join(", ");
    let many = format!("components:\n- name: DNS\n  attributes: {{{}}}\n", pairs(33));
    assert!(parse(&many.replace(", a32: b", "")).is_ok());
    let long = format!("components:\n- name: DNS\n  attributes: {{a: {}}}\n", "x".repeat(256));
    let long_name = long.replace("a: xxx", "xxx").replace("xx}", "xxx: b}");
    for (yaml, says) in [
        ("", "line 1: the file is not a mapping"),
        ("# nothing\n", "line 1: the file is not a mapping"),
        ("- name: DNS\n", "line 1: the file is not a mapping"),
        ("x-defaults: {}\n", "line 1: the file has no list `components`"),
        ("components: 5", "line 1: `components` must be a list"),
        ("components:\n", "line 1: `components` must be a list"),
        ("components: {DNS: {}}", "line 1: `components` must be a list"),
        ("components: []\n---\ncomponents: []\n", "line 2: a second document begins here"),
        ("components:\n- name: DNS\ncomponents: []\n", "line 3: `components` is written twice"),
        ("components:\n  - name: [DNS\n", "this is not YAML: "),
        ("components:\n  - name: 'DNS\n", "this is not YAML: "),
        ("components: *nowhere\n", "line 1: this is not YAML: "),
        ("components: &all [{name: DNS}, *all]\n", "line 1: this alias is inside of what it names"),
        ("components:\n  - DNS\n", "line 2: a component must be a mapping"),
        ("components:\n  - title: DNS\n", "line 2: a component without a `name`"),
        ("components:\n  - name:\n", "line 2: the name of a component is empty"),
        ("components:\n  - name: {a: b}\n", "line 2: the name of a component is a mapping"),
        ("components:\n  - name: !!binary RE5T\n", "line 2: the tag binary can't be used here"),
        ("components:\n  - name: !it DNS\n", "line 2: the tag !it can't be used here"),
        (
            "components:\n  - name: DNS\n    attributes: [a]\n",
            "line 3: DNS: `attributes` must be a mapping",
        ),
        (
            "components:\n  - name: DNS\n    attributes: {a: [b]}\n",
            "line 3: DNS: the value of a is a list",
        ),
        ("components:\n  - name: DNS\n    attributes: {[a]: b}\n", "line 3: DNS: a key is a list"),
        (
            "components:\n  - name: DNS\n    attributes: {a: }\n",
            "line 3: DNS: the value of a is empty",
        ),
        (
            "components:\n  - name: DNS\n    attributes:\n      region: NO\n",
            "line 4: DNS: the value of region is `NO`, which YAML reads as a boolean: write \"NO\" in \
            quotes to keep it as it is, or \"false\" in quotes, as which the Python dashboard stores it",
        ),
        (
            "components:\n  - name: DNS\n    attributes:\n      no: NO\n",
            "line 4: DNS: a key is `no`, which YAML reads as a boolean",
        ),
        (
            "components:\n  - name: 012\n",
            "line 2: the name of a component is `012`, which YAML reads as a number",
        ),
        (
            "components:\n  - name: DNS\n    attributes: {<<: x}\n",
            "line 3: DNS: `<<` merges a mapping",
        ),
        (
            "components:\n  - name: DNS\n    attributes: {<<: [{}, x]}\n",
            "line 3: DNS: `<<` merges a mapping",
        ),
        (
            "components:\n  - name: DNS\n    Attribute: {}\n",
            "line 2: `Attribute` in line 3 is unknown: write `attributes`",
        ),
        (
            "components:\n  - name: DNS\n    renamed_from: CDN\n",
            "`renamed_from` in line 3 is unknown: write `renamed-from`",
        ),
        ("components:\n  - name: ' '\n", "line 2: the name of a component is empty"),
        (
            "components:\n  - name: DNS\n    attributes: {region: ''}\n",
            "line 2: DNS: the value of region is empty",
        ),
        (
            "components:\n  - name: \"a\\u0000b\"\n",
            "line 2: the name of a component has a control character",
        ),
        (
            "components:\n  - name: DNS\n    attributes: {a: b, a: c}\n",
            "line 3: DNS: `a` is written twice",
        ),
        (
            "components:\n  - name: DNS\n    renamed-from: A\n  - name: DNS\n    renamed-from: B\n",
            "line 4: DNS () is also in line 2, with another `renamed-from`",
        ),
        (&many, "line 2: DNS: it has 33 attributes, and an update can name 32 at most"),
        (&long, "line 2: DNS: the value of a, `xxx"),
        (&long_name, "line 2: DNS: the name of an attribute, `xxx"),
        ("components:\n- name: DNS\n  renamed-from: {}\n", "line 2: DNS: renamed-from has neither"),
        (
            "components:\n- name: DNS\n  renamed-from:\n",
            "line 3: DNS: renamed-from is to be the name",
        ),
        ("components:\n- name: DNS\n  renamed-from: [CDN]\n", "line 3: DNS: renamed-from is to be"),
        (
            "components:\n- name: DNS\n  renamed-from: {title: CDN}\n",
            "line 3: DNS: renamed-from is to be",
        ),
        (
            "components:\n- name: DNS\n  renamed-from: ' '\n",
            "line 2: DNS: renamed-from: the name of a component is empty",
        ),
    ] {
        let error = parse(yaml).expect_err(yaml).to_string();
        assert!(error.contains(says), "{yaml:?} gives {error:?}, not {says:?}");
    }
    let deep = format!("components: {}{}\n", "[".repeat(200), "]".repeat(200));
    let error = parse(&deep).expect_err("deep").to_string();
    assert!(error.contains("line 1: this is nested too deeply"), "{error}");
}

/// The labels of a file's components, in order.
fn labels(yaml: &str) -> Vec<String> {
    parse(yaml).expect(yaml).entries.iter().map(CatalogueEntry::label).collect()
}

/// In the order in which PyYAML 6.0 gives them.
#[test]
fn merged_attributes_keep_the_order_of_python() {
    for (attributes, expected) in [
        ("{<<: *a, category: C}", "R1, t, C"),
        ("{category: C, <<: *a}", "R1, t, C"),
        ("{category: C, <<: *a, zone: z}", "R1, t, C, z"),
        ("{category: C, <<: *a, region: R2}", "R2, t, C"),
        ("{region: R2, category: C, <<: *a}", "R2, t, C"),
        ("{category: C, <<: [*a, *b]}", "t, z, R1, C"),
        ("{category: C, <<: [*b, *a]}", "R1, u, z, C"),
        ("{category: C, <<: [*a, {zone: y}]}", "y, R1, t, C"),
        ("{category: C, <<: {zone: y}}", "y, C"),
        ("{category: C, <<: *c}", "R1, u, z, C"),
        ("{<<: *a, category: C, <<: *b}", "R1, u, z, C"),
        ("{category: C, <<: []}", "C"),
        ("{category: C, '<<': x}", "C, x"),
        ("{category: C, ? *k : v}", "C, v"),
        ("*c", "R1, u, z"),
    ] {
        let yaml = format!(
            "x-a: &a {{region: R1, type: t}}\nx-b: &b {{type: u, zone: z}}\n\
            x-c: &c {{<<: *a, type: u, zone: z}}\nx-k: &k key\n\
            components: [{{name: DNS, attributes: {attributes}}}]\n"
        );
        assert_eq!(labels(&yaml), [format!("DNS ({expected})")], "{attributes}");
    }
    // Whole entries, too.
    let yaml = "x-a: &a {name: DNS, attributes: {region: R1}}\n\
        components:\n- *a\n- {<<: *a, name: CDN}\n";
    assert_eq!(labels(yaml), ["DNS (R1)", "CDN (R1)"]);
}

#[test]
fn what_the_python_dashboard_takes_is_taken() {
    for (yaml, expected) in [
        ("components: []\n", vec![]),
        ("\u{feff}components: [{name: DNS}]\n", vec!["DNS ()"]),
        ("%YAML 1.1\n---\ncomponents: [{name: DNS}]\n...\n", vec!["DNS ()"]),
        ("components:\r\n- name: DNS\r\n  attributes:\r\n    region: R1\r\n", vec!["DNS (R1)"]),
        ("components:\n- name: DNS\n  attributes:\n", vec!["DNS ()"]),
        ("components:\n- name: DNS\n  attributes: {}\n", vec!["DNS ()"]),
        (
            "components:\n- name: DNS\n  attributes: {a: 12, b: true, c: 2026-05-01, 7: d}\n",
            vec!["DNS (12, true, 2026-05-01, d)"],
        ),
        (
            "components:\n- name: \"NO\"\n  attributes: {region: 'off', a: !!str 012, b: ! yes}\n",
            vec!["NO (off, 012, yes)"],
        ),
        (
            "components:\n- name: >-\n    Auto\n    Scaling\n  attributes: {a: y, b: 1e3, c: 0o10}\n",
            vec!["Auto Scaling (y, 1e3, 0o10)"],
        ),
        ("x-a: {b: [1, no, ~]}\nversion: 2\ncomponents: [{name: DNS}]\n", vec!["DNS ()"]),
        ("components: [{name: &n DNS, attributes: {a: *n}}]\n", vec!["DNS (DNS)"]),
        ("components: !!seq [!!map {name: DNS}]\n", vec!["DNS ()"]),
        (
            "{\"components\": [{\"name\": \"DNS\", \"attributes\": {\"region\":\"R1\"}}]}\n",
            vec!["DNS (R1)"],
        ),
    ] {
        assert_eq!(labels(yaml), expected, "{yaml:?}");
    }
}

#[test]
fn what_is_ignored_is_reported() {
    let yaml = "components:
- name: DNS
  attributes: {region: R1, category: Net}
  colour: red
  x-owner: me
- name: CDN
- name: DNS
  attributes: {category: Net, region: R1}
  renamed-from: Names
";
    let CatalogueFile { entries, ignored } = parse(yaml).expect("parses");
    let expected = [
        "line 4: `colour` of DNS is unknown and ignored",
        "line 7: DNS (Net, R1) is also in line 2; this entry is ignored",
    ];
    assert_eq!(ignored, expected);
    let kept: Vec<_> = entries.iter().map(|e| (e.label(), e.renamed_from.is_some())).collect();
    assert_eq!(kept, [("DNS (R1, Net)".to_owned(), true), ("CDN ()".to_owned(), false)]);
}

#[test]
fn any_number_of_aliases_is_the_operators_own() {
    let mut yaml = "x-a: &a {region: R1, type: t}\ncomponents:\n".to_owned();
    for number in 0..10_000 {
        yaml += &format!("- {{name: C{number}, attributes: *a}}\n");
        yaml += &format!("- {{name: D{number}, attributes: {{<<: *a, category: C}}}}\n");
    }
    let labels = labels(&yaml);
    assert_eq!((labels.len(), labels[19_999].as_str()), (20_000, "D9999 (R1, t, C)"));
    // Mappings that merge each other twice would be 2^60 entries if each were written out.
    let mut yaml = "m0: &m0 {region: R1}\n".to_owned();
    for number in 1..60 {
        let before = number - 1;
        yaml += &format!("m{number}: &m{number} {{<<: [*m{before}, *m{before}]}}\n");
    }
    yaml += "components: [{name: DNS, attributes: *m59}]\n";
    assert_eq!(self::labels(&yaml), ["DNS (R1)"]);
}
