-- Accounts, their devices and titles, limits set by operators, refusals, and which events a license
-- has. Rows from before lack them, so that all are built again from the ledger.
DELETE FROM licenses;
DELETE FROM identities;
DELETE FROM devices;
DELETE FROM checkpoint;

CREATE TABLE accounts (
  account TEXT PRIMARY KEY,
  -- When, and with which event, it was first named.
  first_at_ms INTEGER NOT NULL,
  first_sequence INTEGER NOT NULL UNIQUE,
  last_event_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Devices that ever had a persistent license, or a reservation of one, at an account's expense.
CREATE TABLE account_devices (
  account TEXT NOT NULL,
  device TEXT NOT NULL,
  added_at_ms INTEGER NOT NULL,
  PRIMARY KEY (account, device)
) STRICT, WITHOUT ROWID;

-- The newest limit set for a device or an account and rule; a limit that was taken back is gone.
CREATE TABLE overrides (
  -- 'device' or 'account'
  kind TEXT NOT NULL,
  holder TEXT NOT NULL,
  rule TEXT NOT NULL,
  max_in_use INTEGER NOT NULL,
  until_ms INTEGER,
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  set_at_ms INTEGER NOT NULL,
  PRIMARY KEY (kind, holder, rule)
) STRICT, WITHOUT ROWID;

CREATE TABLE refusals (
  sequence INTEGER PRIMARY KEY,
  device TEXT NOT NULL,
  account TEXT,
  rule TEXT NOT NULL,
  max_in_use INTEGER NOT NULL,
  in_use INTEGER NOT NULL,
  requested INTEGER NOT NULL,
  policy_version INTEGER NOT NULL,
  refused_at_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX refusals_of_device ON refusals (device);
CREATE INDEX refusals_of_account ON refusals (account) WHERE account IS NOT NULL;

CREATE TABLE refused_keys (
  key_id BLOB NOT NULL,
  sequence INTEGER NOT NULL,
  PRIMARY KEY (key_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX keys_of_refusal ON refused_keys (sequence);

-- Events about a license after its acquisition.
CREATE TABLE license_events (
  license_id BLOB NOT NULL,
  sequence INTEGER NOT NULL,
  PRIMARY KEY (license_id, sequence)
) STRICT, WITHOUT ROWID;

CREATE INDEX licenses_of_key ON licenses (key_id);
CREATE INDEX licenses_of_account ON licenses (account, title) WHERE account IS NOT NULL;
