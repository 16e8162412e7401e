-- What operators did about devices, since when an account has a device, and whether that is by
-- reservations alone. Rows from before lack it, so that all are built again from the ledger.
DELETE FROM licenses;
DELETE FROM license_events;
DELETE FROM identities;
DELETE FROM devices;
DELETE FROM accounts;
DELETE FROM overrides;
DELETE FROM refusals;
DELETE FROM refused_keys;
DELETE FROM reserved;
DELETE FROM checkpoint;

DROP TABLE account_devices;
-- Devices that ever had a persistent license, or a reservation of one, at an account's expense.
CREATE TABLE account_devices (
  account TEXT NOT NULL,
  device TEXT NOT NULL,
  -- When it got the first license, or, while it has none, the first reservation.
  added_at_ms INTEGER NOT NULL,
  only_reserved INTEGER NOT NULL,
  -- Of the event by which it was first named.
  sequence INTEGER NOT NULL,
  PRIMARY KEY (account, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE acts (
  device TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  act TEXT NOT NULL,
  identity TEXT,
  other TEXT,
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  PRIMARY KEY (device, sequence)
) STRICT, WITHOUT ROWID;
