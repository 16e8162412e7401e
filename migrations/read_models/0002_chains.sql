-- What a license is in a chain (root or leaf), and of a leaf the KID of its root. Licenses that
-- were applied before had no chains.
ALTER TABLE licenses ADD COLUMN chain_part TEXT;
ALTER TABLE licenses ADD COLUMN root_key_id BLOB;
