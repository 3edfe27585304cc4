//! Finds components by name and attributes, as clients, operators and catalogue files refer to them.

use std::collections::HashMap;

use super::{Attribute, Component, ComponentId};

/// Maximum number of candidates that an error message names.
const NAMED_CANDIDATES: usize = 10;
/// Number of components of one name from which an index by attribute is worth its memory.
const INDEXED_FROM: usize = 16;

/// Components by name. The cost of a search hardly depends on their number.
pub struct ByName {
    components: Vec<Component>,
    names: HashMap<String, Named>,
}

/// The components of one name, as positions in [`ByName::components`], ordered by the number of
/// attributes and then by id, so that an exact match precedes components with more attributes.
struct Named {
    all: Vec<usize>,
    /// The components with each attribute; none if there are few components.
    with: Option<HashMap<Attribute, Vec<usize>>>,
}

/// Why no component could be found for a name and attributes.
#[derive(Debug, PartialEq, Eq)]
pub enum NoComponent<'a> {
    /// No component has this name and these attributes.
    NotFound,
    /// Several components have these attributes and more, and none has exactly these.
    Ambiguous(Candidates<'a>),
}

/// The components to which a name and attributes may refer.
#[derive(Debug, PartialEq, Eq)]
pub struct Candidates<'a> {
    /// The first few.
    pub first: Vec<&'a Component>,
    /// How many more there are.
    pub more: usize,
}

impl Candidates<'_> {
    /// The first few, each formatted by `show`, and the number of further ones.
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
        // The sort is stable, so components with equally many attributes stay ordered by id.
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
                    // A database may have an attribute twice.
                    if places.last() != Some(place) {
                        places.push(*place);
                    }
                }
            }
            named.with = Some(with);
        }
        Self { components, names }
    }

    /// The number of components.
    #[must_use]
    pub fn len(&self) -> usize {
        self.components.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.components.is_empty()
    }

    /// The one with this id.
    #[must_use]
    pub fn with_id(&self, id: ComponentId) -> Option<&Component> {
        let place = self.components.binary_search_by_key(&id, |component| component.id).ok()?;
        self.components.get(place)
    }

    /// All of them, in order of their ids.
    #[must_use]
    pub fn all(&self) -> &[Component] {
        &self.components
    }

    /// The component with this name and exactly these attributes, the lowest id of several; otherwise
    /// the only component with this name whose attributes include these.
    ///
    /// # Errors
    /// If there is no such component, or if several include them.
    pub fn find(
        &self,
        name: &str,
        attributes: &[Attribute],
    ) -> Result<&Component, NoComponent<'_>> {
        let candidates = self.names.get(name).map_or(&[][..], |named| named.candidates(attributes));
        let component = |place: &usize| &self.components[*place];
        // Components with fewer attributes can't include these.
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
    /// The components that may have all of these attributes: with an index, those with the rarest one.
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

    /// Name, attributes, the id found or the ids of the candidates; once with few components of the name,
    /// and once with enough for an index.
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

    /// Counts the examined components instead of measuring time: those with the rarest attribute.
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
