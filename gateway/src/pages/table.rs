//! The catalogue as a table: category by category, components as rows, regions as columns.

use std::{borrow::Cow, collections::HashMap};

use shared::domain::{
    component::{Component, ComponentId},
    timestamp::Timestamp,
};

use crate::{
    store::bars::Affected,
    view::{
        catalogue::{attribute, region},
        html::{Days, Icon},
        level::Level,
    },
};

/// Heading of the components without a category.
const OTHERS: &str = "Others";

/// The table.
pub(crate) struct Table<'a> {
    /// The regions. One without a name has the components without a region.
    pub(crate) columns: Vec<&'a str>,
    pub(crate) groups: Vec<Group<'a>>,
}

/// The components of a category.
pub(crate) struct Group<'a> {
    pub(crate) name: &'a str,
    pub(crate) rows: Vec<Row<'a>>,
}

/// The components with a name.
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    /// One for each column.
    pub(crate) cells: Vec<Cell<'a>>,
}

/// What a component with that name is like in a region.
pub(crate) struct Cell<'a> {
    pub(crate) column: &'a str,
    /// Mostly one or none.
    pub(crate) components: Vec<State<'a>>,
}

/// The state of a component.
pub(crate) struct State<'a> {
    pub(crate) id: ComponentId,
    /// What tells it from others in the same cell.
    pub(crate) kind: &'a str,
    pub(crate) level: Level,
    pub(crate) icon: Icon,
    pub(crate) days: Days<'a>,
    pub(crate) uptime: String,
}

impl<'a> Table<'a> {
    /// Of components in the order of the catalogue, with the worst impacts that they have now.
    pub(super) fn new(
        components: &[&'a Component],
        impacts: &HashMap<ComponentId, i16>,
        affected: &'a Affected,
        now: Timestamp,
    ) -> Self {
        let is_of_today = affected.is_of_today(now);
        let mut columns: Vec<&str> =
            components.iter().map(|component| region(component).unwrap_or_default()).collect();
        columns.sort_unstable();
        columns.dedup();
        let mut table = Self { columns, groups: Vec::new() };
        let mut rows: HashMap<(&str, &str), (usize, usize)> = HashMap::new();
        for component in components {
            let category = attribute(component, "category").unwrap_or(OTHERS);
            let (group, row) = *rows
                .entry((category, component.name.as_str()))
                .or_insert_with(|| table.add_row(category, &component.name));
            let column = region(component).unwrap_or_default();
            let bar = affected.bar(component.id);
            let impact = impacts.get(&component.id).copied();
            let level = Level::of_worst(impact);
            let state = State {
                id: component.id,
                kind: attribute(component, "type").unwrap_or_default(),
                level,
                icon: Icon(level),
                days: Days {
                    caption: format!("The last {} days", bar.days.len()),
                    days: with_today(&bar.days, impact.filter(|_| is_of_today)),
                },
                uptime: percent(bar.uptime),
            };
            let cells = &mut table.groups[group].rows[row].cells;
            if let Some(cell) = cells.iter_mut().find(|cell| cell.column == column) {
                cell.components.push(state);
            }
        }
        table
    }

    /// Adds a row, and its category if there is none yet; returns their places.
    fn add_row(&mut self, category: &'a str, name: &'a str) -> (usize, usize) {
        let found = self.groups.iter().position(|group| group.name == category);
        let group = found.unwrap_or_else(|| {
            self.groups.push(Group { name: category, rows: Vec::new() });
            self.groups.len() - 1
        });
        let cell = |column: &&'a str| Cell { column, components: Vec::new() };
        let rows = &mut self.groups[group].rows;
        rows.push(Row { name, cells: self.columns.iter().map(cell).collect() });
        (group, rows.len() - 1)
    }
}

/// The days of a bar, of which the last one is at least as bad as the state now: the bar may be older than that.
fn with_today(days: &[Option<i16>], impact: Option<i16>) -> Cow<'_, [Option<i16>]> {
    let mut days = Cow::Borrowed(days);
    if days.last().is_some_and(|last| *last < impact)
        && let Some(last) = days.to_mut().last_mut()
    {
        *last = impact;
    }
    days
}

/// A share in percent. It is not rounded up, so that 100 % is without any outage.
pub(super) fn percent(share: f64) -> String {
    if share >= 100.0 {
        "100 %".to_owned()
    } else {
        format!("{:.2} %", (share * 100.0).floor() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_never_failed_has_all_of_it() {
        for (share, expected) in
            [(100.0, "100 %"), (99.99999, "99.99 %"), (95.5, "95.50 %"), (0.0, "0.00 %")]
        {
            assert_eq!(percent(share), expected);
        }
    }
}
