//! What both programs report of themselves: metrics, health, logs and traces.

mod metrics;
mod traces;

use harness::tests_of;

tests_of!(metrics, traces, traces::strangers);
