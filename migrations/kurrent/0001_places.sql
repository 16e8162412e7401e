-- Where our events stand in the log of a KurrentDB cluster. Derived: it is read again from the
-- cluster when it is missing or belongs to another log.
CREATE TABLE followed (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  -- What the names of our streams begin with in the cluster.
  stream_prefix TEXT NOT NULL,
  -- Everything up to here has been looked at; NULL: nothing yet.
  commit_position INTEGER,
  prepare_position INTEGER,
  -- Id of the last of our events, to notice a log that is not the one followed so far.
  last_event_id BLOB
) STRICT;

CREATE TABLE places (
  sequence INTEGER PRIMARY KEY,
  commit_position INTEGER NOT NULL,
  prepare_position INTEGER NOT NULL
) STRICT;

-- An event that is read from its stream tells only where it stands.
CREATE UNIQUE INDEX places_by_prepare_position ON places (prepare_position);
