-- Reservations: what they still hold, one row a slot, and licenses by the device alone. Rows from
-- before lack them, so that all are built again from the ledger.
DELETE FROM licenses;
DELETE FROM license_events;
DELETE FROM identities;
DELETE FROM devices;
DELETE FROM accounts;
DELETE FROM account_devices;
DELETE FROM overrides;
DELETE FROM refusals;
DELETE FROM refused_keys;
DELETE FROM checkpoint;

CREATE TABLE reserved (
  -- By which the slot is counted; no license has this id.
  license_id BLOB PRIMARY KEY,
  -- Of the event that made the reservation.
  sequence INTEGER NOT NULL,
  reservation_id BLOB NOT NULL,
  device TEXT NOT NULL,
  key_id BLOB NOT NULL,
  account TEXT,
  title TEXT,
  actor TEXT NOT NULL,
  reserved_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX reserved_on_device ON reserved (device, sequence);
CREATE INDEX reserved_until ON reserved (expires_at_ms);

CREATE INDEX licenses_of_device ON licenses (device);
