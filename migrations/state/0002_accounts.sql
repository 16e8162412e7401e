-- One bounded row an account: its folded state at a revision of its stream.
CREATE TABLE accounts (
  account TEXT PRIMARY KEY,
  revision INTEGER NOT NULL,
  state BLOB NOT NULL
) STRICT, WITHOUT ROWID;
