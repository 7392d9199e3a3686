-- room.release: lets a withheld place stand in the line with its own score, where an unblocked twin would stand.
-- KEYS: room line withheld here entries
-- ARGV: nowMs(ms, '' = Redis TIME) placeId
-- Returns: unknown | notWithheld | released <score>
-- Cost: O(log n)
local roomKey, lineKey, withheldKey, hereKey, entriesKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local nowArg, placeId = ARGV[1], ARGV[2]

if redis.call('EXISTS', roomKey) == 0 then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local score = redis.call('ZSCORE', withheldKey, placeId)
if not score then return { 'notWithheld' } end
local isAhead = tonumber(score) <= tonumber(redis.call('HGET', roomKey, 'head'))

redis.call('ZREM', withheldKey, placeId)
redis.call('ZADD', lineKey, score, placeId)
-- A snapshot counts anew when somebody comes to stand among those who wait (line/bounds.ts).
redis.call('HINCRBY', roomKey, isAhead and 'cameAhead' or 'cameAmong', 1)
redis.call('ZADD', hereKey, now, placeId)
redis.call('XADD', entriesKey, '*', 'kind', 'released', 'atMs', now, 'places', placeId)
return { 'released', tonumber(score) }
