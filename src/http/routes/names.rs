//! Names that clients give to what they ask about.

use crate::http::problem::Problem;

/// Length of the longest name of a license, title, content group or model, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Checks a name that is kept or counted by, if there is one.
pub(super) fn check_name(
    name: Option<&str>,
    field: impl FnOnce() -> String,
) -> Result<(), Problem> {
    let fits = |name: &str| {
        (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
    };
    if name.is_none_or(fits) {
        return Ok(());
    }
    let detail = format!("must have 1 to {NAME_BYTES_MAX} bytes and no control characters");
    Err(Problem::field(field(), detail))
}
