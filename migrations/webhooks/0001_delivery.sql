-- What webhooks were delivered, and what is derived to tell when a limit is near.

-- How far the events are folded.
CREATE TABLE checkpoint (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  fold_version INTEGER NOT NULL,
  next_sequence INTEGER NOT NULL,
  -- Id of the last event applied, to notice a ledger that is not the one this belongs to.
  last_event_id BLOB,
  -- The policy in force at that place, JSON, and its revision.
  policy BLOB,
  policy_revision INTEGER
) STRICT;

-- Derived: one bounded row a stream whose slots are counted.
CREATE TABLE holders (
  stream TEXT PRIMARY KEY,
  state BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Derived: shares of a limit that were reached, by the event that did it; JSON.
CREATE TABLE crossings (
  sequence INTEGER NOT NULL,
  percent INTEGER NOT NULL,
  crossing BLOB NOT NULL,
  PRIMARY KEY (sequence, percent)
) STRICT, WITHOUT ROWID;

-- From here on nothing can be derived again: what an endpoint was sent.
CREATE TABLE endpoints (
  id TEXT PRIMARY KEY,
  -- Whether the configuration has it.
  configured INTEGER NOT NULL,
  -- All before were tried once.
  next_sequence INTEGER NOT NULL,
  -- Failed attempts since the last one that did not fail.
  failures INTEGER NOT NULL DEFAULT 0,
  failing_since_ms INTEGER,
  -- No first attempts before.
  hold_until_ms INTEGER NOT NULL DEFAULT 0,
  disabled_at_ms INTEGER,
  disabled_by TEXT,
  last_delivered_ms INTEGER,
  last_error TEXT
) STRICT, WITHOUT ROWID;

-- Messages whose last attempt failed. Part 0 is the event of the sequence, others are shares.
CREATE TABLE failed (
  endpoint TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  part INTEGER NOT NULL,
  message_id BLOB NOT NULL,
  type TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  -- When it is tried again; NULL in a dead letter.
  due_ms INTEGER,
  first_failed_ms INTEGER NOT NULL,
  last_failed_ms INTEGER NOT NULL,
  last_error TEXT NOT NULL,
  PRIMARY KEY (endpoint, sequence, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX failed_due ON failed (endpoint, due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX dead_letters ON failed (endpoint, sequence, part) WHERE due_ms IS NULL;

-- Ranges that somebody asked for again: from next_sequence up to and without until_sequence.
CREATE TABLE replays (
  id INTEGER PRIMARY KEY,
  endpoint TEXT NOT NULL,
  next_sequence INTEGER NOT NULL,
  until_sequence INTEGER NOT NULL
) STRICT;
CREATE INDEX replays_of_endpoint ON replays (endpoint, id);
