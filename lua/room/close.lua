-- room.close: ends a sale that has reached its closing time. Nobody joins and nobody is promoted by then; while
-- someone is promoted or inside it waits for them. Then the line goes, everyone is told by one record, and every
-- receipt counts as passed. The streams stay a minute longer for those who still read them.
-- KEYS: room line parked withheld promoted active places finished here entries joins
-- ARGV: nowMs(ms, '' = Redis TIME)
-- Returns: unknown | running | emptying <inside> | over | closed
-- Cost: O(log n); the memory of the line is freed by another thread of Redis
local roomKey, lineKey, parkedKey, withheldKey, promotedKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local activeKey, placesKey, finishedKey, hereKey, entriesKey, joinsKey = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local nowArg = ARGV[1]

local f = redis.call('HMGET', roomKey, 'closesAt', 'over', 'nextNumber')
if not f[1] then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local closesAt = tonumber(f[1])
if closesAt == 0 or now < closesAt then return { 'running' } end
local inside = redis.call('ZCARD', promotedKey) + redis.call('ZCARD', activeKey)
if inside > 0 then return { 'emptying', inside } end
if f[2] then
  if now - tonumber(f[2]) > 60000 then
    redis.call('XTRIM', entriesKey, 'MAXLEN', 1)
    redis.call('UNLINK', joinsKey)
  end
  return { 'over' }
end

redis.call('UNLINK', lineKey, parkedKey, withheldKey, placesKey, finishedKey, hereKey)
redis.call('HSET', roomKey, 'over', now, 'head', f[3])
redis.call('XADD', entriesKey, '*', 'kind', 'over', 'atMs', now)
return { 'closed' }
