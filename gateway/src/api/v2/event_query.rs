//! The query parameters of the list of events.

use axum::http::Uri;
use shared::domain::{component::ComponentId, timestamp::Timestamp};
use utoipa::IntoParams;

use crate::{
    http::{error::ApiError, query::Query},
    store::events::{EventFilter, Page, STATUSES},
};

/// Sizes of a page; the last is the default.
const SIZES: [u32; 3] = [10, 20, 50];

/// The parameters, for the document.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `read` takes")]
pub(super) struct Parameters {
    /// The page, from 1. One past the end has no events.
    #[param(minimum = 1, maximum = 4_294_967_295_u32)]
    page: Option<u64>,
    /// The number of events on a page: 10, 20 or 50. 50 by default.
    #[param(value_type = Option<u32>, minimum = 10, maximum = 50)]
    limit: Option<u32>,
    /// Only events of these types, with commas between them: `incident`, `maintenance`, `info`.
    #[param(example = "incident,maintenance")]
    r#type: Option<String>,
    /// Only events that are active now: they have started, and have no end or one in the future.
    active: Option<bool>,
    /// Only events with this status.
    status: Option<String>,
    /// Only events that started then or later (RFC 3339).
    start_date: Option<String>,
    /// Only events that ended then or earlier (RFC 3339).
    end_date: Option<String>,
    /// Only events of this impact.
    #[param(minimum = 0, maximum = 3)]
    impact: Option<i16>,
    /// Only events that this service opened and nobody changed, or only others.
    system: Option<bool>,
    /// Only events with one of these components: ids with commas between them.
    #[param(example = "1,2")]
    components: Option<String>,
}

/// # Errors
/// 400 if a parameter is invalid.
pub(super) fn read(uri: &Uri) -> Result<(EventFilter, Page), ApiError> {
    let mut query = Query::new(uri);
    let read = parse(&mut query);
    let invalid = || ApiError::bad_request("filter query parameter has an invalid format or value");
    query.finish().map_err(|_| invalid())?;
    read.ok_or_else(invalid)
}

fn parse(query: &mut Query) -> Option<(EventFilter, Page)> {
    let page = Page {
        index: value(query, "page", |text| text.parse().ok().filter(|page| *page >= 1))?
            .unwrap_or(1),
        size: value(query, "limit", |text| text.parse().ok().filter(|size| SIZES.contains(size)))?
            .unwrap_or(50),
    };
    let filter = EventFilter {
        types: value(query, "type", types)?.unwrap_or((true, true)),
        active: value(query, "active", |text| text.parse().ok())?.unwrap_or(false),
        status: value(query, "status", |text| STATUSES.into_iter().find(|status| *status == text))?,
        start_date: value(query, "start_date", time)?,
        end_date: value(query, "end_date", time)?,
        impact: value(query, "impact", |text| text.parse().ok().filter(|i| (0..=3).contains(i)))?,
        system: value(query, "system", |text| text.parse().ok())?,
        components: value(query, "components", ids)?.unwrap_or_default(),
    };
    Some((filter, page))
}

/// A parameter, which may be absent; none if it is invalid.
fn value<T>(
    query: &mut Query,
    name: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<Option<T>> {
    match query.text(name) {
        None => Some(None),
        Some(text) => parse(&text).map(Some),
    }
}

/// Whether incidents and maintenances are among the types. No event has the type `info`.
fn types(text: &str) -> Option<(bool, bool)> {
    let mut types = (false, false);
    for word in text.split(',') {
        match word {
            "incident" => types.0 = true,
            "maintenance" => types.1 = true,
            "info" => {}
            _ => return None,
        }
    }
    Some(types)
}

/// A time; a `+` that was not encoded arrives as a space.
fn time(text: &str) -> Option<Timestamp> {
    text.replace(' ', "+").parse().ok()
}

fn ids(text: &str) -> Option<Vec<ComponentId>> {
    text.split(',').map(|id| id.parse().ok().map(ComponentId)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_bad_ones_refused() {
        let read = |query: &str| read(&format!("/v2/events?{query}").parse().unwrap());
        let (filter, page) = read("").unwrap();
        assert!(filter.types == (true, true) && page.index == 1 && page.size == 50);
        let all = "page=3&limit=10&type=maintenance,info&active=true&status=impact%20changed&impact=0\
            &start_date=2026-02-03T15:17:26+00:00&end_date=2026-02-03T15:17:26Z&system=false\
            &components=3,1&unknown=x";
        let (filter, page) = read(all).unwrap();
        assert!(
            filter.types == (false, true) && filter.active && page.index == 3 && page.size == 10
        );
        assert_eq!(filter.start_date, filter.end_date);
        assert_eq!(filter.components, [ComponentId(3), ComponentId(1)]);
        for bad in [
            "page=0",
            "page=-1",
            "page=x",
            "page=99999999999",
            "limit=0",
            "limit=11",
            "limit=51",
            "type=",
            "type=incident,other",
            "active=yes",
            "status=unknown",
            "start_date=yesterday",
            "end_date=",
            "impact=4",
            "impact=-1",
            "impact=minor",
            "system=1",
            "components=",
            "components=1,,2",
            "components=a",
            "status=%00",
        ] {
            assert_eq!(read(bad).unwrap_err().status(), 400, "{bad}");
        }
    }
}
