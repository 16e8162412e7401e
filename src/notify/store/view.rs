//! What operators see of delivery.

use rusqlite::{Row, params};
use serde::Serialize;
use uuid::Uuid;

use super::{Store, StoreError};
use crate::clock::UnixMillis;

/// How delivery to one endpoint stands.
#[derive(Clone, Debug, Serialize)]
pub struct State {
    /// `active`, `failing`, `down` (new messages wait), `disabled`.
    pub status: &'static str,
    /// The position up to which everything was tried once; what failed is tried again apart from it.
    pub position: String,
    /// When attempts began to fail, if the last one did.
    pub failing_since: Option<UnixMillis>,
    /// Failed attempts since the last one that did not fail.
    pub failures: u32,
    /// When it was disabled, if it is.
    pub disabled_at: Option<UnixMillis>,
    /// By what: `status 410`, or `operator`.
    pub disabled_by: Option<String>,
    /// When a message was last delivered.
    pub last_delivered_at: Option<UnixMillis>,
    /// What the last failed attempt failed of.
    pub last_error: Option<String>,
    /// Messages that are going to be tried again.
    pub retrying: u64,
    /// When the next of them is due.
    pub next_retry_at: Option<UnixMillis>,
    /// Messages that are not tried again.
    pub dead_letters: u64,
    /// What is being sent again, oldest request first.
    pub replays: Vec<Replaying>,
}

/// A range that is being sent again.
#[derive(Clone, Debug, Serialize)]
pub struct Replaying {
    /// All before was tried once more.
    pub position: String,
    /// Where it ends.
    pub to: String,
}

/// A message whose last attempt failed.
#[derive(Clone, Debug, Serialize)]
pub struct DeadLetter {
    /// Its `webhook-id`.
    pub message_id: Uuid,
    /// Its type.
    pub r#type: String,
    /// The sequence of the event that it is about.
    pub sequence: u64,
    /// Attempts it had.
    pub attempts: u32,
    /// When the first one failed.
    pub first_failed_at: UnixMillis,
    /// When the last one failed.
    pub last_failed_at: UnixMillis,
    /// What that failed of.
    pub last_error: String,
    #[serde(skip)]
    part: u8,
}

/// Figures of all endpoints together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) failing: i64,
    pub(crate) disabled: i64,
    pub(crate) dead_letters: i64,
    /// The lowest place that an endpoint which is not disabled has come to.
    pub(crate) slowest: Option<u64>,
}

impl DeadLetter {
    /// Its place in the list.
    pub const fn place(&self) -> (u64, u8) {
        (self.sequence, self.part)
    }
}

impl Store {
    /// Sequence of the next event to fold.
    pub(crate) fn folded(&self) -> Result<u64, StoreError> {
        self.read(|db| db.query_row("SELECT next_sequence FROM checkpoint", [], |row| row.get(0)))
    }

    /// How delivery to an endpoint stands; `None` if it was never served.
    pub(crate) fn state(&self, endpoint: &str) -> Result<Option<State>, StoreError> {
        self.read(|db| {
            let mut query = db.prepare_cached(SELECT_STATE)?;
            let mut states = query.query_map([endpoint], state)?;
            let Some(mut state) = states.next().transpose()? else { return Ok(None) };
            let mut query = db.prepare_cached(
                "SELECT next_sequence, until_sequence FROM replays WHERE endpoint = ?1 ORDER BY id",
            )?;
            let replays = query.query_map([endpoint], |row| {
                let [position, to] = [row.get::<_, u64>(0)?, row.get(1)?].map(|at| at.to_string());
                Ok(Replaying { position, to })
            })?;
            state.replays = replays.collect::<Result<_, _>>()?;
            Ok(Some(state))
        })
    }

    /// Up to `limit` dead letters of an endpoint behind this place, in the order of the ledger.
    pub(crate) fn dead_letters(
        &self,
        endpoint: &str,
        after: Option<(u64, u8)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let (sequence, part) = after.map_or((-1, 0), |(sequence, part)| {
            (i64::try_from(sequence).unwrap_or(i64::MAX), i64::from(part))
        });
        self.read(|db| {
            let mut query = db.prepare_cached(
                "SELECT message_id, type, sequence, attempts, first_failed_ms, last_failed_ms,
                   last_error, part FROM failed
                 WHERE endpoint = ?1 AND due_ms IS NULL AND (sequence, part) > (?2, ?3)
                 ORDER BY sequence, part LIMIT ?4",
            )?;
            let letters = query.query_map(params![endpoint, sequence, part, limit], |row| {
                Ok(DeadLetter {
                    message_id: Uuid::from_bytes(row.get(0)?),
                    r#type: row.get(1)?,
                    sequence: row.get(2)?,
                    attempts: row.get(3)?,
                    first_failed_at: UnixMillis(row.get(4)?),
                    last_failed_at: UnixMillis(row.get(5)?),
                    last_error: row.get(6)?,
                    part: row.get(7)?,
                })
            })?;
            letters.collect()
        })
    }

    /// Figures of all endpoints that are configured.
    pub(crate) fn figures(&self) -> Result<Figures, StoreError> {
        self.read(|db| {
            db.prepare_cached(
                "SELECT COUNT(failing_since_ms), COUNT(disabled_at_ms),
                   MIN(CASE WHEN disabled_at_ms IS NULL THEN next_sequence END),
                   (SELECT COUNT(*) FROM failed WHERE due_ms IS NULL
                      AND endpoint IN (SELECT id FROM endpoints WHERE configured))
                 FROM endpoints WHERE configured",
            )?
            .query_row([], |row| {
                Ok(Figures {
                    failing: row.get(0)?,
                    disabled: row.get(1)?,
                    slowest: row.get(2)?,
                    dead_letters: row.get(3)?,
                })
            })
        })
    }
}

fn state(row: &Row<'_>) -> rusqlite::Result<State> {
    let moment = |at: Option<i64>| at.map(UnixMillis);
    let failing_since = moment(row.get(1)?);
    let (failures, disabled_at) = (row.get(2)?, moment(row.get(3)?));
    let status = match (disabled_at, failing_since) {
        (Some(_), _) => "disabled",
        (None, Some(_)) if failures >= crate::notify::schedule::FAILURES_DOWN => "down",
        (None, Some(_)) => "failing",
        (None, None) => "active",
    };
    Ok(State {
        status,
        position: row.get::<_, u64>(0)?.to_string(),
        failing_since,
        failures,
        disabled_at,
        disabled_by: row.get(4)?,
        last_delivered_at: moment(row.get(5)?),
        last_error: row.get(6)?,
        retrying: row.get(7)?,
        next_retry_at: moment(row.get(8)?),
        dead_letters: row.get(9)?,
        replays: Vec::new(),
    })
}

const SELECT_STATE: &str = "SELECT next_sequence, failing_since_ms, failures, disabled_at_ms,
      disabled_by, last_delivered_ms, endpoints.last_error, COUNT(due_ms), MIN(due_ms),
      COUNT(failed.sequence) - COUNT(due_ms)
    FROM endpoints LEFT JOIN failed ON failed.endpoint = endpoints.id
    WHERE endpoints.id = ?1 GROUP BY endpoints.id";
