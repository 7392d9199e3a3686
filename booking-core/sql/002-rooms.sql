-- The waiting room before the sale of an event. Until now there was one event, in the room of its own name.

ALTER TABLE booking_events ADD COLUMN room text;
UPDATE booking_events SET room = id;
ALTER TABLE booking_events ALTER COLUMN room SET NOT NULL;
