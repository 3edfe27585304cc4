//! The table at the end.

use std::{
    collections::BTreeSet,
    fmt::{Display, Write},
    sync::Arc,
    time::Duration,
};

use harness::verdict::{Kind, RunVerdict};
use shared::domain::condition::Condition;

use crate::{
    interruption::{self, Interruption},
    member::Member,
    operator::Edits,
    published::Published,
    record::{Attempt, AttemptResult},
    storm::Tally,
};

/// What a run ended with.
pub(crate) struct Report<'a> {
    pub(crate) attempts: &'a [Attempt],
    pub(crate) reads: usize,
    pub(crate) tally: &'a Tally,
    pub(crate) verdict: &'a RunVerdict,
    /// Rows of the inbox.
    pub(crate) rows: usize,
    pub(crate) edits: &'a Edits,
    pub(crate) published: &'a Published,
    pub(crate) members: &'a [Arc<Member>],
    /// All else that must not be.
    pub(crate) wrong: &'a [String],
}

impl Report<'_> {
    /// Whether all is as promised.
    pub(crate) fn is_good(&self) -> bool {
        self.verdict.violations.is_empty() && self.wrong.is_empty()
    }

    /// The table, as Markdown.
    pub(crate) fn table(&self) -> String {
        let count = |such: fn(&AttemptResult) -> bool| {
            self.attempts.iter().filter(|attempt| such(&attempt.result)).count()
        };
        let again = |attempt: &&Attempt| attempt.again;
        let retries = self.attempts.iter().filter(again).count();
        let failed = self.attempts.iter().filter(again).filter(|a| !a.result.is_taken()).count();
        let mut updates: Vec<&str> = self.attempts.iter().map(|a| a.update.as_str()).collect();
        updates.sort_unstable();
        updates.dedup();
        let peak = |role: &str| {
            let all = self.members.iter().filter(|member| member.name.starts_with(role));
            all.map(|member| member.peak() >> 20).max().unwrap_or_default()
        };
        let found = |kind: Kind| self.verdict.of(kind).count();
        let compared = &self.verdict.compared;
        let tally = self.tally;
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());

        let mut table = "| what | how much |\n|---|---|\n".to_owned();
        let mut row = |what: &str, how_much: &dyn Display| {
            // Writing to a string can't fail.
            writeln!(table, "| {what} | {how_much} |").ok();
        };
        row("updates", &updates.len());
        row("attempts to send one", &self.attempts.len());
        row("of these together with others", &{
            self.attempts.iter().filter(|attempt| attempt.together.is_some()).count()
        });
        row("of these `ok`", &{
            self.attempts.iter().filter(|attempt| attempt.condition == Condition::Ok).count()
        });
        row("of these of alerts", &{
            self.attempts.iter().filter(|attempt| attempt.alert.is_some()).count()
        });
        row("of these with a source", &{
            self.attempts.iter().filter(|attempt| attempt.source.is_some()).count()
        });
        row(
            "200 and 201, with the outcome",
            &count(|t| matches!(t, AttemptResult::Outcome { .. })),
        );
        row("200 to alerts, which are queued", &count(|t| matches!(t, AttemptResult::Queued)));
        row("202", &count(|t| matches!(t, AttemptResult::Accepted(_))));
        row("503, nothing was queued", &count(|t| matches!(t, AttemptResult::Refused(..))));
        row(
            "503, may have been queued or not",
            &count(|t| matches!(t, AttemptResult::Unknown(..))),
        );
        row("503, 422 or 400, messages have no reports then", &{
            count(|t| matches!(t, AttemptResult::NoReports))
        });
        row("no answer", &count(|t| matches!(t, AttemptResult::Nothing(_))));
        row("sent again to the other gateway", &retries);
        row("of these no 2xx either", &failed);
        row("lists read and compared", &self.reads);
        row("edits by operators, committed", &compared.foreign);
        row("of these beside a batch", &compared.beside);
        row("edits held open for up to 4 s", &self.edits.held);
        row("edits that failed, or whose end nobody knows", &self.edits.unknown);
        row("messages to RabbitMQ that were counted", &self.published.messages);
        row("updates in one of them, on average", &{
            format!("{:.2}", self.published.updates_per_message())
        });
        row("updates in the inbox", &self.rows);
        row("decided by the model, too", &compared.updates());
        row("changes", &compared.changes);
        row("of these recoveries by `ok`", &compared.recoveries());
        row("late copies of alerts, and of their ends", &compared.late());
        row("entries of timelines", &compared.entries);
        row("**lost**", &found(Kind::Lost));
        row("**doubled**", &found(Kind::Doubled));
        row("**out of order**", &found(Kind::OutOfOrder));
        row("answered otherwise than decided", &found(Kind::AnsweredOtherwise));
        row("decided otherwise than by the model", &found(Kind::DecidedOtherwise));
        row("another state than the model's", &found(Kind::State));
        row("another timeline than the model's", &found(Kind::Timeline));
        row("**edits by others undone**", &found(Kind::ForeignEditUndone));
        row("parked without a reason of the model's", &found(Kind::ParkedUnasked));
        row("not parked although the model has a reason", &found(Kind::NotParked));
        row("affected otherwise than the journal tells", &found(Kind::Affected));
        row("transactions that are not explained", &found(Kind::Unexplained));
        row("other violations", &self.wrong.len());
        row("faults", &tally.broken.len());
        row("changes of the topology that were given up", &tally.changes_given_up);
        row("changes of the topology that were killed", &tally.changes_killed);
        row("times of trouble, of up to five faults that overlap", &tally.episodes);
        row(
            "after such a time: longest until every gateway gave outcomes and the backlog was settled",
            &seconds(tally.longest_recovery),
        );
        row(
            "after such a time: longest until the last answer without an outcome",
            &seconds(tally.longest_unease),
        );
        row("maximum memory of a gateway", &format!("{} MiB", peak("gateway")));
        row("maximum memory of a worker", &format!("{} MiB", peak("worker")));
        table
    }

    /// What was broken, and how long there were no good answers, as Markdown.
    pub(crate) fn interruptions(&self) -> String {
        let mut table =
            "| fault | times | longest without a 2xx, alone | without an outcome, alone | \
            without an outcome, with others |\n|---|---|---|---|---|\n"
                .to_owned();
        let seconds = |time: Option<Duration>| match time {
            Some(time) => format!("{:.1} s", time.as_secs_f64()),
            None => "–".to_owned(),
        };
        for (kind, found) in interruption::by_kind(&self.tally.broken, self.attempts) {
            let Interruption { times, untaken, undecided, undecided_beside } = found;
            writeln!(
                table,
                "| {kind} | {times} | {} | {} | {} |",
                seconds(untaken),
                seconds(undecided),
                seconds(undecided_beside)
            )
            .ok();
        }
        table
    }

    /// The findings, some of each.
    pub(crate) fn findings(&self) -> String {
        let mut text = String::new();
        let kinds: BTreeSet<Kind> = self.verdict.violations.iter().map(|each| each.kind).collect();
        for kind in kinds {
            for each in self.verdict.of(kind).take(10) {
                writeln!(text, "{kind}: {each}").ok();
            }
        }
        for each in self.wrong.iter().take(10) {
            writeln!(text, "wrong: {each}").ok();
        }
        text
    }
}
