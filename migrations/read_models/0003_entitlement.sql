-- What the service said about a license, as far as its acquisition names it.
ALTER TABLE licenses ADD COLUMN account TEXT;
ALTER TABLE licenses ADD COLUMN title TEXT;
ALTER TABLE licenses ADD COLUMN content_group TEXT;
