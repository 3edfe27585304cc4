//! Impacts as clients write them.

use serde_json::Number;
use shared::domain::impact::Impact;

/// An impact as clients write it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ImpactInput {
    Impact(Impact),
    /// A number that is no impact.
    OutOfRange,
    /// Not a number at all, nor one of the words.
    Unreadable,
}

/// Reads an impact from text: its number or its word, exactly as documented.
pub(crate) fn impact_from_text(text: &str) -> ImpactInput {
    let mut impacts = Impact::REPORTABLE.into_iter().chain([Impact::Maintenance]);
    if let Some(impact) = impacts.find(|i| i.word() == text || i16::from(*i).to_string() == text) {
        return ImpactInput::Impact(impact);
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_whole = digits.bytes().all(|digit| digit.is_ascii_digit());
    // `01` is malformed.
    if is_whole && !digits.is_empty() && !digits.starts_with('0') {
        return ImpactInput::OutOfRange;
    }
    ImpactInput::Unreadable
}

/// Reads an impact from a number, which must be written without a fraction and without an exponent.
pub(crate) fn impact_from_number(number: &Number) -> ImpactInput {
    if let Some(number) = number.as_i64() {
        let number = i16::try_from(number).unwrap_or(i16::MAX);
        return Impact::try_from(number).map_or(ImpactInput::OutOfRange, ImpactInput::Impact);
    }
    // serde_json keeps a number beyond the range of integers as a float.
    let is_large = number.as_f64().is_some_and(|number| number.abs() >= i64::MAX as f64);
    if is_large { ImpactInput::OutOfRange } else { ImpactInput::Unreadable }
}
