-- room.look: says where a place stands. Reads only.
-- KEYS: room line parked withheld promoted active places finished
-- ARGV: placeId
-- Returns: unknown | held <state> <number> <score> <untilMs> <epoch> <missed> | finished <number> | none <epoch>
-- Cost: O(1), at most 8 commands
local roomKey, lineKey, parkedKey, withheldKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local promotedKey, activeKey, placesKey, finishedKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local placeId = ARGV[1]

local epoch = tonumber(redis.call('HGET', roomKey, 'epoch'))
if not epoch then return { 'unknown' } end
local entry = redis.call('HGET', placesKey, placeId)
local number, score, missed
if entry then
  number, score, missed = string.match(entry, '^(%d+) (%-?%d+) (%d)')
  number, score, missed = tonumber(number), tonumber(score), missed % 2
end
local untilMs = tonumber(redis.call('ZSCORE', activeKey, placeId))
if untilMs then return { 'held', 'active', number, score, untilMs, epoch, missed } end
untilMs = tonumber(redis.call('ZSCORE', promotedKey, placeId))
if untilMs then return { 'held', 'promoted', number, score, untilMs, epoch, missed } end
local held = tonumber(redis.call('ZSCORE', lineKey, placeId))
if held then return { 'held', 'waiting', number or held, held, 0, epoch, missed or 0 } end
held = tonumber(redis.call('ZSCORE', parkedKey, placeId))
if held then return { 'held', 'parked', number or held, held, 0, epoch, missed or 0 } end
held = tonumber(redis.call('ZSCORE', withheldKey, placeId))
if held then return { 'held', 'withheld', number or held, held, 0, epoch, 0 } end
local finished = redis.call('HGET', finishedKey, placeId)
if finished then return { 'finished', tonumber(finished) } end
return { 'none', epoch }
