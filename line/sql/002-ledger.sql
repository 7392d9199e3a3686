-- The ledger of each sale, as the dispatchers write it from the streams of Redis. `ledger_ends` has one row a room:
-- where its chain ends and up to which record each stream has been written, so that a writer that finds another end
-- than it read knows that somebody else has written. `ledger` has the rows as published, many to one SQL row,
-- because ten thousand joins a second must not be ten thousand inserts.
CREATE TABLE ledger_ends (
  room text PRIMARY KEY,
  sale integer NOT NULL,
  seq bigint NOT NULL,
  hash text NOT NULL,
  -- Where the last signed head stands, and when it was made (Redis's time).
  head_seq bigint NOT NULL,
  head_at_ms bigint NOT NULL,
  joins_id text NOT NULL,
  joins_count bigint NOT NULL,
  entries_id text NOT NULL,
  entries_count bigint NOT NULL,
  -- A gap was written, and how the room stood after it was not yet.
  is_behind boolean NOT NULL
);
CREATE TABLE ledger (
  room text NOT NULL,
  sale integer NOT NULL,
  first_seq bigint NOT NULL,
  last_seq bigint NOT NULL,
  lines text NOT NULL,
  PRIMARY KEY (room, sale, first_seq)
);
-- When the sales that were drawn opened: the seed of a draw is derived from it, and settings keep only the present one.
CREATE TABLE ledger_draws (
  room text NOT NULL,
  sale integer NOT NULL,
  opens_at_ms bigint NOT NULL,
  PRIMARY KEY (room, sale)
);
