//! Faults in the record of when components were affected.

use harness::verdict::Run;

pub(super) fn an_interval_is_missing(run: &mut Run) -> Option<()> {
    run.affected.pop_last().map(drop)
}

pub(super) fn an_interval_begins_earlier(run: &mut Run) -> Option<()> {
    let ((incident, component, began), interval) = run.affected.pop_first()?;
    run.affected.insert((incident, component, began.plus_micros(-1)), interval);
    Some(())
}

pub(super) fn an_interval_ends_later(run: &mut Run) -> Option<()> {
    let ended = run.affected.values_mut().find_map(|(_, ended)| ended.as_mut())?;
    *ended = ended.plus_micros(1);
    Some(())
}

pub(super) fn an_interval_has_another_impact(run: &mut Run) -> Option<()> {
    let (impact, _) = run.affected.values_mut().next()?;
    *impact = (*impact + 1) % 4;
    Some(())
}
