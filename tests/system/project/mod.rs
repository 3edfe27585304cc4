//! What the repository says of itself is true: its documents, its layout, its files for deployment.

mod deployment;
mod documents;
mod layout;
mod runbook;
mod tour;
mod worked_example;

use harness::tests_of;

tests_of!(deployment, documents, layout, runbook, tour, worked_example);
