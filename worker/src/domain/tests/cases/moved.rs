//! Rules 4 and 5: incidents that open, are joined, raised and left.

use super::*;

#[test]
fn a_component_without_incident_joins_the_one_of_its_impact_or_opens_one() {
    check_all([
        given("where nothing stands, one is opened")
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["new0 major: DNS"]),
        given("it joins the one that has exactly the impact")
            .system(1, Minor, &[CDN])
            .update(DNS, Minor, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 minor: DNS CDN"])
            .writes(&["#1 +0 DNS added"]),
        given("neither a higher nor a lower one is joined")
            .system(1, Minor, &[CDN])
            .system(2, Outage, &[VPN])
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["#1 minor: CDN", "#2 outage: VPN", "new0 major: DNS"]),
        given("of each impact there is one, and that one is taken")
            .system(1, Outage, &[CDN])
            .system(2, Minor, &[VPN])
            .system(3, Major, &[])
            .with_others(3)
            .update(DNS, Major, JoinedIncidentOfImpact, held_by(3))
            .leaves(&["#1 outage: CDN", "#2 minor: VPN", "#3 major: DNS and others"])
            .writes(&["#3 +0 DNS added"]),
        given("of several of one impact, which only others write, the oldest is joined")
            .system(7, Major, &[CDN])
            .system(9, Major, &[VPN])
            .update(DNS, Major, JoinedIncidentOfImpact, held_by(7))
            .leaves(&["#7 major: DNS CDN", "#9 major: VPN"])
            .writes(&["#7 +0 DNS added"]),
        given("one that an operator took every component from is active still, and joined")
            .system(1, Minor, &[])
            .update(DNS, Minor, JoinedIncidentOfImpact, held_by(1))
            .leaves(&["#1 minor: DNS"])
            .writes(&["#1 +0 DNS added"]),
        given("one without components and of another impact stays as it is")
            .system(1, Minor, &[])
            .update(DNS, Major, NoIncidentOfImpact, held_by_new(0))
            .leaves(&["#1 minor: none", "new0 major: DNS"]),
    ]);
}

#[test]
fn a_component_that_gets_worse_moves_to_the_incident_of_its_impact() {
    check_all([
        given("it leaves an incident in which others stay")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Major, &[VPN])
            .update(DNS, Major, MovedToIncidentOfImpact, held_by(2))
            .leaves(&["#1 minor: CDN", "#2 major: DNS VPN"])
            .writes(&["#1 +0 DNS moved to #2", "#2 +0 DNS moved from #1"]),
        given("others that the batch has no updates of stay as well")
            .system(1, Minor, &[DNS])
            .with_others(1)
            .system(2, Major, &[VPN])
            .update(DNS, Major, MovedToIncidentOfImpact, held_by(2))
            .leaves(&["#1 minor: none and others", "#2 major: DNS VPN"])
            .writes(&["#1 +0 DNS moved to #2", "#2 +0 DNS moved from #1"]),
        given("the last one closes the old incident, which keeps it as its history")
            .system(1, Minor, &[DNS])
            .system(2, Outage, &[CDN])
            .update(DNS, Outage, MovedAsOnlyComponent, held_by(2))
            .leaves(&["#2 outage: DNS CDN", "closed #1 minor: DNS"])
            .writes(&["#1 +0 DNS moved to #2", "#1 +1 closed", "#2 +0 DNS moved from #1"]),
        given("an older incident takes it as well as a newer one")
            .system(1, Outage, &[CDN])
            .system(2, Major, &[DNS])
            .update(DNS, Outage, MovedAsOnlyComponent, held_by(1))
            .leaves(&["#1 outage: DNS CDN", "closed #2 major: DNS"])
            .writes(&["#2 +0 DNS moved to #1", "#2 +1 closed", "#1 +0 DNS moved from #2"]),
        given("it moves to exactly its impact, past one between")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Major, &[VPN])
            .system(3, Outage, &[])
            .with_others(3)
            .update(DNS, Outage, MovedToIncidentOfImpact, held_by(3))
            .leaves(&["#1 minor: CDN", "#2 major: VPN", "#3 outage: DNS and others"])
            .writes(&["#1 +0 DNS moved to #3", "#3 +0 DNS moved from #1"]),
        given("an incident without components takes it, too")
            .system(1, Minor, &[DNS])
            .system(2, Major, &[])
            .update(DNS, Major, MovedAsOnlyComponent, held_by(2))
            .leaves(&["#2 major: DNS", "closed #1 minor: DNS"])
            .writes(&["#1 +0 DNS moved to #2", "#1 +1 closed", "#2 +0 DNS moved from #1"]),
        given("of several of one impact, which only others write, the oldest takes it")
            .system(1, Minor, &[DNS, CDN])
            .system(7, Major, &[VPN])
            .system(9, Major, &[])
            .update(DNS, Major, MovedToIncidentOfImpact, held_by(7))
            .leaves(&["#1 minor: CDN", "#7 major: DNS VPN", "#9 major: none"])
            .writes(&["#1 +0 DNS moved to #7", "#7 +0 DNS moved from #1"]),
        given("of several that have it, which only others write, it leaves the worst")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Major, &[DNS])
            .system(3, Outage, &[VPN])
            .update(DNS, Outage, MovedAsOnlyComponent, held_by(3))
            .leaves(&["#1 minor: DNS CDN", "#3 outage: DNS VPN", "closed #2 major: DNS"])
            .writes(&["#2 +0 DNS moved to #3", "#2 +1 closed", "#3 +0 DNS moved from #2"]),
    ]);
}

#[test]
fn a_lone_component_that_gets_worse_raises_its_incident() {
    check_all([
        given("the impact rises; title and start stay")
            .system(1, Minor, &[DNS])
            .update(DNS, Major, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 major: DNS"])
            .writes(&["#1 +0 raised from minor to major"]),
        given("it rises to the impact that is reported, not by one step")
            .system(1, Minor, &[DNS])
            .update(DNS, Outage, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 outage: DNS"])
            .writes(&["#1 +0 raised from minor to outage"]),
        given("an incident of a yet higher impact is no place to move to")
            .system(1, Minor, &[DNS])
            .system(2, Outage, &[CDN])
            .update(DNS, Major, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 major: DNS", "#2 outage: CDN"])
            .writes(&["#1 +0 raised from minor to major"]),
        given("nor is one between")
            .system(1, Minor, &[DNS])
            .system(2, Major, &[CDN])
            .update(DNS, Outage, RaisedAsOnlyComponent, held_by(1))
            .leaves(&["#1 outage: DNS", "#2 major: CDN"])
            .writes(&["#1 +0 raised from minor to outage"]),
        given("of several that have it, which only others write, the worst is raised")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Major, &[DNS])
            .update(DNS, Outage, RaisedAsOnlyComponent, held_by(2))
            .leaves(&["#1 minor: DNS CDN", "#2 outage: DNS"])
            .writes(&["#2 +0 raised from major to outage"]),
    ]);
}

#[test]
fn a_component_that_gets_worse_than_its_companions_moves_to_a_new_incident() {
    check_all([
        given("the others stay at their impact")
            .system(1, Minor, &[DNS, CDN])
            .update(DNS, Major, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 minor: CDN", "new0 major: DNS"])
            .writes(&["#1 +0 DNS moved to new0", "new0 +0 DNS moved from #1"]),
        given("others that the batch has no updates of stay as well")
            .system(1, Major, &[DNS])
            .with_others(1)
            .update(DNS, Outage, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 major: none and others", "new0 outage: DNS"])
            .writes(&["#1 +0 DNS moved to new0", "new0 +0 DNS moved from #1"]),
        given("incidents of other impacts, higher or between, are no place to move to")
            .system(1, Minor, &[DNS, CDN])
            .system(2, Outage, &[VPN])
            .update(DNS, Major, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 minor: CDN", "#2 outage: VPN", "new0 major: DNS"])
            .writes(&["#1 +0 DNS moved to new0", "new0 +0 DNS moved from #1"]),
        given("of several that have it, which only others write, it leaves the worst")
            .system(1, Minor, &[DNS])
            .system(2, Major, &[DNS, CDN])
            .update(DNS, Outage, MovedToNewIncident, held_by_new(0))
            .leaves(&["#1 minor: DNS", "#2 major: CDN", "new0 outage: DNS"])
            .writes(&["#2 +0 DNS moved to new0", "new0 +0 DNS moved from #2"]),
    ]);
}
