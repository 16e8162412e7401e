-- The event log. Events are only ever added: never changed, never removed.

CREATE TABLE streams (
    stream INTEGER PRIMARY KEY,
    name   TEXT NOT NULL UNIQUE
) STRICT;

-- In the order of the log, without gaps, from 0. Appending touches the last page only.
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    stream   INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    id       BLOB NOT NULL,
    kind     TEXT NOT NULL,
    data     BLOB NOT NULL,
    metadata BLOB NOT NULL
) STRICT;

CREATE TRIGGER events_never_change BEFORE UPDATE ON events BEGIN
    SELECT RAISE(ABORT, 'events never change');
END;

CREATE TRIGGER events_are_never_removed BEFORE DELETE ON events BEGIN
    SELECT RAISE(ABORT, 'events are never removed');
END;

-- Two indexes, complete for every event below `filed_through`. The events from there on are indexed
-- in memory, and filed here in sorted runs: one page write serves many entries, where an index that
-- is kept with every append would write two pages for each event.
CREATE TABLE stream_index (
    stream   INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (stream, revision)
) STRICT, WITHOUT ROWID;

-- `prefix` is the first 8 bytes of an event's id, big-endian, as a signed integer.
CREATE TABLE id_index (
    prefix   INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (prefix, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE filing (
    filed_through INTEGER NOT NULL
) STRICT;

INSERT INTO filing (filed_through) VALUES (0);
