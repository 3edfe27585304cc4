use shared::domain::component::{Attribute, ComponentId};

use super::{super::mapping_file, *};

/// Components by name and attributes, with ids from 1.
fn catalogue(components: &[(&str, &[(&str, &str)])]) -> ByName {
    let attribute = |(name, value): &(&str, &str)| Attribute {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    };
    let components = (1..).zip(components).map(|(id, (name, attributes))| Component {
        id: ComponentId(id),
        name: (*name).to_owned(),
        attributes: attributes.iter().map(attribute).collect(),
    });
    ByName::new(components.collect())
}

/// The rules' matchers and components, and the ids of the components that they don't reach.
#[test]
fn a_component_is_reached_unless_something_excludes_it() {
    let catalogue = catalogue(&[
        ("DNS", &[("region", "eu"), ("type", "dns")]),
        ("DNS", &[("region", "us"), ("type", "dns")]),
        ("CDN", &[]),
        ("Storage eu", &[("region", "eu")]),
    ]);
    for (rule, unreached) in [
        // The default rule: any name, with any region or with none.
        ("component: {name: '{{ component }}', attributes: {region: '{{ region }}'}}", &[][..]),
        // Without a region, two are called DNS.
        ("component: {name: '{{ component }}'}", &[1, 2]),
        ("component: {name: CDN}", &[1, 2, 4]),
        ("component: {name: 'Storage {{ region }}'}", &[1, 2, 3]),
        ("component: {name: '{{ a }} {{ b }}'}", &[1, 2, 3]),
        ("component: {name: '{{ n }}', attributes: {region: eu}}", &[2, 3]),
        ("component: {name: '{{ n }}', attributes: {region: 'e{{ n }}'}}", &[1, 2, 3, 4]),
        // A value that is needed twice is one.
        ("component: {name: 'Storage {{ r }}', attributes: {region: '{{ r }}'}}", &[1, 2, 3]),
        ("component: {name: 'Storag{{ r }}', attributes: {region: '{{ r }}'}}", &[1, 2, 3, 4]),
        // What matchers admit.
        ("match: {n: CDN}\n  component: {name: '{{ n }}'}", &[1, 2, 4]),
        ("match: ['n!=\"CDN\"']\n  component: {name: '{{ n }}'}", &[1, 2, 3]),
        (
            "match: ['r=~\"eu|ap\"']\n  component: {name: '{{ n }}', attributes: {region: '{{ r }}'}}",
            &[2, 3],
        ),
        // Groups: of a value that there must be, and of one that there may be.
        (
            "match: ['c=~\"x-(?P<r>u.)\"']\n  component: {name: '{{ n }}', attributes: {region: '{{ r }}'}}",
            &[1, 3, 4],
        ),
        (
            "match: ['c=~\"x(-(?P<r>u.))?\"']\n  component: {name: '{{ n }}', attributes: {region: '{{ r }}'}}",
            &[1],
        ),
        ("component: {name: '{{ annotations.n }}', attributes: {region: us}}", &[1, 3, 4]),
        ("component: {name: '{{ n }}'}\n  impact: none", &[1, 2, 3, 4]),
        ("ignore: true", &[1, 2, 3, 4]),
    ] {
        let mapping = mapping_file::parse(&format!("rules:\n- {rule}\n")).expect(rule);
        let found = super::unreached(&mapping, &catalogue);
        let ids: Vec<i32> = found.components.iter().map(|component| component.id.0).collect();
        assert_eq!(ids, unreached, "{rule}");
    }
}

/// Of several components that have the same name and attributes, updates are about the first.
#[test]
fn the_second_of_two_that_are_alike_is_not_reached() {
    let catalogue = catalogue(&[("DNS", &[]), ("DNS", &[])]);
    let mapping = mapping_file::default_mapping();
    let found = unreached(&mapping, &catalogue);
    assert_eq!(found.components.iter().map(|c| c.id.0).collect::<Vec<_>>(), [2]);
    assert!(found.rules.is_empty());
}

#[test]
fn useless_rules_are_found_with_the_reason() {
    let yaml = "
rules:
  - match: {alertname: Watchdog}
    ignore: true
  - match: {team: dns}
    component: {name: DNS}
  - match: {cluster: eu, team: dns}
    component: {name: DNS}
  - match: {team: dns, alertname: Watchdog}
    ignore: true
  - component: {name: Unknown}
    impact: none
  - component: {name: DNS}
";
    let catalogue = catalogue(&[("DNS", &[])]);
    let mapping = mapping_file::parse(yaml).expect("it is a mapping");
    let rule = |number: usize| &mapping.rules[number - 1];
    let found = unreached(&mapping, &catalogue);
    assert_eq!(
        found.rules,
        [
            Useless::Shadowed { rule: rule(3), by: rule(2) },
            Useless::Shadowed { rule: rule(4), by: rule(1) },
            Useless::Shadowed { rule: rule(6), by: rule(5) },
        ]
    );
    assert!(found.components.is_empty());
    let yaml = "rules:\n- match: {a: b}\n  component: {name: Mail}\n- component: {name: DNS}\n";
    let mapping = mapping_file::parse(yaml).expect("it is a mapping");
    let found = unreached(&mapping, &catalogue);
    assert_eq!(found.rules, [Useless::WithoutComponent(&mapping.rules[0])]);
}
