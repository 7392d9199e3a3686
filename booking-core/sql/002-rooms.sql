-- The waiting room before the sale of an event; empty, as an older version writes it: the room of the event's own name.

ALTER TABLE booking_events ADD COLUMN room text NOT NULL DEFAULT '';
