-- Licenses that other systems issued. Their identity and session are '', and a device that was only
-- reported about has the security level -1 if nobody said which. Rows from before are built again
-- from the ledger.
DELETE FROM licenses;
DELETE FROM identities;
DELETE FROM devices;
DELETE FROM checkpoint;

ALTER TABLE licenses ADD COLUMN drm_system TEXT NOT NULL DEFAULT 'playready';
ALTER TABLE licenses ADD COLUMN license_reference TEXT;
ALTER TABLE licenses ADD COLUMN overage INTEGER NOT NULL DEFAULT 0;
