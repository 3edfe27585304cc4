//! What the repository says of itself is true: its documents, its layout, reference, its files for deployment.

mod deployment;
mod documents;
mod imports;
mod layout;
mod migrations;
mod reference;
mod runbook;
mod sizes;
mod sql;
mod tour;
mod worked_example;

use harness::tests_of;

tests_of!(
    deployment,
    documents,
    layout,
    migrations,
    reference,
    runbook,
    sizes,
    sql,
    tour,
    worked_example
);
