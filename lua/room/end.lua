-- room.end: ends the session of a visit; its slot is free at once and every gateway reads so in the stream.
-- KEYS: room active places finished entries
-- ARGV: nowMs(ms, '' = Redis TIME) placeId number reason
-- Returns: unknown | notActive | ended
-- Cost: O(log n)
local roomKey, activeKey, placesKey, finishedKey, entriesKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local nowArg, placeId, number, reason = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

if redis.call('EXISTS', roomKey) == 0 then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local held = string.match(redis.call('HGET', placesKey, placeId) or '', '^%d+')
if tonumber(held) ~= number or not redis.call('ZSCORE', activeKey, placeId) then return { 'notActive' } end

redis.call('ZREM', activeKey, placeId)
redis.call('HDEL', placesKey, placeId)
redis.call('HSET', finishedKey, placeId, number)
redis.call('XADD', entriesKey, '*', 'kind', 'ended', 'atMs', now, 'visits', placeId .. ' ' .. number, 'reason', reason)
return { 'ended' }
