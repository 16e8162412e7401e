//! Time is a value that is passed in.
//!
//! Only the outermost layer asks a [`Clock`] what time it is, once for each operation; everything
//! below it gets a [`UnixMillis`]. The same history therefore gives the same decision on every
//! machine, and a test can move time by hand.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use utoipa::ToSchema;

/// A moment: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
///
/// Its JSON form is RFC 3339 text; events store the number itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ToSchema)]
#[schema(as = Time, value_type = String, format = DateTime, example = "2026-03-31T12:00:00.000Z",
    description = "A moment: RFC 3339 in UTC with milliseconds.")]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// Whole seconds since 1970, rounded down.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The moment as RFC 3339 text in UTC with milliseconds: `2026-03-31T12:00:00.000Z`.
    ///
    /// RFC 3339 has no years beyond 0000 to 9999; moments outside show the nearest one inside.
    pub fn to_rfc3339(self) -> String {
        let nanos = i128::from(self.0.clamp(YEAR_0000_MS, YEAR_9999_MS)) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanos)
            .ok()
            .and_then(|moment| moment.format(RFC3339_MILLIS).ok())
            .unwrap_or_default()
    }
}

impl Serialize for UnixMillis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

/// The text is no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a time as RFC 3339 has it, such as 2026-03-31T12:00:00Z")]
pub struct InvalidTime;

impl std::str::FromStr for UnixMillis {
    type Err = InvalidTime;

    /// Reads RFC 3339 with any offset; what is finer than a millisecond is dropped.
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTime)?;
        let millis = moment.unix_timestamp_nanos().div_euclid(1_000_000);
        i64::try_from(millis).map(Self).map_err(|_| InvalidTime)
    }
}

/// RFC 3339 text with any offset; what is below a millisecond is dropped.
impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// Where the time comes from. Clones of a manual clock share one time.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A time that a test sets: milliseconds since 1970.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands still at `at` until [`Clock::Manual`]'s value is changed.
    pub fn manual(at: UnixMillis) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(at.0)))
    }

    /// The present moment. A machine clock set before 1970 reads as 1970.
    pub fn now(&self) -> UnixMillis {
        match self {
            Self::System => {
                #[allow(clippy::disallowed_methods)] // the one place that reads the machine's clock
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                UnixMillis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
            }
            Self::Manual(at) => UnixMillis(at.load(Ordering::SeqCst)),
        }
    }
}

const YEAR_0000_MS: i64 = -62_167_219_200_000;
const YEAR_9999_MS: i64 = 253_402_300_799_999;
const RFC3339_MILLIS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_rfc3339_in_utc_with_milliseconds() {
        assert_eq!(UnixMillis(0).to_rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(UnixMillis(1_774_958_400_007).to_rfc3339(), "2026-03-31T12:00:00.007Z");
        assert_eq!(UnixMillis(-1).to_rfc3339(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn shows_the_nearest_year_that_rfc3339_has() {
        assert_eq!(UnixMillis(i64::MAX).to_rfc3339(), "9999-12-31T23:59:59.999Z");
        assert_eq!(UnixMillis(i64::MIN).to_rfc3339(), "0000-01-01T00:00:00.000Z");
    }

    #[test]
    fn rounds_seconds_down_before_1970_too() {
        assert_eq!(UnixMillis(1_999).seconds(), 1);
        assert_eq!(UnixMillis(-1).seconds(), -1);
    }

    #[test]
    fn reads_rfc3339_with_any_offset_and_nothing_else() {
        let read = |text: &str| text.parse::<UnixMillis>();
        assert_eq!(read("2023-11-14T22:13:20.123Z"), Ok(UnixMillis(1_700_000_000_123)));
        assert_eq!(read("2023-11-15T00:13:20+02:00"), Ok(UnixMillis(1_700_000_000_000)));
        assert_eq!(read("1969-12-31T23:59:59.9999Z"), Ok(UnixMillis(-1)));
        for text in ["", "tomorrow", "1700000000", "2023-11-14", "2023-13-01T00:00:00Z"] {
            assert_eq!(read(text), Err(InvalidTime), "{text}");
        }
    }

    #[test]
    fn is_rfc3339_in_json() {
        let json = serde_json::to_string(&UnixMillis(12)).unwrap();
        assert_eq!(json, r#""1970-01-01T00:00:00.012Z""#);
    }

    #[test]
    fn is_read_from_rfc3339_with_any_offset() {
        for (text, millis) in [
            ("1970-01-01T00:00:00.012Z", 12),
            ("1970-01-01T01:00:00.012999+01:00", 12),
            ("1969-12-31T23:59:59.9999Z", -1),
        ] {
            let json = format!("{text:?}");
            assert_eq!(serde_json::from_str::<UnixMillis>(&json).unwrap(), UnixMillis(millis));
        }
        for text in ["", "1970-01-01", "1970-01-01T00:00:00", "12", "1970-13-01T00:00:00Z"] {
            assert!(serde_json::from_str::<UnixMillis>(&format!("{text:?}")).is_err(), "{text}");
        }
    }

    #[test]
    fn clones_of_a_manual_clock_share_one_time() {
        let clock = Clock::manual(UnixMillis(5));
        let other = clock.clone();
        if let Clock::Manual(at) = &clock {
            at.store(9, Ordering::SeqCst);
        }
        assert_eq!(other.now(), UnixMillis(9));
    }

    #[test]
    fn the_system_clock_is_past_2026() {
        assert!(Clock::System.now() > UnixMillis(1_767_225_600_000));
    }
}
