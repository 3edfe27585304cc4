//! Expressions that a running node evaluates.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result, bail};

use crate::process;

/// Seconds after which it is given up; a virtual host may take half of them.
const LIMIT: &str = "60";

/// Has a node evaluate expressions with `erl_call`, which finds the node and its cookie by its environment, and
/// returns the value of the last one.
pub(super) fn evaluate(mut erl_call: Command, node: &str, expressions: &str) -> Result<String> {
    // A node accepts each name once, so what is asked at the same time needs names of its own.
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let name = format!("call{call}of{}", std::process::id());
    erl_call.args(["-sname", node, "-h", &name, "-timeout", LIMIT, "-e"]);
    erl_call.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = erl_call.spawn().context("erl_call can't be run")?;
    let mut input = running.stdin.take().context("erl_call has no input")?;
    // A full stop ends them only before white space.
    let written = writeln!(input, "{expressions}");
    drop(input);
    let output = running.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let (ended, why) =
            (process::describe(output.status), String::from_utf8_lossy(&output.stderr));
        bail!("erl_call on {node} failed ({ended}): {}", why.trim());
    }
    written.context("erl_call did not read the expressions")?;
    match value(&said) {
        Some(value) => Ok(value.to_owned()),
        None => bail!("{node} can't evaluate `{expressions}`: {}", said.trim()),
    }
}

/// The value, if what `erl_call` prints has one.
fn value(said: &str) -> Option<&str> {
    said.trim().strip_prefix("{ok, ")?.strip_suffix('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_evaluated_has_a_value() {
        assert_eq!(value("{ok, ok}\n"), Some("ok"));
        assert_eq!(value("{ok, {3, []}}"), Some("{3, []}"));
        assert_eq!(value(r#"{error, "Incomplete form (missing .<cr>)??"}"#), None);
        assert_eq!(value(""), None);
    }
}
