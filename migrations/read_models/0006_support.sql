-- What operators said of licenses and devices. There was nothing of the kind before.
ALTER TABLE licenses ADD COLUMN written_off_at_ms INTEGER;
ALTER TABLE licenses ADD COLUMN written_off_by TEXT;
ALTER TABLE licenses ADD COLUMN write_off_reason TEXT;
-- Until when a license that was written off counts all the same.
ALTER TABLE licenses ADD COLUMN frees_at_ms INTEGER;
-- What a device may still hold although it was written off.
CREATE INDEX written_off ON licenses (device, written_off_at_ms)
  WHERE written_off_at_ms IS NOT NULL AND deleted_at_ms IS NULL;

ALTER TABLE devices ADD COLUMN written_off INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN blocked_at_ms INTEGER;
ALTER TABLE devices ADD COLUMN blocked_by TEXT;
ALTER TABLE devices ADD COLUMN block_reason TEXT;
-- The device that goes on: for one that was merged into it, or replaced by it, its licenses moved
-- or written off ('merged', 'moved', 'written_off').
ALTER TABLE devices ADD COLUMN successor TEXT;
ALTER TABLE devices ADD COLUMN successor_how TEXT;
ALTER TABLE devices ADD COLUMN successor_at_ms INTEGER;
ALTER TABLE devices ADD COLUMN successor_by TEXT;
ALTER TABLE devices ADD COLUMN successor_reason TEXT;
