-- The tables that the Python dashboard also uses, in the form its ORM makes. Where they stand they
-- are adopted as they are, with the indexes that its models declare where one is missing.

CREATE TABLE IF NOT EXISTS component (
    id serial PRIMARY KEY,
    name varchar NOT NULL
);

CREATE TABLE IF NOT EXISTS component_attribute (
    id serial PRIMARY KEY,
    component_id integer REFERENCES component (id),
    name varchar(30) NOT NULL,
    value varchar(50) NOT NULL
);

CREATE TABLE IF NOT EXISTS incident (
    id serial PRIMARY KEY,
    text varchar NOT NULL,
    start_date timestamp NOT NULL,
    end_date timestamp,
    impact smallint NOT NULL,
    system boolean NOT NULL DEFAULT false
);

CREATE TABLE IF NOT EXISTS incident_component_relation (
    incident_id integer NOT NULL REFERENCES incident (id),
    component_id integer NOT NULL REFERENCES component (id),
    PRIMARY KEY (incident_id, component_id)
);

CREATE TABLE IF NOT EXISTS incident_status (
    id serial PRIMARY KEY,
    incident_id integer REFERENCES incident (id),
    "timestamp" timestamp NOT NULL,
    text varchar NOT NULL,
    status varchar NOT NULL
);

-- The indexes that the Python dashboard's models declare.
CREATE INDEX IF NOT EXISTS ix_component_attribute_component_id ON component_attribute (component_id);
CREATE INDEX IF NOT EXISTS ix_component_attribute_id ON component_attribute (id);
CREATE INDEX IF NOT EXISTS ix_component_id ON component (id);
CREATE INDEX IF NOT EXISTS ix_incident_id ON incident (id);
CREATE INDEX IF NOT EXISTS ix_incident_status_id ON incident_status (id);
CREATE INDEX IF NOT EXISTS ix_incident_status_incident_id ON incident_status (incident_id);
CREATE UNIQUE INDEX IF NOT EXISTS inc_comp_rel ON incident_component_relation (incident_id, component_id);
