-- Licenses that a rule voided, and what finds those that one may void. Rows from before lack the
-- security level, so that they are built again from the ledger.
DELETE FROM licenses;
DELETE FROM identities;
DELETE FROM devices;
DELETE FROM checkpoint;

ALTER TABLE devices ADD COLUMN voided INTEGER NOT NULL DEFAULT 0;

ALTER TABLE licenses ADD COLUMN security_level INTEGER NOT NULL DEFAULT 0;
ALTER TABLE licenses ADD COLUMN voided_at_ms INTEGER;
ALTER TABLE licenses ADD COLUMN void_reason TEXT;

-- What a device has not confirmed, in the order in which the time for that runs out.
CREATE INDEX unconfirmed ON licenses (acquired_at_ms) WHERE open = 1 AND stored_at_ms IS NULL;
-- What a device may still hold although it was voided.
CREATE INDEX voided ON licenses (device, voided_at_ms)
  WHERE voided_at_ms IS NOT NULL AND deleted_at_ms IS NULL;
