-- The state that decisions are made on. Disposable: it is folded again from the ledger when it is
-- missing, when the fold changed, or when it belongs to another ledger.
CREATE TABLE checkpoint (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  fold_version INTEGER NOT NULL,
  next_sequence INTEGER NOT NULL,
  -- Id of the last event applied, to notice a ledger that is not the one this was folded from.
  last_event_id BLOB
) STRICT;

-- One bounded row a device: its folded state at a revision of its stream.
CREATE TABLE devices (
  device TEXT PRIMARY KEY,
  revision INTEGER NOT NULL,
  state BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Index rows: challenges, sessions, KIDs and transactions of each identity.
CREATE TABLE lookups (
  key BLOB PRIMARY KEY,
  value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
