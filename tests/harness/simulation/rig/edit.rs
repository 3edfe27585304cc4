//! Writes as others do, in the database and in the model.

use anyhow::{Context, Result};
use model::Incident;
use shared::{
    component::{Component, ComponentId},
    impact::Impact,
    incident::IncidentId,
    timestamp::Timestamp,
};

use super::Rig;
use crate::simulation::history::{Edit, Pick};

const HOUR: i64 = 3_600_000_000;

impl Rig {
    pub(super) async fn edit(&mut self, edit: &Edit) -> Result<()> {
        match edit {
            Edit::Close(index) => self.close_incident(*index).await,
            Edit::TakeOver(index) => self.take_over(*index).await,
            Edit::Separate(index, which) => self.separate(*index, *which).await,
            Edit::Reopen(index) => self.reopen(*index).await,
            Edit::Add(components, impact, start, end) => {
                let (start, end) = (i64::from(*start), end.map(i64::from));
                self.add(components, *impact, start, end).await
            }
            Edit::Delete(index) => self.delete(*index).await,
            Edit::Rename(component) => self.rename(ComponentId(*component)).await,
            Edit::Toggle(component) => self.toggle(ComponentId(*component)).await,
        }
    }

    /// One of the incidents for which this is so.
    fn any(&self, index: Pick, eligible: impl Fn(&Incident) -> bool) -> Option<IncidentId> {
        let all: Vec<IncidentId> =
            self.world.incidents.iter().filter(|(_, i)| eligible(i)).map(|(id, _)| *id).collect();
        if all.is_empty() { None } else { all.get(index.of(all.len())).copied() }
    }

    fn incident(&mut self, id: IncidentId) -> Result<&mut Incident> {
        self.world.incidents.get_mut(&id).context("there is no such incident")
    }

    async fn now(&mut self) -> Result<Timestamp> {
        let now = "SELECT clock_timestamp() AT TIME ZONE 'UTC'";
        Ok(sqlx::query_scalar(now).fetch_one(&mut self.database).await?)
    }

    async fn close_incident(&mut self, index: Pick) -> Result<()> {
        let Some(id) = self.any(index, |incident| incident.end.is_none()) else { return Ok(()) };
        let now = self.now().await?;
        sqlx::query("UPDATE incident SET end_date = $2 WHERE id = $1")
            .bind(id)
            .bind(now)
            .execute(&mut self.database)
            .await?;
        self.incident(id)?.end = Some(now);
        Ok(())
    }

    async fn take_over(&mut self, index: Pick) -> Result<()> {
        let Some(id) = self.any(index, Incident::is_active_system_incident) else { return Ok(()) };
        let now = self.now().await?;
        let words = "we look into it";
        sqlx::query("UPDATE incident SET system = false WHERE id = $1")
            .bind(id)
            .execute(&mut self.database)
            .await?;
        sqlx::query(
            "INSERT INTO incident_status (incident_id, \"timestamp\", text, status)
            VALUES ($1, $2, $3, 'analyzing')",
        )
        .bind(id)
        .bind(now)
        .bind(words)
        .execute(&mut self.database)
        .await?;
        let incident = self.incident(id)?;
        incident.system = false;
        incident.updates.push((now, words.to_owned()));
        incident.updates.sort_by_key(|(at, _)| *at);
        Ok(())
    }

    async fn separate(&mut self, index: Pick, which: Pick) -> Result<()> {
        let Some(id) = self.any(index, |incident| !incident.components.is_empty()) else {
            return Ok(());
        };
        let all: Vec<ComponentId> = self.incident(id)?.components.iter().copied().collect();
        let Some(component) = all.get(which.of(all.len())).copied() else { return Ok(()) };
        sqlx::query(
            "DELETE FROM incident_component_relation WHERE incident_id = $1 AND component_id = $2",
        )
        .bind(id)
        .bind(component)
        .execute(&mut self.database)
        .await?;
        self.incident(id)?.components.remove(&component);
        Ok(())
    }

    async fn reopen(&mut self, index: Pick) -> Result<()> {
        let Some(id) = self.any(index, |incident| !incident.system && incident.end.is_some())
        else {
            return Ok(());
        };
        sqlx::query("UPDATE incident SET end_date = NULL WHERE id = $1")
            .bind(id)
            .execute(&mut self.database)
            .await?;
        self.incident(id)?.end = None;
        Ok(())
    }

    async fn add(
        &mut self,
        components: &[i32],
        impact: Option<Impact>,
        start: i64,
        end: Option<i64>,
    ) -> Result<()> {
        let now = self.now().await?;
        let known = components.iter().map(|id| ComponentId(*id));
        let incident = Incident {
            text: "operators' <own>".to_owned(),
            impact: impact.unwrap_or(Impact::Maintenance),
            start: now.plus_micros(start * HOUR),
            end: end.map(|end| now.plus_micros(end * HOUR)),
            system: false,
            components: known.filter(|id| self.world.catalogue.contains_key(id)).collect(),
            updates: Vec::new(),
        };
        let id = self.world.add(incident.clone());
        sqlx::query(
            "INSERT INTO incident (id, text, start_date, end_date, impact, system)
            VALUES ($1, $2, $3, $4, $5, false)",
        )
        .bind(id)
        .bind(incident.text)
        .bind(incident.start)
        .bind(incident.end)
        .bind(i16::from(incident.impact))
        .execute(&mut self.database)
        .await?;
        for component in incident.components {
            sqlx::query("INSERT INTO incident_component_relation VALUES ($1, $2)")
                .bind(id)
                .bind(component)
                .execute(&mut self.database)
                .await?;
        }
        Ok(())
    }

    async fn delete(&mut self, index: Pick) -> Result<()> {
        let Some(id) = self.any(index, |_| true) else { return Ok(()) };
        for statement in [
            "DELETE FROM incident_status WHERE incident_id = $1",
            "DELETE FROM incident_component_relation WHERE incident_id = $1",
            "DELETE FROM incident WHERE id = $1",
        ] {
            sqlx::query(statement).bind(id).execute(&mut self.database).await?;
        }
        self.world.incidents.remove(&id);
        Ok(())
    }

    async fn rename(&mut self, id: ComponentId) -> Result<()> {
        self.renamed += 1;
        let name = format!("Renamed {}", self.renamed);
        let Some(component) = self.world.catalogue.get_mut(&id) else { return Ok(()) };
        component.name.clone_from(&name);
        sqlx::query("UPDATE component SET name = $2 WHERE id = $1")
            .bind(id)
            .bind(name)
            .execute(&mut self.database)
            .await?;
        Ok(())
    }

    async fn toggle(&mut self, id: ComponentId) -> Result<()> {
        if let Some(component) = self.gone.remove(&id) {
            return self.insert_component(component).await;
        }
        let Some(component) = self.world.catalogue.remove(&id) else { return Ok(()) };
        for statement in [
            "DELETE FROM incident_component_relation WHERE component_id = $1",
            "DELETE FROM component_attribute WHERE component_id = $1",
            "DELETE FROM component WHERE id = $1",
        ] {
            sqlx::query(statement).bind(id).execute(&mut self.database).await?;
        }
        for incident in self.world.incidents.values_mut() {
            incident.components.remove(&id);
        }
        self.gone.insert(id, component);
        Ok(())
    }

    pub(super) async fn insert_component(&mut self, component: Component) -> Result<()> {
        sqlx::query("INSERT INTO component (id, name) VALUES ($1, $2)")
            .bind(component.id)
            .bind(&component.name)
            .execute(&mut self.database)
            .await?;
        for attribute in &component.attributes {
            sqlx::query(
                "INSERT INTO component_attribute (component_id, name, value) VALUES ($1, $2, $3)",
            )
            .bind(component.id)
            .bind(&attribute.name)
            .bind(&attribute.value)
            .execute(&mut self.database)
            .await?;
        }
        self.world.catalogue.insert(component.id, component);
        Ok(())
    }
}
