-- By which event something became known of a license, or a device of an account became another one:
-- so that a list can show what it was at an earlier position. Rows from before lack it, and the moves
-- among the events of a license, so that all are built again from the ledger.
DELETE FROM licenses;
DELETE FROM license_events;
DELETE FROM identities;
DELETE FROM devices;
DELETE FROM accounts;
DELETE FROM account_devices;
DELETE FROM overrides;
DELETE FROM refusals;
DELETE FROM refused_keys;
DELETE FROM reserved;
DELETE FROM acts;
DELETE FROM checkpoint;

ALTER TABLE licenses ADD COLUMN stored_sequence INTEGER;
ALTER TABLE licenses ADD COLUMN store_failed_sequence INTEGER;
ALTER TABLE licenses ADD COLUMN deleted_sequence INTEGER;
ALTER TABLE licenses ADD COLUMN voided_sequence INTEGER;
ALTER TABLE licenses ADD COLUMN written_off_sequence INTEGER;
-- Of the event since which it is not open.
ALTER TABLE licenses ADD COLUMN ended_sequence INTEGER;
-- The device that it was on before it moved to another one the last time.
ALTER TABLE licenses ADD COLUMN moved_from TEXT;
ALTER TABLE licenses ADD COLUMN moved_sequence INTEGER;
CREATE INDEX moved_licenses ON licenses (moved_from) WHERE moved_from IS NOT NULL;

-- Of the event since which another device goes on in its place.
ALTER TABLE account_devices ADD COLUMN moved_sequence INTEGER;
