//! Names that clients give to what they ask about.

use crate::domain::Name;
use crate::http::problem::Problem;

/// Checks a name that is kept or counted by, if there is one.
pub(super) fn check_name(
    name: Option<&str>,
    field: impl FnOnce() -> String,
) -> Result<(), Problem> {
    let checked = name.map_or(Ok(()), Name::check);
    checked.map_err(|invalid| Problem::field(field(), invalid.to_string()))
}
