//! Which paths are of the APIs: their requests are traced, and programs read their errors.

/// The first segment of their paths. The document of the API has no others, except feeds, badges, health and
/// metrics.
const APIS: [&str; 3] = ["/api", "/v2", "/alertmanager"];

/// Whether a path is of an API, even if there is nothing at it.
pub(crate) fn is_of_api(path: &str) -> bool {
    APIS.iter().any(|api| {
        path.strip_prefix(api).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}
