//! The rule, case by case.

use super::{super::parse, *};

/// Entries of a file, each a name, attributes and perhaps more, as YAML has them in one line.
fn entries(lines: &[&str]) -> Vec<CatalogueEntry> {
    let entries = lines.iter().map(|line| format!("- {{name: {line}}}\n"));
    let yaml = format!("components:\n{}", entries.collect::<String>());
    if lines.is_empty() { Vec::new() } else { parse(&yaml).expect(&yaml).entries }
}

/// What the database has, with ids from 1.
fn stored(lines: &[&str]) -> Vec<Component> {
    let component = |(id, entry): (i32, CatalogueEntry)| {
        let CatalogueEntry { name, attributes, .. } = entry;
        Component { id: ComponentId(id), name, attributes }
    };
    (1..).zip(entries(lines)).map(component).collect()
}

/// What the plan does: `=` and a number for what is the same, `+` and a label for what is added, `~`
/// for another category and `>` for a renaming, with the id, `.` and the id for what stays.
fn summary(plan: &CataloguePlan) -> String {
    let mut parts = Vec::new();
    if plan.same > 0 {
        parts.push(format!("={}", plan.same));
    }
    parts.extend(plan.add.iter().map(|entry| format!("+{}", entry.label())));
    for (sign, list) in [("~", &plan.change), (">", &plan.rename)] {
        parts.extend(list.iter().map(|c| format!("{sign}{} {}", c.before.id, c.after.label())));
    }
    parts.extend(plan.stay.iter().map(|component| format!(".{}", component.id)));
    parts.join(" ")
}

/// The database after the plan.
fn applied(existing: Vec<Component>, plan: &CataloguePlan) -> Vec<Component> {
    let mut components: HashMap<ComponentId, Component> =
        existing.into_iter().map(|component| (component.id, component)).collect();
    let mut next = 1 + components.keys().map(|id| id.0).max().unwrap_or_default();
    for Changed { before, after } in plan.change.iter().chain(&plan.rename) {
        let CatalogueEntry { name, attributes, .. } = after.clone();
        components.insert(before.id, Component { id: before.id, name, attributes });
    }
    for CatalogueEntry { name, attributes, .. } in plan.add.clone() {
        components.insert(ComponentId(next), Component { id: ComponentId(next), name, attributes });
        next += 1;
    }
    let mut components: Vec<Component> = components.into_values().collect();
    components.sort_by_key(|component| component.id);
    components
}

/// Each plan, and that the file changes nothing when it is applied again.
fn check(cases: &[(&str, &[&str], &[&str], &str)]) {
    for (case, database, file, expected) in cases {
        let existing = stored(database);
        let plan = CataloguePlan::new(existing.clone(), entries(file)).expect(case);
        assert_eq!(summary(&plan), *expected, "{case}");
        let again = CataloguePlan::new(applied(existing, &plan), entries(file)).expect(case);
        let nothing = again.add.is_empty() && again.change.is_empty() && again.rename.is_empty();
        assert!(nothing, "{case}, again: {}", summary(&again));
    }
}

const VPN_NL: &str = "VPN, attributes: {category: Network, region: EU-NL, type: vpn}";
const VPN_CH: &str = "VPN, attributes: {category: Network, region: EU-CH2, type: vpn}";
const VPN_NL_NEW: &str = "VPN, attributes: {category: Connect, region: EU-NL, type: vpn}";
const VPN_CH_NEW: &str = "VPN, attributes: {category: Connect, region: EU-CH2, type: vpn}";

#[test]
fn what_tells_components_apart_makes_another_component() {
    check(&[
        (
            "all is new",
            &[],
            &[VPN_NL, VPN_CH],
            "+VPN (Network, EU-NL, vpn) +VPN (Network, EU-CH2, vpn)",
        ),
        ("all is there", &[VPN_NL, VPN_CH], &[VPN_CH, VPN_NL], "=2"),
        (
            "another order of the attributes",
            &[VPN_NL],
            &["VPN, attributes: {type: vpn, region: EU-NL, category: Network}"],
            "=1",
        ),
        ("another team's region", &[VPN_NL], &[VPN_CH], "+VPN (Network, EU-CH2, vpn) .1"),
        ("and back", &[VPN_NL, VPN_CH], &[VPN_NL], "=1 .2"),
        ("a third region", &[VPN_NL, VPN_CH], &["VPN, attributes: {region: X}"], "+VPN (X) .1 .2"),
        (
            "another type",
            &[VPN_NL],
            &["VPN, attributes: {category: Network, region: EU-NL, type: evpn}"],
            "+VPN (Network, EU-NL, evpn) .1",
        ),
        ("category and region", &[VPN_NL], &[VPN_CH_NEW], "+VPN (Connect, EU-CH2, vpn) .1"),
        (
            "an attribute of the deployment's own",
            &["VPN, attributes: {stage: live}"],
            &["VPN, attributes: {stage: test}"],
            "+VPN (test) .1",
        ),
        ("a region is added", &["VPN"], &["VPN, attributes: {region: R}"], "+VPN (R) .1"),
        ("a region is taken away", &["VPN, attributes: {region: R}"], &["VPN"], "+VPN () .1"),
        (
            "a type is added",
            &["VPN, attributes: {region: R}"],
            &["VPN, attributes: {region: R, type: vpn}"],
            "+VPN (R, vpn) .1",
        ),
        ("another name", &["VPN"], &["vpn"], "+vpn () .1"),
        (
            "values change places",
            &["A, attributes: {region: R1, type: x}", "A, attributes: {region: R2, type: y}"],
            &["A, attributes: {region: R1, type: y}", "A, attributes: {region: R2, type: x}"],
            "+A (R1, y) +A (R2, x) .1 .2",
        ),
        ("one is not in the file", &["VPN", "CDN"], &["CDN"], "=1 .1"),
    ]);
}

#[test]
fn a_category_is_changed_in_place() {
    check(&[
        ("renamed", &[VPN_NL], &[VPN_NL_NEW], "~1 VPN (Connect, EU-NL, vpn)"),
        (
            "in both regions",
            &[VPN_NL, VPN_CH],
            &[VPN_CH_NEW, VPN_NL_NEW],
            "~2 VPN (Connect, EU-CH2, vpn) ~1 VPN (Connect, EU-NL, vpn)",
        ),
        (
            "beside another team's",
            &[VPN_NL, VPN_CH],
            &[VPN_NL_NEW],
            "~1 VPN (Connect, EU-NL, vpn) .2",
        ),
        (
            "added",
            &["VPN, attributes: {region: R}"],
            &["VPN, attributes: {region: R, category: Net}"],
            "~1 VPN (R, Net)",
        ),
        (
            "taken away",
            &["VPN, attributes: {region: R, category: Net}"],
            &["VPN, attributes: {region: R}"],
            "~1 VPN (R)",
        ),
        (
            "alone",
            &["VPN, attributes: {category: A}"],
            &["VPN, attributes: {category: B}"],
            "~1 VPN (B)",
        ),
        (
            "of two that change places",
            &[
                "A, attributes: {region: R1, category: x}",
                "A, attributes: {region: R2, category: y}",
            ],
            &[
                "A, attributes: {region: R1, category: y}",
                "A, attributes: {region: R2, category: x}",
            ],
            "~1 A (R1, y) ~2 A (R2, x)",
        ),
    ]);
}

/// Components that differ only in their category: the entry could refer to any of them.
#[test]
fn a_category_that_alone_tells_components_apart_is_not_changed() {
    const A: &str = "VPN, attributes: {region: R, category: A}";
    const B: &str = "VPN, attributes: {region: R, category: B}";
    const C: &str = "VPN, attributes: {region: R, category: C}";
    check(&[
        ("two in the database", &[A, B], &[C], "+VPN (R, C) .1 .2"),
        ("two in both", &[A, B], &[A, C], "=1 +VPN (R, C) .2"),
        ("two in the file", &[A], &[B, C], "+VPN (R, B) +VPN (R, C) .1"),
        ("a second one in the file", &[A], &[A, B], "=1 +VPN (R, B)"),
    ]);
    // The same one twice, as two that provision at once leave it.
    let twice = [stored(&[A]), stored(&[A])].concat();
    let twice = (1..).zip(twice).map(|(id, c)| Component { id: ComponentId(id), ..c }).collect();
    let plan = CataloguePlan::new(twice, entries(&[B])).expect("is clear");
    assert_eq!(summary(&plan), "+VPN (R, B) .1 .2");
}

#[test]
fn what_is_renamed_keeps_its_id() {
    const OLD: &str = "Old, attributes: {region: R, type: o, category: A}";
    check(&[
        (
            "its name",
            &[OLD],
            &["New, attributes: {region: R, type: o, category: A}, renamed-from: Old"],
            ">1 New (R, o, A)",
        ),
        (
            "its name and its category",
            &[OLD],
            &["New, attributes: {region: R, type: o, category: B}, renamed-from: Old"],
            ">1 New (R, o, B)",
        ),
        (
            "its region, of which a part is named",
            &[VPN_NL],
            &["VPN, attributes: {region: EU-CH2}, renamed-from: {attributes: {region: EU-NL}}"],
            ">1 VPN (EU-CH2)",
        ),
        (
            "all of it",
            &[OLD],
            &["New, attributes: {region: S}, renamed-from: {name: Old, attributes: {}}"],
            ">1 New (S)",
        ),
        (
            "attributes that it did not have",
            &["VPN"],
            &["VPN, attributes: {region: R}, renamed-from: {attributes: {}}"],
            ">1 VPN (R)",
        ),
        (
            "in each region by itself",
            &["Old, attributes: {region: R1}", "Old, attributes: {region: R2}"],
            &[
                "New, attributes: {region: R2}, renamed-from: Old",
                "New, attributes: {region: R1}, renamed-from: Old",
            ],
            ">2 New (R2) >1 New (R1)",
        ),
        ("not there", &["Other"], &["New, renamed-from: Old"], "+New () .1"),
        ("not there at all", &[], &["New, renamed-from: Old"], "+New ()"),
        ("done already", &["New"], &["New, renamed-from: Old"], "=1"),
        // Somebody has a component of the former name by now: it is theirs.
        (
            "done already, and the old one is back",
            &["New", "Old"],
            &["New, renamed-from: Old"],
            "=1 .2",
        ),
        (
            "done already, but for the category",
            &["New, attributes: {category: A}", "Old"],
            &["New, attributes: {category: B}, renamed-from: Old"],
            "~1 New (B) .2",
        ),
        // A was B's name, and B is C's: with each file by itself.
        ("a chain, first file", &["A"], &["B, renamed-from: A"], ">1 B ()"),
        ("a chain, second file", &["B"], &["C, renamed-from: B"], ">1 C ()"),
        ("a chain, without the second file", &["A"], &["C, renamed-from: B"], "+C () .1"),
        (
            "a chain in one file",
            &["A"],
            &["B, renamed-from: A", "C, renamed-from: B"],
            "+C () >1 B ()",
        ),
        // Swapped names can't be distinguished from unchanged ones.
        ("a swap", &["A", "B"], &["A, renamed-from: B", "B, renamed-from: A"], "=2"),
    ]);
}

#[test]
fn a_renaming_that_is_not_clear_is_refused() {
    const R1: &str = "Old, attributes: {region: R1}";
    const R2: &str = "Old, attributes: {region: R2}";
    for (case, database, file, says) in [
        (
            "several contain what is named",
            &[R1, R2][..],
            &["New, attributes: {region: R1}, renamed-from: {name: Old, attributes: {}}"][..],
            "line 2: renamed-from matches several components, add attributes to identify one of: \
            Old (R1); Old (R2)",
        ),
        (
            "another entry is it",
            &[R1],
            &[R1, "New, attributes: {region: R1}, renamed-from: Old"],
            "line 3: renamed-from means Old (R1), and so does line 2",
        ),
        (
            "another entry is it, but for the category",
            &[R1],
            &[
                "New, attributes: {region: R1}, renamed-from: Old",
                "Old, attributes: {region: R1, category: A}",
            ],
            "line 2: renamed-from means Old (R1), and so does line 3",
        ),
        (
            "two are renamed from it",
            &[R1],
            &[
                "New, attributes: {region: R1}, renamed-from: Old",
                "Newer, attributes: {region: R1}, renamed-from: Old",
            ],
            "line 3: renamed-from means Old (R1), and so does line 2",
        ),
        // What B is now, C was before: which of the two has B's incidents?
        (
            "a chain whose middle is there",
            &["A", "B"],
            &["B, renamed-from: A", "C, renamed-from: B"],
            "line 3: renamed-from means B (), and so does line 2",
        ),
    ] {
        let refused =
            CataloguePlan::new(stored(database), entries(file)).expect_err(case).to_string();
        assert!(refused.contains(says), "{case}: {refused:?} does not say {says:?}");
    }
}

/// A refusal is short, however many candidates there are.
#[test]
fn of_many_that_may_be_renamed_a_few_are_named() {
    let many: Vec<Component> = (1..=5_000)
        .map(|id| Component {
            id: ComponentId(id),
            name: "Old".to_owned(),
            attributes: vec![Attribute { name: "node".to_owned(), value: "n".repeat(200) }],
        })
        .collect();
    let file = entries(&["New, renamed-from: {name: Old, attributes: {}}"]);
    let refused = CataloguePlan::new(many, file).expect_err("is not clear").to_string();
    assert!(refused.ends_with("and 4990 more") && refused.len() < 2_000, "{refused}");
}

/// A real catalogue, and one of its earlier versions, in which a category had another name.
#[test]
fn renamed_categories_of_a_whole_catalogue_are_changed_in_place() {
    let version = |container: &str| -> Vec<CatalogueEntry> {
        let mut lines = Vec::new();
        for region in ["EU-DE", "EU-NL"] {
            for service in 0..50 {
                let category = if service % 5 == 0 { container } else { "Compute" };
                lines.push(format!(
                    "Service {service}, attributes: {{category: {category}, region: {region}, \
                    type: s{service}}}"
                ));
            }
        }
        entries(&lines.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let old = CataloguePlan::new(Vec::new(), version("Container Services")).expect("is clear");
    let database = applied(Vec::new(), &old);
    let plan = CataloguePlan::new(database.clone(), version("Container")).expect("is clear");
    assert_eq!((plan.same, plan.change.len()), (80, 20));
    assert!(plan.add.is_empty() && plan.rename.is_empty() && plan.stay.is_empty());
    let back = CataloguePlan::new(applied(database, &plan), version("Container Services"));
    assert_eq!(back.expect("is clear").change.len(), 20);
}

/// What is added may be what the file does not have, whether that stays or goes.
#[test]
fn a_component_that_may_have_been_renamed_is_noticed() {
    let mut plan = CataloguePlan::new(stored(&[VPN_NL]), entries(&[VPN_CH])).expect("is clear");
    assert!(plan.may_rename());
    plan.remove = std::mem::take(&mut plan.stay);
    assert!(plan.may_rename());
    let other = CataloguePlan::new(stored(&[VPN_NL]), entries(&["New, renamed-from: Old"]));
    assert!(!other.expect("is clear").may_rename());
}
