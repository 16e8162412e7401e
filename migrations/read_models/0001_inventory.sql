-- The inventory: what each device holds. May be dropped and rebuilt from the ledger at any time.
CREATE TABLE checkpoint (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  next_sequence INTEGER NOT NULL,
  -- Id of the last event applied, to notice a ledger that is not the one this was built from.
  last_event_id BLOB
) STRICT;

CREATE TABLE devices (
  device TEXT PRIMARY KEY,
  enrolled_at_ms INTEGER NOT NULL,
  enrolled_sequence INTEGER NOT NULL,
  security_level INTEGER NOT NULL,
  model TEXT NOT NULL,
  last_event_at_ms INTEGER NOT NULL,
  persistent_acquired INTEGER NOT NULL DEFAULT 0,
  non_persistent_acquired INTEGER NOT NULL DEFAULT 0,
  refused INTEGER NOT NULL DEFAULT 0,
  deleted INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE identities (
  identity TEXT PRIMARY KEY,
  device TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX identities_of_device ON identities (device);

-- Persistent licenses, by the sequence of their acquisition.
CREATE TABLE licenses (
  sequence INTEGER PRIMARY KEY,
  license_id BLOB NOT NULL UNIQUE,
  device TEXT NOT NULL,
  identity TEXT NOT NULL,
  key_id BLOB NOT NULL,
  session TEXT NOT NULL,
  session_explicit INTEGER NOT NULL,
  transaction_id BLOB,
  acquired_at_ms INTEGER NOT NULL,
  counted_until_ms INTEGER,
  stored_at_ms INTEGER,
  store_failed_at_ms INTEGER,
  deleted_at_ms INTEGER,
  deletion_grade TEXT,
  -- 1 until an event ends the license; whether it has expired is a matter of the time of asking.
  open INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX open_licenses ON licenses (device, key_id) WHERE open = 1;
CREATE INDEX weakly_released ON licenses (device, key_id)
  WHERE open = 0 AND deletion_grade IN ('C', 'D', 'E');
