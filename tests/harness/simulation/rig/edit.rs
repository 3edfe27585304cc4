//! Writes as the Python dashboard's pages and other programs do: in plain transactions, without a lock
//! of ours. Which rows an edit is about is chosen from what is committed; what became of them by then
//! is the writer's risk, as it is the pages'.

use anyhow::Result;
use shared::domain::component::{Component, ComponentId};
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::{
    sync::watch,
    time::{Duration, timeout},
};

use super::Rig;
use crate::simulation::history::{Edit, Hold, Pick};

/// How long an edit is held open while a batch waits for it.
const MAX_HOLD: Duration = Duration::from_millis(60);
const NOW: &str = "(clock_timestamp() AT TIME ZONE 'UTC')";
/// The id that was given last.
const NEW: &str = "currval(pg_get_serial_sequence('incident', 'id'))";

/// An edit as statements, and what it does to the catalogue.
pub(super) struct Plan {
    statements: String,
    catalogue: Option<CatalogueEdit>,
}

enum CatalogueEdit {
    Rename(ComponentId, String),
    Remove(ComponentId),
    Add(Component),
}

impl Plan {
    fn new(statements: impl Into<String>) -> Self {
        Self { statements: statements.into(), catalogue: None }
    }
}

/// Makes an edit in a transaction; returns whether it was committed. `done` tells when the batch
/// beside it is through.
pub(super) async fn make(
    operator: &mut PgConnection,
    plan: &Plan,
    hold: Hold,
    mut done: watch::Receiver<bool>,
) -> Result<bool> {
    sqlx::raw_sql("BEGIN; SET LOCAL lock_timeout = '2s'").execute(&mut *operator).await?;
    let statements = AssertSqlSafe(plan.statements.clone());
    if let Err(error) = sqlx::raw_sql(statements).execute(&mut *operator).await {
        sqlx::raw_sql("ROLLBACK").execute(operator).await?;
        // It met the batch, which won.
        return if is_passing(&error) { Ok(false) } else { Err(error.into()) };
    }
    match hold {
        Hold::Commit => {}
        // A batch may wait for this transaction, and nobody else ends it.
        Hold::Held | Hold::RollBack => {
            timeout(MAX_HOLD, done.wait_for(|done| *done)).await.ok();
        }
    }
    let commits = !matches!(hold, Hold::RollBack);
    let end = if commits { "COMMIT" } else { "ROLLBACK" };
    match sqlx::raw_sql(end).execute(operator).await {
        Ok(_) => Ok(commits),
        Err(error) if is_passing(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a transaction may fail so because of another one beside it: a deadlock, a wait for a lock, or
/// a row that the other one took away or put there.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["23", "40", "55"].iter().any(|class| code.starts_with(class)))
}

impl Rig {
    /// What an edit means now; none when there is nothing to edit.
    pub(super) async fn plan(&mut self, edit: &Edit) -> Result<Option<Plan>> {
        let plan = match edit {
            Edit::Close(index) => {
                let Some(id) = self.any(*index, "end_date IS NULL").await? else { return Ok(None) };
                Plan::new(format!("UPDATE incident SET end_date = {NOW} WHERE id = {id}"))
            }
            Edit::TakeOver(index, ends) => {
                let such = "system AND end_date IS NULL AND impact > 0";
                let Some(id) = self.any(*index, such).await? else { return Ok(None) };
                let (end, status) = if *ends {
                    (format!(", end_date = {NOW}"), "resolved")
                } else {
                    (String::new(), "analyzing")
                };
                Plan::new(format!(
                    "UPDATE incident SET system = false{end} WHERE id = {id};
                    INSERT INTO incident_status (incident_id, timestamp, text, status)
                    VALUES ({id}, {NOW}, 'we look into it', '{status}')"
                ))
            }
            Edit::Comment(index, minutes) => {
                let Some(id) = self.any(*index, "true").await? else { return Ok(None) };
                Plan::new(format!(
                    "INSERT INTO incident_status (incident_id, timestamp, text, status)
                    VALUES ({id}, {NOW} + interval '{minutes} minutes', 'soon', 'observing')"
                ))
            }
            Edit::Separate(index, which, opens) => {
                let Some(plan) = self.separate(*index, *which, *opens).await? else {
                    return Ok(None);
                };
                plan
            }
            Edit::Reopen(index) => {
                let such = "NOT system AND end_date IS NOT NULL";
                let Some(id) = self.any(*index, such).await? else { return Ok(None) };
                Plan::new(format!("UPDATE incident SET end_date = NULL WHERE id = {id}"))
            }
            Edit::Move(index, start, end) => {
                let Some(id) = self.any(*index, "NOT system").await? else { return Ok(None) };
                let end =
                    end.map_or("NULL".to_owned(), |end| format!("{NOW} + interval '{end} hours'"));
                Plan::new(format!(
                    "UPDATE incident SET start_date = {NOW} + interval '{start} hours', end_date = {end}
                    WHERE id = {id}"
                ))
            }
            Edit::ChangeImpact(index, impact) => {
                let Some(id) = self.any(*index, "NOT system").await? else { return Ok(None) };
                let impact = i16::from(*impact);
                Plan::new(format!("UPDATE incident SET impact = {impact} WHERE id = {id}"))
            }
            Edit::Attach(index, component) => {
                // Not to an active system incident: the component may be in another one, and that stays until
                // its next update.
                let such = "(NOT system OR end_date IS NOT NULL)";
                let Some(id) = self.any(*index, such).await? else { return Ok(None) };
                Plan::new(format!(
                    "INSERT INTO incident_component_relation (incident_id, component_id)
                    SELECT {id}, id FROM component WHERE id = {component} ON CONFLICT DO NOTHING"
                ))
            }
            Edit::Add(components, impact, start, end) => {
                let impact = impact.map_or(0, i16::from);
                let start = format!("{NOW} + interval '{start} hours'");
                let end = end.map(|end| format!("{NOW} + interval '{end} hours'"));
                Plan::new(insert(components, impact, &start, end.as_deref()))
            }
            Edit::Cover(components, kinds) => {
                let inserts = kinds.iter().map(|(impact, ends)| {
                    let end = ends.then(|| format!("{NOW} + interval '1 hour'"));
                    insert(components, impact.map_or(0, i16::from), NOW, end.as_deref())
                });
                Plan::new(inserts.collect::<Vec<_>>().join(";"))
            }
            Edit::Delete(index) => {
                let Some(id) = self.any(*index, "true").await? else { return Ok(None) };
                Plan::new(format!(
                    "DELETE FROM incident_status WHERE incident_id = {id};
                    DELETE FROM incident_component_relation WHERE incident_id = {id};
                    DELETE FROM incident WHERE id = {id}"
                ))
            }
            Edit::Rename(component) => {
                self.renamed += 1;
                let name = format!("Renamed {}", self.renamed);
                let statements =
                    format!("UPDATE component SET name = '{name}' WHERE id = {component}");
                let catalogue = Some(CatalogueEdit::Rename(ComponentId(*component), name));
                Plan { statements, catalogue }
            }
            Edit::Toggle(component) => self.toggle(ComponentId(*component)),
        };
        Ok(Some(plan))
    }

    /// Takes an edit that was committed into the catalogue that gateways see.
    pub(super) fn was_made(&mut self, plan: Plan) {
        match plan.catalogue {
            None => {}
            Some(CatalogueEdit::Rename(id, name)) => {
                if let Some(component) = self.catalogue.get_mut(&id) {
                    component.name = name;
                }
            }
            Some(CatalogueEdit::Remove(id)) => {
                if let Some(component) = self.catalogue.remove(&id) {
                    self.gone.insert(id, component);
                }
            }
            Some(CatalogueEdit::Add(component)) => {
                self.gone.remove(&component.id);
                self.catalogue.insert(component.id, component);
            }
        }
    }

    /// One of the incidents for which this is so.
    async fn any(&mut self, index: Pick, such: &str) -> Result<Option<i32>> {
        let query = format!("SELECT id FROM incident WHERE {such} ORDER BY id");
        let all: Vec<i32> =
            sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&mut self.database).await?;
        Ok(if all.is_empty() { None } else { all.get(index.of(all.len())).copied() })
    }

    async fn separate(&mut self, index: Pick, which: Pick, opens: bool) -> Result<Option<Plan>> {
        let such = "id IN (SELECT incident_id FROM incident_component_relation)";
        let Some(id) = self.any(index, such).await? else { return Ok(None) };
        let all: Vec<i32> = sqlx::query_scalar(
            "SELECT component_id FROM incident_component_relation WHERE incident_id = $1
            ORDER BY component_id",
        )
        .bind(id)
        .fetch_all(&mut self.database)
        .await?;
        let Some(component) = all.get(which.of(all.len())) else { return Ok(None) };
        let mut statements = format!(
            "DELETE FROM incident_component_relation
            WHERE incident_id = {id} AND component_id = {component}"
        );
        if opens {
            statements += &format!(
                ";INSERT INTO incident (text, start_date, impact, system)
                SELECT text, {NOW}, impact, false FROM incident WHERE id = {id};
                INSERT INTO incident_component_relation (incident_id, component_id)
                SELECT {NEW}, {component}"
            );
        }
        Ok(Some(Plan::new(statements)))
    }

    /// Components go with all that belongs to them, and come back as they were.
    fn toggle(&self, id: ComponentId) -> Plan {
        match self.gone.get(&id) {
            Some(component) => Plan {
                statements: insert_component(component),
                catalogue: Some(CatalogueEdit::Add(component.clone())),
            },
            None => Plan {
                statements: format!(
                    "DELETE FROM incident_component_relation WHERE component_id = {id};
                    DELETE FROM component_attribute WHERE component_id = {id};
                    DELETE FROM component WHERE id = {id}"
                ),
                catalogue: Some(CatalogueEdit::Remove(id)),
            },
        }
    }
}

/// Adds a manual incident or a maintenance, of those of these components that there are.
fn insert(components: &[i32], impact: i16, start: &str, end: Option<&str>) -> String {
    let end = end.unwrap_or("NULL");
    format!(
        "INSERT INTO incident (text, start_date, end_date, impact, system)
        VALUES ('operators'' <own>', {start}, {end}, {impact}, false);
        INSERT INTO incident_component_relation (incident_id, component_id)
        SELECT {NEW}, id FROM component WHERE id = ANY(ARRAY{components:?}::integer[])"
    )
}

pub(super) fn insert_component(component: &Component) -> String {
    let Component { id, name, attributes } = component;
    let mut statements = format!("INSERT INTO component (id, name) VALUES ({id}, '{name}')");
    for attribute in attributes {
        statements += &format!(
            ";INSERT INTO component_attribute (component_id, name, value)
            VALUES ({id}, '{}', '{}')",
            attribute.name, attribute.value
        );
    }
    statements
}
