//! The two lists: what they show, in which order, and how they travel.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use futures_util::future::join_all;
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use harness::{Answer, Fixture, System, answer, eventually, eventually_within, tests};

tests!(
    incidents_are_listed_with_the_newest_start_first,
    incidents_are_filtered_by_whether_they_stand_and_by_impact,
    pages_show_every_incident_once,
    components_are_listed_by_id_with_their_incidents,
    components_are_filtered_by_a_literal_prefix_of_the_name,
    components_are_filtered_by_an_attribute,
    a_name_with_an_attribute_gives_one_component,
    active_components_show_only_incidents_that_stand_now,
    parameters_that_cannot_be_used_are_named,
    lists_are_public,
    a_list_that_the_client_has_is_not_sent_again,
    every_foreign_write_shows_at_once,
    a_transaction_shows_when_it_commits,
    what_changes_nothing_leaves_the_tag,
    active_lists_change_when_a_window_opens_or_closes,
    lists_are_compressed_where_the_client_accepts_it,
    head_has_the_headers_and_no_body,
    a_list_is_read_once_for_all_who_wait_for_it,
    a_large_list_is_streamed_whole,
    a_reader_that_stops_keeps_others_from_large_lists_alone,
    a_reader_that_takes_nothing_is_ended,
    a_large_list_that_nobody_reads_on_leaves_no_statement,
    what_has_no_content_reads_none,
    a_slow_reader_holds_no_snapshot_and_is_cut_off,
    a_list_that_cannot_be_read_fails_for_all_who_wait_at_once,
);

const INCIDENTS: &str = "/api/v1/incidents";
const COMPONENTS: &str = "/api/v1/component_status";

fn ids(list: &Value) -> Vec<i64> {
    list.as_array().into_iter().flatten().filter_map(|item| item["id"].as_i64()).collect()
}

fn same(found: &Value, expected: &Value) -> Result<()> {
    ensure!(found == expected, "found {found:#}, not {expected:#}");
    Ok(())
}

/// What a list is without its reading: the bytes as they come.
struct Got {
    status: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as the client sees it.
    fn decoded(&self) -> Result<Vec<u8>> {
        match self.header("content-encoding") {
            "" => Ok(self.bytes.clone()),
            "gzip" => {
                let mut plain = Vec::new();
                GzDecoder::new(self.bytes.as_slice()).read_to_end(&mut plain)?;
                Ok(plain)
            }
            other => anyhow::bail!("coded as {other}"),
        }
    }
}

/// Asks for a list with these headers and without a token.
async fn ask(system: &System, method: Method, path: &str, headers: &[(&str, &str)]) -> Result<Got> {
    let request = system.request_to(0, method, path);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Got { status, headers, bytes: response.bytes().await?.into() })
}

async fn get(system: &System, path: &str, headers: &[(&str, &str)]) -> Result<Got> {
    ask(system, Method::GET, path, headers).await
}

/// The tag of a list as it is now.
async fn tag(system: &System, path: &str) -> Result<String> {
    let list = get(system, path, &[]).await?;
    ensure!(list.status == 200 && list.header("etag").starts_with("W/\""), "{:?}", list.headers);
    Ok(list.header("etag").to_owned())
}

/// Incidents 1 to 8, starting that many hours from now or ending so, of impacts 0 to 3.
async fn windows(system: &System) -> Result<()> {
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date, end_date)
            SELECT text, impact, system,
                now() AT TIME ZONE 'UTC' + make_interval(hours => first),
                now() AT TIME ZONE 'UTC' + make_interval(hours => last)
            FROM (VALUES
                ('open, by a person', 1, false, -5, NULL),
                ('over', 2, true, -8, -7),
                ('open, by the system', 3, true, -2, NULL),
                ('running maintenance', 0, false, -1, 2),
                ('maintenance that is over', 0, false, -9, -1),
                ('maintenance to come', 0, false, 3, 4),
                ('to come, without an end', 1, false, 1, NULL),
                ('known to end', 2, false, -4, 1)
            ) AS incidents (text, impact, system, first, last);
            INSERT INTO incident_status (incident_id, \"timestamp\", text, status) VALUES
                (1, '2024-01-01 10:00:00', 'first', 'analyzing'),
                (1, '2024-01-01 12:00:00', 'third', 'fixing'),
                (1, '2024-01-01 11:59:59.999', 'second', 'SYSTEM');",
        )
        .await
}

async fn incidents_are_listed_with_the_newest_start_first(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    same(&system.get(INCIDENTS).await?.body, &json!([]))?;
    windows(&system).await?;
    let list = system.get(INCIDENTS).await?;
    ensure!(list.status == 200 && list.header("content-type") == "application/json", "{list:?}");
    ensure!(ids(&list.body) == [6, 7, 4, 3, 8, 1, 2, 5], "{:?}", ids(&list.body));
    let stored: Value = sqlx::query_scalar(
        r#"SELECT json_agg(json_build_object('id', id, 'text', text, 'impact', impact,
            'start_date', to_char(start_date, 'YYYY-MM-DD HH24:MI'),
            'end_date', to_char(end_date, 'YYYY-MM-DD HH24:MI'),
            'updates', (SELECT coalesce(json_agg(json_build_object('status', status, 'text', text,
                'timestamp', to_char("timestamp", 'YYYY-MM-DD HH24:MI'))
                ORDER BY "timestamp" DESC), '[]')
                FROM incident_status WHERE incident_id = incident.id))
            ORDER BY start_date DESC) FROM incident"#,
    )
    .fetch_one(&system.database)
    .await?;
    same(&list.body, &stored)?;
    let updates = json!([
        { "status": "fixing", "text": "third", "timestamp": "2024-01-01 12:00" },
        { "status": "SYSTEM", "text": "second", "timestamp": "2024-01-01 11:59" },
        { "status": "analyzing", "text": "first", "timestamp": "2024-01-01 10:00" },
    ]);
    same(&list.body[5]["updates"], &updates)?;
    system.finish().await
}

async fn incidents_are_filtered_by_whether_they_stand_and_by_impact(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = System::start(&fixture).await?;
    windows(&system).await?;
    for (query, expected) in [
        ("", &[6, 7, 4, 3, 8, 1, 2, 5][..]),
        ("active=true", &[4, 3, 8, 1]),
        ("active=false", &[6, 7, 4, 3, 8, 1, 2, 5]),
        ("impact=0", &[6, 4, 5]),
        ("impact=maintenance", &[6, 4, 5]),
        ("impact=1", &[7, 1]),
        ("impact=minor", &[7, 1]),
        ("impact=2", &[8, 2]),
        ("impact=major", &[8, 2]),
        ("impact=3", &[3]),
        ("impact=outage", &[3]),
        ("impact=2&active=true", &[8]),
        ("active=true&impact=0", &[4]),
        ("limit=3", &[6, 7, 4]),
        ("limit=1000", &[6, 7, 4, 3, 8, 1, 2, 5]),
        ("active=true&limit=2", &[4, 3]),
        ("unknown=1&start=2", &[6, 7, 4, 3, 8, 1, 2, 5]),
    ] {
        let list = system.get(&format!("{INCIDENTS}?{query}")).await?;
        ensure!(list.status == 200 && ids(&list.body) == expected, "{query}: {list:?}");
    }
    system.finish().await
}

/// The address in a `Link` header to the next page, if there is one.
fn next(page: &Answer) -> Result<Option<String>> {
    let link = page.header("link");
    if link.is_empty() {
        return Ok(None);
    }
    let address = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    Ok(Some(address.with_context(|| format!("not a link: {link}"))?.to_owned()))
}

async fn pages_show_every_incident_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::start(&fixture).await?;
    // Many start together, and some differ by a microsecond alone.
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            SELECT 'Incident ' || n, n % 4, false,
                timestamp '2024-05-01 12:00' - make_interval(hours => n / 9)
                    + n % 2 * interval '1 microsecond'
            FROM generate_series(1, 50) AS n",
        )
        .await?;
    for filter in ["", "impact=2", "active=true", "active=true&impact=minor"] {
        let whole = system.get(&format!("{INCIDENTS}?{filter}")).await?.body;
        let whole = whole.as_array().context("no list")?;
        ensure!(whole.len() >= 12, "{filter}: {}", whole.len());
        for limit in [1, 2, 4, 12, 13, 50, 51, 1_000] {
            let mut shown: Vec<Value> = Vec::new();
            let mut address = Some(format!("{INCIDENTS}?limit={limit}&{filter}"));
            while let Some(path) = address {
                let page = system.get(&path).await?;
                ensure!(page.status == 200, "{path}: {page:?}");
                let incidents = page.body.as_array().context("no list")?;
                ensure!(incidents.len() <= limit, "{path} shows {}", incidents.len());
                shown.extend_from_slice(incidents);
                ensure!(shown.len() <= whole.len(), "{path} goes on and on");
                address = next(&page)?;
                ensure!(address.is_none() || incidents.len() == limit, "{path} is not full");
            }
            ensure!(&shown == whole, "{filter} by {limit}: {:?}", ids(&json!(shown)));
        }
    }
    // What comes in meanwhile is newer, and shifts nothing.
    let first = system.get(&format!("{INCIDENTS}?limit=20")).await?;
    system
        .sql(
            "INSERT INTO incident (text, impact, system, start_date)
            SELECT 'New', 1, false, '2024-06-01' FROM generate_series(1, 7)",
        )
        .await?;
    let second = system.get(&next(&first)?.context("no second page")?).await?;
    let third = system.get(&next(&second)?.context("no third page")?).await?;
    ensure!(next(&third)?.is_none(), "{third:?}");
    let shown: Vec<i64> = [&first, &second, &third].iter().flat_map(|p| ids(&p.body)).collect();
    let whole = ids(&system.get(INCIDENTS).await?.body);
    ensure!(shown == whole[7..], "{shown:?}");
    // Without a limit there are no pages.
    ensure!(system.get(INCIDENTS).await?.header("link").is_empty());
    system.finish().await
}

/// Names, attributes.
type Catalogue = [(&'static str, &'static [(&'static str, &'static str)])];

async fn with(fixture: &Arc<Fixture>, components: &Catalogue) -> Result<System> {
    let system = System::start(fixture).await?;
    system.components(components).await?;
    Ok(system)
}

const CATALOGUE: &Catalogue = &[
    ("DNS", &[("region", "R1"), ("category", "Network")]),
    ("DNS", &[("region", "R2"), ("category", "Network")]),
    ("DNS server", &[("region", "R1")]),
    ("CDN", &[("zone", "R1")]),
    ("DNS", &[("region", "R1")]),
    ("50% off", &[]),
    ("50 percent", &[]),
    ("a_b", &[]),
    ("axb", &[]),
    ("a\\b", &[]),
    ("Größe & <b>", &[("region", "R 1&2")]),
];

async fn components_are_listed_by_id_with_their_incidents(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    system
        .sql(
            "INSERT INTO incident_component_relation VALUES
                (2, 1), (1, 1), (6, 1), (3, 2), (1, 2), (5, 4)",
        )
        .await?;
    let incidents = system.get(INCIDENTS).await?.body;
    let incident = |id: i64| {
        let found = incidents.as_array().into_iter().flatten().find(|i| i["id"] == id);
        found.cloned().unwrap_or_default()
    };
    let list = system.get(COMPONENTS).await?;
    ensure!(list.status == 200 && list.header("content-type") == "application/json", "{list:?}");
    let expected = json!([
        {
            "id": 1, "name": "DNS",
            "attributes": [
                { "name": "region", "value": "R1" },
                { "name": "category", "value": "Network" },
            ],
            "incidents": [incident(6), incident(1), incident(2)],
        },
        {
            "id": 2, "name": "DNS",
            "attributes": [
                { "name": "region", "value": "R2" },
                { "name": "category", "value": "Network" },
            ],
            "incidents": [incident(3), incident(1)],
        },
        {
            "id": 3, "name": "DNS server",
            "attributes": [{ "name": "region", "value": "R1" }],
            "incidents": [],
        },
        {
            "id": 4, "name": "CDN",
            "attributes": [{ "name": "zone", "value": "R1" }],
            "incidents": [incident(5)],
        },
    ]);
    same(&list.body, &expected)?;
    system.finish().await
}

async fn components_are_filtered_by_a_literal_prefix_of_the_name(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with(&fixture, CATALOGUE).await?;
    for (name, expected) in [
        ("", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11][..]),
        ("DNS", &[1, 2, 3, 5]),
        ("DNS%20", &[3]),
        ("DNS+s", &[3]),
        ("dns", &[]),
        ("NS", &[]),
        ("%25", &[]),
        ("50", &[6, 7]),
        ("50%25", &[6]),
        ("_", &[]),
        ("a_", &[8]),
        ("a", &[8, 9, 10]),
        ("a%5C", &[10]),
        ("Gr%C3%B6%C3%9Fe%20%26%20%3C", &[11]),
        ("'%20OR%20''='", &[]),
    ] {
        let list = system.get(&format!("{COMPONENTS}?name={name}")).await?;
        ensure!(list.status == 200 && list.body.is_array(), "{name}: {list:?}");
        ensure!(ids(&list.body) == expected, "{name}: {:?}", ids(&list.body));
    }
    system.finish().await
}

async fn components_are_filtered_by_an_attribute(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, CATALOGUE).await?;
    for (name, value, expected) in [
        ("region", "R1", &[1, 3, 5][..]),
        ("region", "R2", &[2]),
        ("category", "Network", &[1, 2]),
        ("zone", "R1", &[4]),
        ("region", "R%201%262", &[11]),
        ("region", "R", &[]),
        ("region", "%25", &[]),
        ("region", "", &[]),
        ("Region", "R1", &[]),
        ("nothing", "R1", &[]),
    ] {
        let path = format!("{COMPONENTS}?attribute_name={name}&attribute_value={value}");
        let list = system.get(&path).await?;
        ensure!(list.status == 200 && list.body.is_array(), "{path}: {list:?}");
        ensure!(ids(&list.body) == expected, "{path}: {:?}", ids(&list.body));
        ensure!(list.header("etag").starts_with("W/\""), "{path}: {list:?}");
    }
    system.finish().await
}

async fn a_name_with_an_attribute_gives_one_component(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    system.sql("INSERT INTO incident_component_relation VALUES (2, 1), (3, 1), (1, 5)").await?;
    let whole = system.get(COMPONENTS).await?.body;
    for (name, attribute, value, id) in [
        // The lowest of components 1 and 5.
        ("DNS", "region", "R1", 1),
        ("DNS", "region", "R2", 2),
        ("DNS%20server", "region", "R1", 3),
        ("Gr%C3%B6%C3%9Fe%20%26%20%3Cb%3E", "region", "R%201%262", 11),
    ] {
        let path =
            format!("{COMPONENTS}?name={name}&attribute_name={attribute}&attribute_value={value}");
        let one = system.get(&path).await?;
        ensure!(one.status == 200 && one.body.is_object(), "{path}: {one:?}");
        same(&one.body, &whole[id - 1])?;
    }
    let path = format!("{COMPONENTS}?name=DNS&attribute_name=region&attribute_value=R1");
    let active = system.get(&format!("{path}&active=true")).await?;
    ensure!(active.body["id"] == 1 && ids(&active.body["incidents"]) == [3], "{active:?}");
    for (name, attribute, value) in [
        // The name is exact.
        ("DN", "region", "R1"),
        ("dns", "region", "R1"),
        ("DNS", "region", "R3"),
        ("DNS", "zone", "R1"),
        ("Nobody", "region", "R1"),
        ("", "region", "R1"),
    ] {
        let path =
            format!("{COMPONENTS}?name={name}&attribute_name={attribute}&attribute_value={value}");
        let none = system.get(&path).await?;
        ensure!(none.status == 404 && none.body["code"] == 404, "{path}: {none:?}");
        ensure!(none.body["status"] == "Not Found", "{path}: {none:?}");
        ensure!(none.body["message"].is_string(), "{path}: {none:?}");
    }
    system.finish().await
}

async fn active_components_show_only_incidents_that_stand_now(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &CATALOGUE[..3]).await?;
    windows(&system).await?;
    system
        .sql(
            "INSERT INTO incident_component_relation SELECT id, 1 FROM incident;
            INSERT INTO incident_component_relation VALUES (2, 2);",
        )
        .await?;
    for (query, expected) in [
        ("active=true", vec![vec![4, 3, 8, 1], vec![], vec![]]),
        ("active=false", vec![vec![6, 7, 4, 3, 8, 1, 2, 5], vec![2], vec![]]),
        ("active=true&name=DNS%20", vec![vec![]]),
        ("active=true&attribute_name=region&attribute_value=R1", vec![vec![4, 3, 8, 1], vec![]]),
    ] {
        let list = system.get(&format!("{COMPONENTS}?{query}")).await?;
        let shown: Vec<Vec<i64>> =
            list.body.as_array().into_iter().flatten().map(|c| ids(&c["incidents"])).collect();
        ensure!(shown == expected, "{query}: {shown:?}");
    }
    system.finish().await
}

async fn parameters_that_cannot_be_used_are_named(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    for (path, query, fields) in [
        (COMPONENTS, "attribute_name=region", &["attribute_value"][..]),
        (COMPONENTS, "attribute_value=R1", &["attribute_name"]),
        (COMPONENTS, "name=DNS&attribute_name=region", &["attribute_value"]),
        (COMPONENTS, "name=DNS&attribute_value=R1", &["attribute_name"]),
        (COMPONENTS, "active=maybe", &["active"]),
        (COMPONENTS, "active=2&attribute_value=R1", &["active", "attribute_name"]),
        (COMPONENTS, "name=%00", &["name"]),
        (COMPONENTS, "attribute_name=%00&attribute_value=a", &["attribute_name"]),
        (INCIDENTS, "active=maybe", &["active"]),
        (INCIDENTS, "impact=4", &["impact"]),
        (INCIDENTS, "impact=-1", &["impact"]),
        (INCIDENTS, "impact=bad", &["impact"]),
        (INCIDENTS, "impact=", &["impact"]),
        (INCIDENTS, "impact=1.5", &["impact"]),
        (INCIDENTS, "impact=1.0", &["impact"]),
        (INCIDENTS, "impact=1e0", &["impact"]),
        (INCIDENTS, "impact=01", &["impact"]),
        (INCIDENTS, "impact=%2B1", &["impact"]),
        (INCIDENTS, "impact=+1", &["impact"]),
        (INCIDENTS, "impact=1%20", &["impact"]),
        (INCIDENTS, "impact=Minor", &["impact"]),
        (INCIDENTS, "limit=0", &["limit"]),
        (INCIDENTS, "limit=-1", &["limit"]),
        (INCIDENTS, "limit=1001", &["limit"]),
        (INCIDENTS, "limit=many", &["limit"]),
        (INCIDENTS, "limit=", &["limit"]),
        (INCIDENTS, "limit=99999999999999999999", &["limit"]),
        (INCIDENTS, "limit=5&cursor=", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=next", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=1.99999999999", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=9224318016000000000.1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=99999999999999999999999999999999999999999.1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=Infinity.1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=-9223372036854775808.1", &["cursor"]),
        (INCIDENTS, "limit=5&cursor=%ff", &["cursor"]),
        (INCIDENTS, "cursor=%00", &["cursor"]),
        (
            INCIDENTS,
            "active=maybe&impact=9&limit=0&cursor=x",
            &["active", "cursor", "impact", "limit"],
        ),
    ] {
        let refused = answer(system.request_to(0, Method::GET, &format!("{path}?{query}"))).await?;
        ensure!(refused.status == 422 && refused.body["code"] == 422, "{query}: {refused:?}");
        ensure!(refused.body["status"] == "Unprocessable Entity", "{query}: {refused:?}");
        let errors = refused.body["errors"]["query"].as_object().context("no errors.query")?;
        let mut named: Vec<&str> = errors.keys().map(String::as_str).collect();
        named.sort_unstable();
        ensure!(named == fields, "{query}: {refused:?}");
        ensure!(errors.values().all(|problems| problems[0].is_string()), "{query}: {refused:?}");
    }
    // The edges of the calendar are places in the list, too.
    for (cursor, expected) in [
        ("253402300799999999.1", 8),
        ("-62135596800000000.1", 0),
        ("9224318015999999999.1", 8),
        ("-210866803200000000.1", 0),
        ("infinity.1", 8),
        ("-infinity.1", 0),
    ] {
        let path = format!("{INCIDENTS}?limit=10&cursor={cursor}");
        let page = system.get(&path).await?;
        ensure!(page.status == 200 && ids(&page.body).len() == expected, "{cursor}: {page:?}");
    }
    system.finish().await
}

async fn lists_are_public(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    for path in [INCIDENTS, COMPONENTS, "/api/v1/incidents?limit=2"] {
        let with_token = system.get(path).await?;
        ensure!(with_token.status == 200, "{with_token:?}");
        for authorization in
            [None, Some("Bearer garbage"), Some("Basic eDp5"), Some("Bearer"), Some("")]
        {
            let mut request = system.request_to(0, Method::GET, path);
            if let Some(value) = authorization {
                request = request.header("Authorization", value);
            }
            let public = answer(request).await?;
            ensure!(public.status == 200, "{authorization:?}: {public:?}");
            same(&public.body, &with_token.body)?;
        }
    }
    system.finish().await
}

async fn a_list_that_the_client_has_is_not_sent_again(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    let one = "/api/v1/component_status?name=DNS&attribute_name=region&attribute_value=R1";
    for path in [
        INCIDENTS,
        COMPONENTS,
        "/api/v1/incidents?active=true",
        "/api/v1/component_status?active=true",
        "/api/v1/incidents?limit=3",
        one,
    ] {
        let plain = get(&system, path, &[]).await?;
        let gzip = get(&system, path, &[("Accept-Encoding", "gzip")]).await?;
        let tags = [plain.header("etag").to_owned(), gzip.header("etag").to_owned()];
        ensure!(tags[0] != tags[1], "{path}: one tag for both codings: {tags:?}");
        for (list, other, coding) in [(&plain, &tags[1], "identity"), (&gzip, &tags[0], "gzip")] {
            ensure!(list.status == 200 && list.header("vary") == "Accept-Encoding", "{path}");
            let tag = list.header("etag");
            // A list that is read while it changes has the tag of the state before.
            ensure!(tag.starts_with("W/\"") && tag.ends_with('"'), "{path} is strong: {tag}");
            let opaque = tag.trim_start_matches("W/");
            let asked = async |condition: &str| {
                let headers = [("Accept-Encoding", coding), ("If-None-Match", condition)];
                get(&system, path, &headers).await
            };
            for condition in [
                tag.to_owned(),
                // As a gateway of the release before would have it.
                opaque.to_owned(),
                format!("\"other\", {tag}"),
                format!("\"other\",W/\"another\" ,  {opaque}"),
                format!("\"a,b\",\t{tag}"),
                "*".to_owned(),
            ] {
                let unchanged = asked(&condition).await?;
                ensure!(unchanged.status == 304, "{path}, {condition}: {}", unchanged.status);
                ensure!(unchanged.bytes.is_empty(), "{path}: a body with 304");
                ensure!(unchanged.header("etag") == tag, "{path}: {:?}", unchanged.headers);
                ensure!(unchanged.header("vary") == "Accept-Encoding", "{:?}", unchanged.headers);
            }
            let without_quotes = opaque.trim_matches('"').to_owned();
            for condition in ["\"other\"", "W/\"other\"", &without_quotes, other, ""] {
                let sent = asked(condition).await?;
                ensure!(sent.status == 200, "{path}, {condition}: {}", sent.status);
                ensure!(sent.bytes == list.bytes, "{path}, {condition}: another list");
            }
        }
    }
    // What can't be found or used is so whatever the client has.
    let any = [("If-None-Match", "*")];
    ensure!(get(&system, &one.replace("R1", "R9"), &any).await?.status == 404);
    ensure!(get(&system, "/api/v1/incidents?limit=0", &any).await?.status == 422);
    system.finish().await
}

async fn every_foreign_write_shows_at_once(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    system.sql("INSERT INTO incident_component_relation VALUES (1, 1), (3, 2)").await?;
    let now = "now() AT TIME ZONE 'UTC'";
    let insert_incident = format!(
        "INSERT INTO incident (id, text, impact, start_date) VALUES (100, 'New', 1, {now})"
    );
    let insert_update = format!(
        "INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
        VALUES (3, {now}, 'New', 'fixing')"
    );
    let close = format!("UPDATE incident SET end_date = {now} WHERE id = 100");
    // Each statement, and the lists that it is seen in.
    let both = &[INCIDENTS, COMPONENTS][..];
    let components = &[COMPONENTS][..];
    let incidents = &[INCIDENTS][..];
    for (statement, seen_in) in [
        ("INSERT INTO component (id, name) VALUES (100, 'New')", components),
        ("UPDATE component SET name = 'Newer' WHERE id = 100", components),
        (
            "INSERT INTO component_attribute (id, component_id, name, value)
            VALUES (100, 100, 'region', 'R1')",
            components,
        ),
        ("UPDATE component_attribute SET value = 'R2' WHERE id = 100", components),
        (&insert_incident, incidents),
        ("UPDATE incident SET text = 'Newer' WHERE id = 100", incidents),
        ("INSERT INTO incident_component_relation VALUES (100, 100)", components),
        (
            "UPDATE incident_component_relation SET component_id = 1
            WHERE incident_id = 100",
            components,
        ),
        (&insert_update, both),
        ("UPDATE incident_status SET text = 'Newer' WHERE incident_id = 3", both),
        (&close, both),
        ("DELETE FROM incident_status WHERE incident_id = 3", both),
        ("DELETE FROM incident_component_relation WHERE incident_id = 100", components),
        ("DELETE FROM incident WHERE id = 100", incidents),
        ("DELETE FROM component_attribute WHERE id = 100", components),
        ("DELETE FROM component WHERE id = 100", components),
        ("COPY component (id, name) FROM PROGRAM 'echo 101,Copied' (FORMAT csv)", components),
        ("TRUNCATE incident_status", both),
        ("TRUNCATE incident_component_relation", components),
        ("TRUNCATE component_attribute", components),
        ("TRUNCATE component CASCADE", components),
        ("TRUNCATE incident CASCADE", incidents),
    ] {
        let mut before = Vec::new();
        for path in both {
            before.push((*path, tag(&system, path).await?, get(&system, path, &[]).await?.bytes));
        }
        let active = ["/api/v1/incidents?active=true", "/api/v1/component_status?active=true"];
        let mut active_before = Vec::new();
        for path in active {
            active_before.push((
                path,
                tag(&system, path).await?,
                get(&system, path, &[]).await?.bytes,
            ));
        }
        system.sql(statement).await.with_context(|| statement.to_owned())?;
        for (path, old_tag, old) in before.iter().chain(&active_before) {
            let now = get(&system, path, &[("If-None-Match", old_tag)]).await?;
            let must_show = seen_in.contains(path);
            ensure!(!must_show || now.status == 200, "{path} is stale after {statement}");
            // Never an old list for a new tag, nor an old tag for a new list.
            let fresh = get(&system, path, &[]).await?;
            ensure!(!must_show || &fresh.bytes != old, "{statement} does not show in {path}");
            ensure!(
                &fresh.bytes == old || (fresh.header("etag") != old_tag && now.status == 200),
                "{path} changed after {statement}, its tag did not"
            );
        }
    }
    same(&system.get(INCIDENTS).await?.body, &json!([]))?;
    same(&system.get(COMPONENTS).await?.body, &json!([]))?;
    system.finish().await
}

async fn a_transaction_shows_when_it_commits(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    for (commit, statement) in [
        (true, "UPDATE incident SET text = 'Changed' WHERE id = 1"),
        (false, "UPDATE incident SET text = 'Changed back' WHERE id = 1"),
        (true, "UPDATE component SET name = 'Changed' WHERE id = 1"),
        (false, "DELETE FROM component_attribute"),
        (true, "TRUNCATE component_attribute"),
    ] {
        let mut before = Vec::new();
        for path in [INCIDENTS, COMPONENTS] {
            before.push((path, tag(&system, path).await?));
        }
        let mut transaction = system.database.begin().await?;
        sqlx::raw_sql(statement).execute(&mut *transaction).await?;
        if !statement.starts_with("TRUNCATE") {
            // Until then readers neither see it nor wait for it.
            for (path, old) in &before {
                let open = get(&system, path, &[("If-None-Match", old)]).await?;
                ensure!(open.status == 304, "{statement} shows in {path} before its commit");
            }
        }
        if commit {
            transaction.commit().await?;
        } else {
            transaction.rollback().await?;
        }
        let mut changed = false;
        for (path, old) in &before {
            let status = get(&system, path, &[("If-None-Match", old)]).await?.status;
            ensure!(commit || status == 304, "{path} changed after a rollback of {statement}");
            changed |= status == 200;
        }
        ensure!(changed == commit, "{statement} does not show");
    }
    system.finish().await
}

async fn a_list_is_read_once_for_all_who_wait_for_it(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    system.sql("INSERT INTO incident_component_relation VALUES (1, 1)").await?;
    let readers = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'gateway' AND wait_event_type = 'Lock'";
    for (path, statement) in [
        (INCIDENTS, "UPDATE incident SET text = 'Changed' WHERE id = 1"),
        (COMPONENTS, "UPDATE incident SET text = 'Changed again' WHERE id = 1"),
    ] {
        let old = get(&system, path, &[]).await?;
        system.sql(statement).await?;
        let mut held = system.database.begin().await?;
        sqlx::raw_sql("LOCK TABLE incident_status").execute(&mut *held).await?;
        let all = join_all((0..20).map(|_| get(&system, path, &[])));
        let meanwhile = async {
            eventually("a list is being read", async || Ok(system.count(readers).await? > 0))
                .await?;
            // Long enough for the others to come.
            sleep(Duration::from_millis(500)).await;
            let waiting = system.count(readers).await?;
            held.rollback().await?;
            ensure!(waiting == 1, "{path} is read {waiting} times at once");
            anyhow::Ok(())
        };
        let (all, meanwhile) = tokio::join!(all, meanwhile);
        meanwhile?;
        for got in all {
            let got = got?;
            ensure!(got.status == 200 && got.bytes != old.bytes, "{path} is stale");
        }
    }

    // Nothing changes: no reader needs the rows.
    get(&system, INCIDENTS, &[]).await?;
    let mut held = system.database.begin().await?;
    sqlx::raw_sql("LOCK TABLE incident_status").execute(&mut *held).await?;
    for path in [INCIDENTS, COMPONENTS] {
        ensure!(get(&system, path, &[]).await?.status == 200, "{path}");
    }
    held.rollback().await?;
    system.finish().await
}

async fn what_changes_nothing_leaves_the_tag(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[]), ("CDN", &[])]).await?;
    let dns = json!({ "name": "DNS", "impact": 2 });
    let before = tag(&system, INCIDENTS).await?;
    let opened = answer(system.update(&dns).header("Idempotency-Key", "k")).await?;
    ensure!(opened.status == 201, "{opened:?}");
    let after = tag(&system, INCIDENTS).await?;
    ensure!(after != before, "an update does not show");
    system
        .sql(
            "INSERT INTO incident (text, impact, start_date) VALUES ('M', 0, '2024-01-01');
            INSERT INTO incident_component_relation VALUES (2, 2);",
        )
        .await?;

    let paths = [
        INCIDENTS,
        COMPONENTS,
        "/api/v1/incidents?active=true",
        "/api/v1/component_status?active=true",
    ];
    let mut tags = Vec::new();
    for path in paths {
        tags.push((path, tag(&system, path).await?));
    }
    let cdn = json!({ "name": "CDN", "impact": 3 });
    for (what, request, status) in [
        ("covered", system.update(&dns), 200),
        ("covered by more", system.update(&json!({ "name": "DNS", "impact": 1 })), 200),
        ("in a maintenance", system.update(&cdn), 200),
        ("repeated", system.update(&dns).header("Idempotency-Key", "k"), 201),
        ("rejected", system.update(&cdn).header("Idempotency-Key", "k"), 422),
        ("refused", system.update(&json!({ "name": "Nobody", "impact": 1 })), 400),
    ] {
        let answer = answer(request).await?;
        ensure!(answer.status == status, "{what}: {answer:?}");
        for (path, tag) in &tags {
            let list = get(&system, path, &[("If-None-Match", tag)]).await?;
            ensure!(list.status == 304, "{path} has another tag after an update that was {what}");
        }
    }
    ensure!(system.post(&json!({ "name": "DNS", "impact": 3 })).await?.status == 201);
    for (path, tag) in &tags {
        let list = get(&system, path, &[("If-None-Match", tag)]).await?;
        ensure!(list.status == 200, "{path} is stale");
    }
    system.finish().await
}

async fn active_lists_change_when_a_window_opens_or_closes(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &[("DNS", &[])]).await?;
    let soon = "now() AT TIME ZONE 'UTC' + interval '1 s'";
    let paths = ["/api/v1/incidents?active=true", "/api/v1/component_status?active=true"];
    for (write, stands) in [
        // A window opens among others that stay as they are.
        (
            format!(
                "INSERT INTO incident (text, impact, start_date, end_date) VALUES
                    ('Past', 0, '2024-01-01', '2024-01-02'), ('Far', 0, '2100-01-01', '2100-01-02'),
                    ('Upgrade', 0, {soon}, '2100-01-01');
                INSERT INTO incident_component_relation SELECT id, 1 FROM incident;"
            ),
            true,
        ),
        // The same one closes.
        (format!("UPDATE incident SET end_date = {soon} WHERE text = 'Upgrade'"), false),
    ] {
        system.sql(&write).await?;
        let mut before = Vec::new();
        for path in paths {
            before.push((path, get(&system, path, &[]).await?));
        }
        for (path, old) in before {
            eventually("the window has passed", async || {
                let list = get(&system, path, &[]).await?;
                let shows = String::from_utf8(list.bytes)?.contains("Upgrade");
                Ok(shows == stands)
            })
            .await?;
            let now = get(&system, path, &[("If-None-Match", old.header("etag"))]).await?;
            // On a machine that stalls the window may have passed before the first look.
            let seen_before = String::from_utf8_lossy(&old.bytes).contains("Upgrade") != stands;
            ensure!(!seen_before || now.status == 200, "{path}: the tag misses the window");
            ensure!(
                !seen_before || now.header("etag") != old.header("etag"),
                "{path}: the old tag"
            );
        }
    }
    system.finish().await
}

async fn lists_are_compressed_where_the_client_accepts_it(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    system.sql("INSERT INTO incident_component_relation SELECT id, 1 FROM incident").await?;
    let one = "/api/v1/component_status?name=DNS&attribute_name=region&attribute_value=R1";
    for path in [INCIDENTS, COMPONENTS, one, "/api/v1/incidents?limit=3"] {
        let plain = get(&system, path, &[]).await?;
        ensure!(plain.header("content-encoding").is_empty(), "{:?}", plain.headers);
        let value: Value = serde_json::from_slice(&plain.bytes)?;
        for (accepted, gzip) in [
            ("gzip", true),
            ("GZIP", true),
            ("x-gzip", true),
            ("gzip, deflate, br", true),
            ("br;q=1.0, gzip;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip;Q=0", false),
            ("gzip ;\tQ=0.0, *;q=1", false),
            ("identity, gzip;q=0.5", false),
            ("gzip;q=0, *", false),
            ("identity", false),
            ("br", false),
            ("deflate, br, zstd", false),
            ("", false),
        ] {
            let list = get(&system, path, &[("Accept-Encoding", accepted)]).await?;
            ensure!(list.status == 200 && list.header("vary") == "Accept-Encoding", "{accepted}");
            let coding = list.header("content-encoding");
            ensure!(coding == if gzip { "gzip" } else { "" }, "{accepted:?} gives {coding:?}");
            ensure!(list.header("content-type") == "application/json", "{:?}", list.headers);
            ensure!(list.header("link") == plain.header("link"), "{:?}", list.headers);
            ensure!(serde_json::from_slice::<Value>(&list.decoded()?)? == value, "{accepted}");
        }
    }
    // Errors are readable, too.
    let refused = get(&system, "/api/v1/incidents?limit=0", &[("Accept-Encoding", "gzip")]).await?;
    let refused: Value = serde_json::from_slice(&refused.decoded()?)?;
    ensure!(refused["code"] == 422, "{refused}");
    system.finish().await
}

async fn head_has_the_headers_and_no_body(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, CATALOGUE).await?;
    windows(&system).await?;
    for path in
        [INCIDENTS, COMPONENTS, "/api/v1/incidents?limit=3", "/api/v1/incidents?active=true"]
    {
        for coding in ["identity", "gzip"] {
            let accept = [("Accept-Encoding", coding)];
            let list = get(&system, path, &accept).await?;
            let head = ask(&system, Method::HEAD, path, &accept).await?;
            ensure!(head.status == 200 && head.bytes.is_empty(), "{path}: {}", head.status);
            for name in
                ["etag", "vary", "content-type", "content-encoding", "link", "content-length"]
            {
                ensure!(
                    head.header(name) == list.header(name),
                    "{path}, {name}: {:?} is not {:?}",
                    head.headers,
                    list.headers
                );
            }
            let known = [accept[0], ("If-None-Match", list.header("etag"))];
            let unchanged = ask(&system, Method::HEAD, path, &known).await?;
            ensure!(unchanged.status == 304, "{path}: {}", unchanged.status);
            // 0 would be wrong: the length is that of the list (RFC 9110, 8.6).
            let length = unchanged.header("content-length");
            ensure!(length.is_empty(), "{path}: {:?}", unchanged.headers);
        }
    }
    let refused = ask(&system, Method::HEAD, "/api/v1/incidents?limit=0", &[]).await?;
    ensure!(refused.status == 422 && refused.bytes.is_empty());
    system.finish().await
}

const MANY: usize = 30_000;

/// So many incidents of the first component, with two updates each: some 30 MB that can't be
/// compressed to less than half.
async fn many(system: &System) -> Result<()> {
    incidents(system, MANY).await
}

/// That many of the same.
async fn incidents(system: &System, many: usize) -> Result<()> {
    system
        .sql(&format!(
            "INSERT INTO incident (text, impact, start_date, system)
            SELECT 'Incident ' || n, 1, timestamp '2024-01-01' + make_interval(mins => n), false
            FROM generate_series(1, {many}) AS n;
            INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
            SELECT n, timestamp '2024-01-01' + make_interval(mins => n + part),
                (SELECT string_agg(md5(n || '.' || part || '.' || piece), '')
                    FROM generate_series(1, 14) AS piece), 'fixing'
            FROM generate_series(1, {many}) AS n, generate_series(1, 2) AS part;
            INSERT INTO incident_component_relation SELECT id, 1 FROM incident;
            ANALYZE;"
        ))
        .await
}

async fn a_large_list_is_streamed_whole(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &CATALOGUE[..2]).await?;
    many(&system).await?;
    let newest_first: Vec<i64> = (1..=MANY as i64).rev().collect();
    for path in [INCIDENTS, COMPONENTS] {
        let plain = get(&system, path, &[]).await?;
        ensure!(plain.status == 200 && plain.bytes.len() > 4 << 20, "{}", plain.bytes.len());
        ensure!(plain.header("content-encoding").is_empty(), "{:?}", plain.headers);
        // Streamed: the length is not known before.
        ensure!(plain.header("content-length").is_empty(), "{:?}", plain.headers);
        let list: Value = serde_json::from_slice(&plain.bytes)?;
        let incidents = if path == INCIDENTS { &list } else { &list[0]["incidents"] };
        ensure!(ids(incidents) == newest_first, "{path} is not whole");
        let updates = incidents.as_array().into_iter().flatten().map(|i| i["updates"].as_array());
        ensure!(updates.flatten().all(|updates| updates.len() == 2), "updates are missing");
        if path == COMPONENTS {
            ensure!(list[1]["id"] == 2 && list[1]["incidents"] == json!([]), "{}", list[1]);
        }

        let gzip = get(&system, path, &[("Accept-Encoding", "gzip")]).await?;
        ensure!(gzip.status == 200 && gzip.header("content-encoding") == "gzip");
        ensure!(gzip.bytes.len() > 4 << 20, "{path} is not large: {}", gzip.bytes.len());
        ensure!(gzip.decoded()? == plain.bytes, "{path}: another list when compressed");
        for (list, coding) in [(&plain, "identity"), (&gzip, "gzip")] {
            let tag = list.header("etag");
            ensure!(!tag.is_empty() && list.header("vary") == "Accept-Encoding");
            let known = [("Accept-Encoding", coding), ("If-None-Match", tag)];
            ensure!(get(&system, path, &known).await?.status == 304);
            let head = ask(&system, Method::HEAD, path, &[("Accept-Encoding", coding)]).await?;
            ensure!(head.status == 200 && head.bytes.is_empty() && head.header("etag") == tag);
        }
    }
    // A page of it is small.
    let page = get(&system, "/api/v1/incidents?limit=1000", &[]).await?;
    ensure!(!page.header("content-length").is_empty(), "{:?}", page.headers);
    system.finish().await
}

/// Asks for a list and reads no more than its beginning.
fn begin_to_read(address: &str, path: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut beginning = [0; 12];
    stream.read_exact(&mut beginning)?;
    ensure!(&beginning == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&beginning));
    Ok(stream)
}

async fn a_reader_that_stops_keeps_others_from_large_lists_alone(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_MAX_LISTS", "1")]).await?;
    system.components(&CATALOGUE[..2]).await?;
    many(&system).await?;
    let whole = get(&system, INCIDENTS, &[]).await?;
    ensure!(whole.status == 200 && whole.bytes.len() > 20 << 20, "{}", whole.bytes.len());
    let open = async || {
        let address = system.addresses[0].clone();
        tokio::task::spawn_blocking(move || begin_to_read(&address, INCIDENTS)).await?
    };
    // The place of the list before is free once its connection knows that it ended.
    let mut slow = None;
    eventually("there is a place", async || {
        slow = open().await.ok();
        Ok(slow.is_some())
    })
    .await?;
    let mut slow = slow.context("no reader")?;

    for (path, coding) in [
        (INCIDENTS, "identity"),
        (INCIDENTS, "gzip"),
        (COMPONENTS, "identity"),
        (COMPONENTS, "gzip"),
    ] {
        let refused = get(&system, path, &[("Accept-Encoding", coding)]).await?;
        ensure!(refused.status == 503, "{path}, {coding}: {}", refused.status);
        ensure!(refused.header("retry-after").parse::<u32>().is_ok(), "{:?}", refused.headers);
        let body: Value = serde_json::from_slice(&refused.decoded()?)?;
        ensure!(body["code"] == 503 && body["status"] == "Service Unavailable", "{body}");
    }
    // All that is small goes on.
    let page = system.get("/api/v1/incidents?limit=5").await?;
    ensure!(page.status == 200 && ids(&page.body).len() == 5, "{page:?}");
    let other =
        system.get("/api/v1/component_status?name=DNS&attribute_name=region&attribute_value=R2");
    ensure!(other.await?.body["id"] == 2);
    let known = [("If-None-Match", whole.header("etag"))];
    ensure!(get(&system, INCIDENTS, &known).await?.status == 304);
    let region = json!([{ "name": "region", "value": "R2" }]);
    let posted = system.post(&json!({ "name": "DNS", "impact": 3, "attributes": region })).await?;
    ensure!(posted.status == 201, "{posted:?}");
    ensure!(system.get("/readyz").await?.body["status"] == "ready");

    // When it reads on, it gets the rest of what it began to read.
    let rest = tokio::task::spawn_blocking(move || -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        slow.read_to_end(&mut rest)?;
        Ok(rest)
    })
    .await??;
    ensure!(rest.ends_with(b"]\r\n0\r\n\r\n"), "the list is cut off");
    ensure!(rest.len() > whole.bytes.len(), "the list is not whole");
    // And then it is another one's turn, also when a reader leaves in the middle.
    for _ in 0..2 {
        let mut reader = None;
        eventually("there is a place again", async || {
            reader = open().await.ok();
            Ok(reader.is_some())
        })
        .await?;
        drop(reader);
    }
    eventually("large lists are sent again", async || {
        let list = get(&system, COMPONENTS, &[]).await?;
        ensure!([200, 503].contains(&list.status), "{}", list.status);
        Ok(list.status == 200 && serde_json::from_slice::<Value>(&list.bytes)?.is_array())
    })
    .await?;
    system.finish().await
}

async fn a_reader_that_takes_nothing_is_ended(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_MAX_LISTS", "1")]).await?;
    system.components(&CATALOGUE[..2]).await?;
    many(&system).await?;
    let address = system.addresses[0].clone();
    let mut slow =
        tokio::task::spawn_blocking(move || begin_to_read(&address, INCIDENTS)).await??;
    ensure!(get(&system, COMPONENTS, &[]).await?.status == 503, "it has no place");
    // It gets 30 s; its place is another one's then, though it neither reads nor leaves.
    eventually_within(Duration::from_secs(60), "large lists are sent again", async || {
        let list = get(&system, COMPONENTS, &[]).await?;
        ensure!([200, 503].contains(&list.status), "{}", list.status);
        Ok(list.status == 200)
    })
    .await?;
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = Vec::new();
        // What was sent to it before is there still; whether its end is a reset does not matter.
        slow.read_to_end(&mut rest).map(drop).or_else(|error| {
            let ended = error.kind() == std::io::ErrorKind::ConnectionReset;
            if ended { Ok(()) } else { Err(error) }
        })?;
        anyhow::Ok(rest)
    })
    .await??;
    ensure!(!rest.ends_with(b"0\r\n\r\n"), "a list that was ended looks whole");
    system.finish().await
}

/// The server processes that read lists at this moment. PostgreSQL shows the first 1,024 bytes of a
/// statement, and so not where the rows come from.
async fn reading(system: &System) -> Result<Vec<i32>> {
    let query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'gateway' AND state = 'active' AND query LIKE '%update_statuses%'";
    Ok(sqlx::query_scalar(query).fetch_all(&system.database).await?)
}

/// Whether this server process is there, at work or idle.
async fn exists(system: &System, pid: i32) -> Result<bool> {
    let query = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    Ok(system.count(&query).await? > 0)
}

async fn a_large_list_that_nobody_reads_on_leaves_no_statement(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with(&fixture, &CATALOGUE[..2]).await?;
    // More than is read ahead for a reader.
    incidents(&system, 3 * MANY).await?;
    // More than once: which of the two ends is noticed first is left to chance.
    for path in [INCIDENTS, COMPONENTS, INCIDENTS, COMPONENTS, INCIDENTS, COMPONENTS] {
        let address = system.addresses[0].clone();
        let reader = tokio::task::spawn_blocking(move || begin_to_read(&address, path)).await??;
        let mut pids = Vec::new();
        eventually("the list is being read", async || {
            pids = reading(&system).await?;
            Ok(!pids.is_empty())
        })
        .await?;
        ensure!(pids.len() == 1, "{path}: {pids:?}");
        drop(reader);
        // Its connection is closed: in the pool, all that nobody wants would have to be read first.
        eventually_within(Duration::from_secs(3), "the statement is given up", async || {
            Ok(!exists(&system, pids[0]).await?)
        })
        .await
        .with_context(|| path.to_owned())?;
    }
    system.finish().await
}

async fn what_has_no_content_reads_none(fixture: Arc<Fixture>) -> Result<()> {
    let system = with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    let whole = [INCIDENTS, COMPONENTS, "/api/v1/incidents?active=true"];
    let one = "/api/v1/component_status?name=DNS&attribute_name=region&attribute_value=R1";
    let page = "/api/v1/incidents?limit=3";
    let mut held = system.database.begin().await?;
    sqlx::raw_sql("LOCK TABLE incident_status").execute(&mut *held).await?;
    for coding in ["identity", "gzip"] {
        for (path, method, headers, status) in whole
            .iter()
            .map(|path| (*path, Method::HEAD, vec![], 200))
            .chain(whole.iter().map(|path| (*path, Method::GET, vec![("If-None-Match", "*")], 304)))
            .chain(
                whole.iter().map(|path| (*path, Method::HEAD, vec![("If-None-Match", "*")], 304)),
            )
            .chain(
                [Method::GET, Method::HEAD].map(|m| (page, m, vec![("If-None-Match", "*")], 304)),
            )
        {
            let headers = [headers, vec![("Accept-Encoding", coding)]].concat();
            let began = Instant::now();
            let got = ask(&system, method.clone(), path, &headers).await?;
            ensure!(got.status == status, "{method} {path}: {} {:?}", got.status, got.headers);
            ensure!(began.elapsed() < Duration::from_secs(2), "{method} {path} reads the list");
            ensure!(got.bytes.is_empty() && !got.header("etag").is_empty(), "{:?}", got.headers);
            // What it would be is not known, and 0 would be wrong.
            ensure!(got.header("content-length").is_empty(), "{:?}", got.headers);
            let coded = if status == 200 && coding == "gzip" { "gzip" } else { "" };
            ensure!(got.header("content-encoding") == coded, "{path}: {:?}", got.headers);
        }
    }
    held.rollback().await?;
    // The tag is that of the list.
    let head = ask(&system, Method::HEAD, INCIDENTS, &[]).await?;
    ensure!(head.header("etag") == tag(&system, INCIDENTS).await?, "{:?}", head.headers);
    // Where the next page is, and whether there is such a component, only the content tells.
    system.sql("UPDATE incident SET text = 'Changed' WHERE id = 1").await?;
    let head = ask(&system, Method::HEAD, page, &[]).await?;
    ensure!(head.status == 200 && head.header("link").contains("cursor="), "{:?}", head.headers);
    for (value, status) in [("R1", 200), ("R9", 404)] {
        let path = one.replace("R1", value);
        ensure!(ask(&system, Method::HEAD, &path, &[]).await?.status == status, "{path}");
        let any = [("If-None-Match", "*")];
        let expected = if status == 200 { 304 } else { 404 };
        ensure!(get(&system, &path, &any).await?.status == expected, "{path}");
    }
    system.finish().await
}

/// Reads a list at 640 kB/s, to its end; returns what came, and how it ended.
fn read_slowly(address: &str, version: &str) -> Result<(Vec<u8>, ErrorKind)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {INCIDENTS} HTTP/{version}\r\nHost: x\r\n\r\n")?;
    let (mut got, mut some) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match stream.read(&mut some) {
            Ok(0) => return Ok((got, ErrorKind::UnexpectedEof)),
            Ok(bytes) => got.extend_from_slice(&some[..bytes]),
            Err(error) => return Ok((got, error.kind())),
        }
        thread::sleep(Duration::from_millis(100));
    }
}

async fn a_slow_reader_holds_no_snapshot_and_is_cut_off(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    system.start_worker(&[]).await?;
    system.start_gateway(&[("SDB_MAX_LISTS", "2")]).await?;
    system.components(&CATALOGUE[..2]).await?;
    // More than is read ahead for a reader.
    incidents(&system, 3 * MANY).await?;
    let began = Instant::now();
    let readers = ["1.1", "1.0"].map(|version| {
        let address = system.addresses[0].clone();
        (version, thread::spawn(move || read_slowly(&address, version)))
    });
    eventually("the list is being read", async || Ok(reading(&system).await?.len() == 2)).await?;
    // The database waits for a reader for 10 s in all.
    eventually_within(Duration::from_secs(20), "the snapshots are gone", async || {
        Ok(reading(&system).await?.is_empty())
    })
    .await?;
    eventually_within(Duration::from_secs(75), "the readers are cut off", async || {
        Ok(readers.iter().all(|(_, reader)| reader.is_finished()))
    })
    .await?;
    ensure!(began.elapsed() < Duration::from_secs(75), "{:?}", began.elapsed());
    for (version, reader) in readers {
        let (got, end) = reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        ensure!(got.starts_with(format!("HTTP/{version} 200").as_bytes()), "{version}");
        // A client of HTTP/1.0 takes the end of its connection for the end of the list.
        ensure!(end == ErrorKind::ConnectionReset, "{version}: the list ends with {end:?}");
        ensure!(!got.ends_with(b"0\r\n\r\n") && !got.ends_with(b"]"), "{version}: it looks whole");
    }
    // Their places are others'.
    for path in [INCIDENTS, COMPONENTS] {
        ensure!(get(&system, path, &[]).await?.status == 200, "{path}");
    }
    system.finish().await
}

async fn a_list_that_cannot_be_read_fails_for_all_who_wait_at_once(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let system = with(&fixture, &CATALOGUE[..4]).await?;
    windows(&system).await?;
    for path in [INCIDENTS, COMPONENTS, "/api/v1/incidents?limit=3"] {
        let mut held = system.database.begin().await?;
        sqlx::raw_sql("LOCK TABLE incident_status").execute(&mut *held).await?;
        let began = Instant::now();
        // PostgreSQL ends a statement that waits for a lock after 5 s.
        let all = join_all((0..20).map(|_| get(&system, path, &[]))).await;
        let took = began.elapsed();
        held.rollback().await?;
        for got in all {
            let got = got?;
            ensure!(got.status == 503, "{path}: {}", got.status);
            ensure!(!got.header("retry-after").is_empty(), "{path}: {:?}", got.headers);
        }
        ensure!(took < Duration::from_secs(9), "{path}: the last of 20 waited {took:?}");
        // What failed is not kept.
        ensure!(get(&system, path, &[]).await?.status == 200, "{path}");
    }
    system.finish().await
}
