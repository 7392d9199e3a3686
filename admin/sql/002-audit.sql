-- What was done, by whom, as a chain: each hash covers the row and the hash before it. `audit_head` is the end
-- of the chain; locking its one row puts writers in order, and it shows when the newest rows were cut off.
CREATE TABLE audit (
  seq integer PRIMARY KEY,
  at_ms bigint NOT NULL,
  operator text NOT NULL,
  action text NOT NULL,
  room text NOT NULL DEFAULT '',
  detail jsonb NOT NULL,
  prev_hash text NOT NULL,
  hash text NOT NULL
);
CREATE INDEX audit_room ON audit (room, seq);
CREATE TABLE audit_head (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  seq integer NOT NULL,
  hash text NOT NULL
);
INSERT INTO audit_head (one, seq, hash) VALUES (true, 0, '');
