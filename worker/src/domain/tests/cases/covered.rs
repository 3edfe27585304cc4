//! Rules 1 to 3: what covers a component.

use super::*;

#[test]
fn a_running_maintenance_suppresses_updates() {
    check_all([
        given("a maintenance that started and is to end covers whatever is reported")
            .maintenance(5, DNS, -HOUR, Some(HOUR))
            .update(DNS, Outage, InRunningMaintenance, held_by(5)),
        given("one without an end covers").maintenance(5, DNS, -HOUR, None).update(
            DNS,
            Minor,
            InRunningMaintenance,
            held_by(5),
        ),
        given("it runs from its very start").maintenance(5, DNS, 0, Some(HOUR)).update(
            DNS,
            Minor,
            InRunningMaintenance,
            held_by(5),
        ),
        given("it does not run a microsecond before its start")
            .maintenance(5, DNS, 1, Some(HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("it still runs a microsecond before its end")
            .maintenance(5, DNS, -HOUR, Some(1))
            .update(DNS, Minor, InRunningMaintenance, held_by(5)),
        given("it no longer runs at its very end")
            .maintenance(5, DNS, -HOUR, Some(0))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("one that ends as it starts never runs")
            .maintenance(5, DNS, 0, Some(0))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("one to come does not cover")
            .maintenance(5, DNS, HOUR, Some(2 * HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("an endless one to come does not cover either, as maintenance or as manual incident")
            .maintenance(5, DNS, HOUR, None)
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("one that ended does not cover")
            .maintenance(5, DNS, -2 * HOUR, Some(-HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("any of several counts, not only the first")
            .maintenance(5, DNS, -2 * HOUR, Some(-HOUR))
            .maintenance(6, DNS, -HOUR, Some(HOUR))
            .update(DNS, Outage, InRunningMaintenance, held_by(6)),
        given("of two that run, the oldest is named")
            .maintenance(5, DNS, -HOUR, Some(HOUR))
            .maintenance(6, DNS, -HOUR, None)
            .update(DNS, Outage, InRunningMaintenance, held_by(5)),
        given("that of another component covers only that one")
            .maintenance(5, CDN, -HOUR, Some(HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("it comes before an older manual incident that covers the component, too")
            .manual(5, DNS, Outage, -HOUR, None)
            .maintenance(6, DNS, -HOUR, Some(HOUR))
            .update(DNS, Minor, InRunningMaintenance, held_by(6)),
        given("it comes before a system incident that covers the component, too")
            .system(1, Outage, &[DNS])
            .maintenance(5, DNS, -HOUR, Some(HOUR))
            .update(DNS, Minor, InRunningMaintenance, held_by(5)),
        given("it keeps a system incident of the component from being raised")
            .system(1, Minor, &[DNS])
            .maintenance(5, DNS, -HOUR, Some(HOUR))
            .update(DNS, Outage, InRunningMaintenance, held_by(5)),
    ]);
}

#[test]
fn a_manual_incident_covers_its_impact_and_those_below() {
    check_all([
        given("one of higher impact covers").manual(5, DNS, Outage, -HOUR, None).update(
            DNS,
            Minor,
            CoveredByManualIncident,
            held_by(5),
        ),
        given("one of the same impact covers").manual(5, DNS, Major, -HOUR, None).update(
            DNS,
            Major,
            CoveredByManualIncident,
            held_by(5),
        ),
        given("it counts from its very start").manual(5, DNS, Major, 0, None).update(
            DNS,
            Major,
            CoveredByManualIncident,
            held_by(5),
        ),
        given("it does not count a microsecond before its start")
            .manual(5, DNS, Major, 1, None)
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 major: DNS"]),
        given("one that ended does not count")
            .manual(5, DNS, Outage, -2 * HOUR, Some(-HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("unlike a maintenance, one with an end to come does not count")
            .manual(5, DNS, Outage, -HOUR, Some(HOUR))
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("that of another component covers only that one")
            .manual(5, CDN, Outage, -HOUR, None)
            .update(DNS, Minor, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 minor: DNS"]),
        given("any of several counts, not only the first")
            .manual(5, DNS, Minor, -HOUR, None)
            .manual(6, DNS, Outage, -HOUR, None)
            .update(DNS, Major, CoveredByManualIncident, held_by(6)),
        given("of two that cover, the oldest is named, not the worst")
            .manual(5, DNS, Major, -HOUR, None)
            .manual(6, DNS, Outage, -HOUR, None)
            .update(DNS, Minor, CoveredByManualIncident, held_by(5)),
        given("a maintenance to come beside it does not matter")
            .maintenance(5, DNS, HOUR, Some(2 * HOUR))
            .manual(6, DNS, Minor, -HOUR, None)
            .update(DNS, Minor, CoveredByManualIncident, held_by(6)),
        given("it comes before a system incident that covers the component, too")
            .system(1, Outage, &[DNS])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Minor, CoveredByManualIncident, held_by(5)),
        given("it keeps a system incident of the component from being raised")
            .system(1, Minor, &[DNS])
            .manual(5, DNS, Major, -HOUR, None)
            .update(DNS, Major, CoveredByManualIncident, held_by(5)),
    ]);
}

#[test]
fn an_update_above_a_manual_incident_follows_the_other_rules_beside_it() {
    check_all([
        given("by rule 4 an incident is opened beside it")
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 major: DNS"]),
        given("by rule 4 the component joins another incident beside it")
            .system(1, Major, &[CDN])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Major, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 major: DNS CDN"])
            .writes(&["#1 +0 DNS added"]),
        given("by rule 3 a system incident beside it covers")
            .system(1, Major, &[DNS])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Major, CoveredBySystemIncident, held_by(1)),
        given("by rule 5 a system incident beside it is raised, and the manual one is not")
            .system(1, Minor, &[DNS])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Outage, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 outage: DNS"])
            .writes(&["#1 +0 raised from minor to outage"]),
        given("by rule 5 the component moves beside it")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Outage, &[VPN])
            .manual(5, DNS, Major, -HOUR, None)
            .update(DNS, Outage, MovedToIncidentOfImpact, held_by(2))
            .leaves(&["#1 minor: CDN", "#2 outage: DNS VPN"])
            .writes(&["#1 +0 DNS moved to #2", "#2 +0 DNS moved from #1"]),
        given("by rule 5 the component moves to a new incident beside it")
            .system(1, Minor, &[DNS, CDN])
            .manual(5, DNS, Minor, -HOUR, None)
            .update(DNS, Major, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 minor: CDN", "new0 major: DNS"])
            .writes(&["#1 +0 DNS moved to new0", "new0 +0 DNS moved from #1"]),
        given("nobody joins a manual incident: another component opens one of the same impact")
            .manual(5, CDN, Major, -HOUR, None)
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 major: DNS"]),
    ]);
}

#[test]
fn a_system_incident_covers_its_impact_and_those_below() {
    check_all([
        given("one of the same impact covers").system(1, Major, &[DNS]).update(
            DNS,
            Major,
            CoveredBySystemIncident,
            held_by(1),
        ),
        given("one of higher impact covers, and does not fall").system(1, Outage, &[DNS]).update(
            DNS,
            Minor,
            CoveredBySystemIncident,
            held_by(1),
        ),
        given("it covers even where another incident has exactly the impact")
            .system(1, Outage, &[DNS])
            .system(2, Minor, &[CDN])
            .update(DNS, Minor, CoveredBySystemIncident, held_by(1)),
        given("it covers each of its components")
            .system(1, Major, &[DNS, CDN])
            .with_others(1)
            .update(CDN, Minor, CoveredBySystemIncident, held_by(1)),
        given("of several that have the component, which only others write, the worst covers")
            .system(1, Minor, &[DNS])
            .system(2, Outage, &[DNS])
            .system(3, Major, &[DNS])
            .update(DNS, Minor, CoveredBySystemIncident, held_by(2)),
        given("of several equal ones that have the component, the oldest covers")
            .system(1, Minor, &[DNS])
            .system(2, Major, &[DNS])
            .system(3, Major, &[DNS])
            .update(DNS, Major, CoveredBySystemIncident, held_by(2)),
        given("the components that a batch knows nothing of are not meant")
            .system(1, Major, &[])
            .with_others(1)
            .update(DNS, Major, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 major: DNS and others"])
            .writes(&["#1 +0 DNS added"]),
    ]);
}
