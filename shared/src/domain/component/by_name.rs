//! Finds components by what clients, operators and catalogue files call them: a name and attributes.

use std::collections::HashMap;

use super::{Attribute, Component};

/// Candidates that an error message names, at most.
const NAMED_CANDIDATES: usize = 10;
/// Components of one name from which on an index by attribute pays for its memory.
const INDEXED_FROM: usize = 16;

/// Components by name. To find one costs about the same however many there are.
pub struct ByName {
    components: Vec<Component>,
    names: HashMap<String, Named>,
}

/// The components of one name, as places in [`ByName::components`], fewest attributes first and then
/// in order of their ids: the exact match of several attributes comes before the larger ones.
struct Named {
    all: Vec<usize>,
    /// Those with an attribute; none where they are few.
    with: Option<HashMap<Attribute, Vec<usize>>>,
}

/// Why no component could be found for a name and attributes.
#[derive(Debug, PartialEq, Eq)]
pub enum NoComponent<'a> {
    /// None has these.
    NotFound,
    /// Several have these attributes and more.
    Ambiguous(Candidates<'a>),
}

/// The components that may be meant.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidates<'a> {
    /// The first of them.
    pub first: Vec<&'a Component>,
    /// How many more there are.
    pub more: usize,
}

impl Candidates<'_> {
    /// The first ones, each as `show` has it, and how many more there are.
    #[must_use]
    pub fn list(&self, show: impl Fn(&Component) -> String) -> String {
        let mut shown: Vec<String> = self.first.iter().map(|component| show(component)).collect();
        if self.more > 0 {
            shown.push(format!("and {} more", self.more));
        }
        shown.join("; ")
    }
}

impl ByName {
    /// From components in order of their ids.
    #[must_use]
    pub fn new(components: Vec<Component>) -> Self {
        let mut places: Vec<usize> = (0..components.len()).collect();
        // Stable: equal ones stay in order of their ids.
        places.sort_by_key(|place| components[*place].attributes.len());
        let mut names: HashMap<String, Named> = HashMap::new();
        for place in places {
            let name = &components[place].name;
            if !names.contains_key(name) {
                names.insert(name.clone(), Named { all: Vec::new(), with: None });
            }
            if let Some(named) = names.get_mut(name) {
                named.all.push(place);
            }
        }
        for named in names.values_mut().filter(|named| named.all.len() >= INDEXED_FROM) {
            let mut with: HashMap<Attribute, Vec<usize>> = HashMap::new();
            for place in &named.all {
                for attribute in &components[*place].attributes {
                    let places = with.entry(attribute.clone()).or_default();
                    // Nothing forbids a database to have an attribute twice.
                    if places.last() != Some(place) {
                        places.push(*place);
                    }
                }
            }
            named.with = Some(with);
        }
        Self { components, names }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.components.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.components.is_empty()
    }

    /// The component with this id.
    #[must_use]
    pub fn get(&self, id: super::ComponentId) -> Option<&Component> {
        let place = self.components.binary_search_by_key(&id, |component| component.id).ok()?;
        self.components.get(place)
    }

    /// The component with this name and exactly these attributes, the lowest id of several; failing
    /// that, the only one with this name whose attributes contain these.
    ///
    /// # Errors
    /// When there is none such, or several contain them.
    pub fn find(
        &self,
        name: &str,
        attributes: &[Attribute],
    ) -> Result<&Component, NoComponent<'_>> {
        let candidates = self.names.get(name).map_or(&[][..], |named| named.candidates(attributes));
        let component = |place: &usize| &self.components[*place];
        // Those with fewer attributes can't contain these.
        let smaller =
            candidates.partition_point(|c| component(c).attributes.len() < attributes.len());
        let mut containing = candidates[smaller..]
            .iter()
            .map(component)
            .filter(|component| attributes.iter().all(|a| component.attributes.contains(a)));
        let first = containing.next().ok_or(NoComponent::NotFound)?;
        if first.attributes.len() == attributes.len() {
            return Ok(first);
        }
        let Some(second) = containing.next() else { return Ok(first) };
        let mut first = vec![first, second];
        first.extend(containing.by_ref().take(NAMED_CANDIDATES - 2));
        Err(NoComponent::Ambiguous(Candidates { first, more: containing.count() }))
    }
}

impl Named {
    /// Those that may have all of these attributes: where there is an index, those with the rarest.
    fn candidates(&self, attributes: &[Attribute]) -> &[usize] {
        let Some(with) = &self.with else { return &self.all };
        attributes
            .iter()
            .map(|attribute| with.get(attribute).map_or(&[][..], Vec::as_slice))
            .min_by_key(|places| places.len())
            .unwrap_or(&self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::ComponentId, *};

    fn attributes(pairs: &[(&str, &str)]) -> Vec<Attribute> {
        pairs
            .iter()
            .map(|(name, value)| Attribute { name: (*name).into(), value: (*value).into() })
            .collect()
    }

    /// Their ids begin with 1.
    fn by_name(components: &[(&str, &[(&str, &str)])], more: Vec<Component>) -> ByName {
        let components = (1..).zip(components).map(|(id, (name, pairs))| Component {
            id: ComponentId(id),
            name: (*name).into(),
            attributes: attributes(pairs),
        });
        ByName::new(components.chain(more).collect())
    }

    /// Name, attributes, the id found or those of the candidates; with few components of the name, and
    /// with so many that they are indexed.
    #[test]
    fn exact_matches_win_and_larger_ones_must_be_unambiguous() {
        let others = |count: i32| {
            (0..count).map(|number| Component {
                id: ComponentId(100 + number),
                name: "DNS".into(),
                attributes: attributes(&[("region", "R9"), ("node", &number.to_string())]),
            })
        };
        for count in [0, 100] {
            let components = by_name(
                &[
                    ("DNS", &[("region", "R1"), ("type", "dns")]),
                    ("DNS", &[("region", "R2"), ("type", "dns")]),
                    ("DNS", &[("region", "R1")]),
                    ("DNS", &[("region", "R1")]),
                    ("CDN", &[("region", "R1"), ("type", "cdn")]),
                ],
                others(count).collect(),
            );
            let several = |ids: &[i32]| Err(Some(ids.to_vec()));
            for (name, wanted, expected) in [
                // All of its attributes, in another order.
                ("DNS", &[("type", "dns"), ("region", "R1")][..], Ok(1)),
                // Exact before larger, and of two exact ones the lowest id.
                ("DNS", &[("region", "R1")], Ok(3)),
                // One larger one.
                ("DNS", &[("region", "R2")], Ok(2)),
                ("CDN", &[], Ok(5)),
                // Several larger ones.
                ("DNS", &[("type", "dns")], several(&[1, 2])),
                // None.
                ("DNS", &[("region", "R3")], Err(None)),
                ("DN", &[], Err(None)),
                ("CDN", &[("region", "R1"), ("type", "cdn"), ("more", "x")], Err(None)),
            ] {
                let found = components.find(name, &attributes(wanted));
                let found = found.map(|component| component.id.0).map_err(|none| match none {
                    NoComponent::NotFound => None,
                    NoComponent::Ambiguous(candidates) => {
                        Some(candidates.first.iter().map(|c| c.id.0).collect())
                    }
                });
                assert_eq!(found, expected, "{name} {wanted:?} among {count}");
            }
        }
    }

    #[test]
    fn of_many_candidates_a_few_are_named() {
        let many = (1..=1_000).map(|id| Component {
            id: ComponentId(id),
            name: "DNS".into(),
            attributes: attributes(&[("region", "R1"), ("node", &id.to_string())]),
        });
        let components = ByName::new(many.collect());
        for wanted in [attributes(&[("region", "R1")]), Vec::new()] {
            let Err(NoComponent::Ambiguous(candidates)) = components.find("DNS", &wanted) else {
                panic!("{wanted:?} is not ambiguous");
            };
            assert_eq!((candidates.first.len(), candidates.more), (10, 990));
            let list = candidates.list(Component::label);
            assert!(list.starts_with("DNS (R1, 1); DNS (R1, 2)"), "{list}");
            assert!(list.ends_with("DNS (R1, 10); and 990 more"), "{list}");
        }
    }

    /// What is looked at is counted, not timed: the places under the rarest attribute.
    #[test]
    fn the_search_looks_at_those_with_the_rarest_attribute() {
        let many = (1..=1_000).map(|id| Component {
            id: ComponentId(id),
            name: "DNS".into(),
            attributes: attributes(&[("region", "R1"), ("node", &id.to_string())]),
        });
        let components = ByName::new(many.collect());
        let named = &components.names["DNS"];
        for (wanted, looked_at) in [
            (&[("region", "R1"), ("node", "7")][..], 1),
            (&[("node", "7"), ("region", "R1")], 1),
            (&[("node", "none"), ("region", "R1")], 0),
            (&[("region", "R1")], 1_000),
        ] {
            assert_eq!(named.candidates(&attributes(wanted)).len(), looked_at, "{wanted:?}");
        }
        let seventh = components.find("DNS", &attributes(&[("node", "7")])).map(|c| c.id.0);
        assert_eq!(seventh, Ok(7));
    }
}
