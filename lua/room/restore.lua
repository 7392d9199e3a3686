-- room.restore: stands a place up again from its receipt after Redis lost it. Whoever's score lies at or below
-- the head has had their turn (or was passed over) and goes to the back by joining anew.
-- KEYS: room line parked withheld promoted active places finished here joins
-- ARGV: nowMs(ms, '' = Redis TIME) sale placeId number score withheld(0 or 1)
-- Returns: unknown | otherSale <sale> | finished | held | passed | restored <state> <number> <score> <epoch>
-- Cost: O(log n)
local roomKey, lineKey, parkedKey, withheldKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local promotedKey, activeKey, placesKey, finishedKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local hereKey, joinsKey = KEYS[9], KEYS[10]
local nowArg, saleArg, placeId, number = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local score, withheld = tonumber(ARGV[5]), ARGV[6]

local f = redis.call('HMGET', roomKey, 'sale', 'head', 'nextNumber', 'epoch')
if not f[1] then return { 'unknown' } end
if f[1] ~= saleArg then return { 'otherSale', tonumber(f[1]) } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
if tonumber(redis.call('HGET', finishedKey, placeId) or 0) >= number then return { 'finished' } end
for _, key in ipairs({ lineKey, parkedKey, withheldKey, promotedKey, activeKey }) do
  if redis.call('ZSCORE', key, placeId) then return { 'held' } end
end
if score <= tonumber(f[2]) then return { 'passed' } end

if score ~= number then redis.call('HSET', placesKey, placeId, string.format('%d %d 0 0', number, score)) end
if number > tonumber(f[3]) then redis.call('HSET', roomKey, 'nextNumber', number) end
redis.call('HINCRBY', roomKey, 'restoredTotal', 1)
local visit = string.format(number == score and '%s %d' or '%s %d %d', placeId, number, score)
redis.call('XADD', joinsKey, 'MAXLEN', '~', 10000, '*', 'kind', 'restored', 'atMs', now, 'visits', visit,
  'withheld', withheld == '1' and placeId or '', 'sale', saleArg)
if withheld == '1' then
  redis.call('ZADD', withheldKey, score, placeId)
  return { 'restored', 'withheld', number, score, tonumber(f[4]) }
end
redis.call('ZADD', lineKey, score, placeId)
-- A snapshot counts anew when somebody comes to stand among those who wait (line/bounds.ts).
redis.call('HINCRBY', roomKey, 'cameAmong', 1)
redis.call('ZADD', hereKey, now, placeId)
return { 'restored', 'waiting', number, score, tonumber(f[4]) }
