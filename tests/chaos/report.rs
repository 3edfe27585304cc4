//! The table at the end.

use std::fmt::Write;

use crate::{
    member::Member,
    record::{Attempt, Told},
    storm::Tally,
    verdict::Verdict,
};

/// What a run ended with.
pub(crate) struct Report<'a> {
    pub(crate) attempts: &'a [Attempt],
    pub(crate) reads: usize,
    pub(crate) tally: &'a Tally,
    pub(crate) verdict: &'a Verdict,
    pub(crate) closings: usize,
    pub(crate) members: &'a [std::sync::Arc<Member>],
    /// What the replay and other checks of the state say, if they do not agree.
    pub(crate) state: Option<String>,
    /// All else that must not be.
    pub(crate) wrong: &'a [String],
}

impl Report<'_> {
    /// Whether all is as promised.
    pub(crate) fn is_good(&self) -> bool {
        let Verdict { lost, doubled, out_of_order, told_wrong, parked, rows: _ } = self.verdict;
        let findings = [lost, doubled, out_of_order, told_wrong, parked];
        findings.iter().all(|found| found.is_empty())
            && self.state.is_none()
            && self.wrong.is_empty()
    }

    /// The table, as Markdown.
    pub(crate) fn table(&self) -> String {
        let count = |such: fn(&Told) -> bool| {
            self.attempts.iter().filter(|attempt| such(&attempt.told)).count()
        };
        let again = |attempt: &&Attempt| attempt.again;
        let retries = self.attempts.iter().filter(again).count();
        let failed =
            self.attempts.iter().filter(again).filter(|a| a.told.taken().is_none()).count();
        let mut updates: Vec<&str> = self.attempts.iter().map(|a| a.update.as_str()).collect();
        updates.sort_unstable();
        updates.dedup();
        let peak = |role: &str| {
            let all = self.members.iter().filter(|member| member.name.starts_with(role));
            let peaks: Vec<String> = all.map(|member| (member.peak() >> 20).to_string()).collect();
            format!("{} MiB", peaks.join(", "))
        };
        let tally = self.tally;
        let verdict = self.verdict;
        let rows = [
            ("updates", updates.len().to_string()),
            (
                "requests: those, and again with a key what had no 2xx",
                self.attempts.len().to_string(),
            ),
            (
                "answered 201 or 200, with the outcome",
                count(|t| matches!(t, Told::Outcome { .. })).to_string(),
            ),
            ("answered 202", count(|t| matches!(t, Told::Accepted(_))).to_string()),
            (
                "answered 503: nothing was queued",
                count(|t| matches!(t, Told::Refused(..))).to_string(),
            ),
            (
                "answered 503: may have been queued",
                count(|t| matches!(t, Told::Unknown(..))).to_string(),
            ),
            ("no answer", count(|t| matches!(t, Told::Nothing(_))).to_string()),
            ("sent again to the other gateway; of these no 2xx", format!("{retries}; {failed}")),
            ("lists read and compared", self.reads.to_string()),
            ("times an operator closed all incidents", self.closings.to_string()),
            ("updates in the inbox", verdict.rows.to_string()),
            ("**lost**", verdict.lost.len().to_string()),
            ("**doubled**", verdict.doubled.len().to_string()),
            ("**out of order**", verdict.out_of_order.len().to_string()),
            ("told otherwise than decided", verdict.told_wrong.len().to_string()),
            ("parked", verdict.parked.len().to_string()),
            (
                "replay of the inbox gives the state",
                self.state.as_deref().unwrap_or("yes").to_owned(),
            ),
            ("what else must not be", self.wrong.len().to_string()),
            ("processes killed (SIGKILL)", tally.kills.to_string()),
            ("processes stalled (SIGSTOP, 1–20 s)", tally.stalls.to_string()),
            ("processes told to stop and started again", tally.rolls.to_string()),
            (
                "servers stopped and started; killed and started; stalled",
                format!(
                    "{}; {}; {}",
                    tally.server_restarts, tally.server_kills, tally.server_stalls
                ),
            ),
            ("connections cut, silenced or delayed", tally.cuts.to_string()),
            ("RabbitMQ short of memory", tally.alarms.to_string()),
            (
                "topology changed; given up; command killed",
                format!(
                    "{}; {}; {}",
                    tally.reshapes, tally.reshapes_given_up, tally.reshapes_killed
                ),
            ),
            ("times of trouble, of up to five faults that overlap", tally.episodes.to_string()),
            ("longest time to recover", format!("{:.1} s", tally.longest_recovery.as_secs_f64())),
            ("most memory: gateways; workers", format!("{}; {}", peak("gateway"), peak("worker"))),
        ];
        let mut table = "| what | how much |\n|---|---|\n".to_owned();
        for (what, how_much) in rows {
            // Writing to a string can't fail.
            writeln!(table, "| {what} | {how_much} |").ok();
        }
        table
    }

    /// The findings, some of each.
    pub(crate) fn findings(&self) -> String {
        let Verdict { lost, doubled, out_of_order, told_wrong, parked, rows: _ } = self.verdict;
        let all = [
            ("LOST", lost.as_slice()),
            ("DOUBLED", doubled),
            ("OUT OF ORDER", out_of_order),
            ("TOLD WRONG", told_wrong),
            ("PARKED", parked),
            ("WRONG", self.wrong),
        ];
        let mut text = String::new();
        for (name, found) in all {
            for each in found.iter().take(10) {
                writeln!(text, "{name}: {each}").ok();
            }
        }
        if let Some(state) = &self.state {
            writeln!(text, "STATE: {state}").ok();
        }
        text
    }
}
