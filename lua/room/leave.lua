-- room.leave: a visitor gives up a place, whatever its state. The visit is finished; joining again is a new one.
-- KEYS: room line parked withheld promoted active places finished here entries
-- ARGV: nowMs(ms, '' = Redis TIME) placeId
-- Returns: unknown | none | left <state> <number>
-- Cost: O(log n)
local roomKey, lineKey, parkedKey, withheldKey, promotedKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local activeKey, placesKey, finishedKey, hereKey, entriesKey = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local nowArg, placeId = ARGV[1], ARGV[2]

if redis.call('EXISTS', roomKey) == 0 then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local sets = { { 'active', activeKey }, { 'promoted', promotedKey }, { 'waiting', lineKey }, { 'parked', parkedKey },
  { 'withheld', withheldKey } }
local state, score
for _, set in ipairs(sets) do
  score = redis.call('ZSCORE', set[2], placeId)
  if score then
    state = set[1]
    break
  end
end
if not state then return { 'none' } end

local entry = redis.call('HGET', placesKey, placeId)
local number = tonumber(entry and string.match(entry, '^%d+') or score)
for _, set in ipairs(sets) do redis.call('ZREM', set[2], placeId) end
redis.call('ZREM', hereKey, placeId)
redis.call('HDEL', placesKey, placeId)
redis.call('HSET', finishedKey, placeId, number)
redis.call('XADD', entriesKey, '*', 'kind', 'left', 'atMs', now, 'visits', placeId .. ' ' .. number, 'state', state)
return { 'left', state, number }
