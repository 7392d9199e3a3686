-- room.adopt: takes a session that was signed before Redis lost its data back into active. A session of this
-- epoch that is not active has ended and is not adopted. Adoptions above the cap are counted; promotion stops
-- by itself until the cap is met. Of two cookies of one visit the higher serial wins, whichever is shown first, and
-- with it the visitor it names.
-- KEYS: room line parked active places finished promoted entries
-- ARGV: nowMs(ms, '' = Redis TIME) sale placeId number expiresAtMs startedAtMs sessionEpoch serial visitor
-- Returns: unknown | otherSale <sale> | active <expiresAtMs> <serial> | finished | ended | adopted <expiresAtMs> <overCap>
-- Cost: O(log n)
local roomKey, lineKey, parkedKey, activeKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local placesKey, finishedKey, promotedKey, entriesKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local nowArg, saleArg, placeId, number = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local expiresAt, startedAt, sessionEpoch, shown = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local visitor = ARGV[9]

local f = redis.call('HMGET', roomKey, 'sale', 'epoch', 'totalActiveUsers')
if not f[1] then return { 'unknown' } end
if f[1] ~= saleArg then return { 'otherSale', tonumber(f[1]) } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local entry = redis.call('HGET', placesKey, placeId) or ''
local held, rest, serial = string.match(entry, '^(%d+) (%-?%d+ %d %d+) ?(%d*)')
local current = redis.call('ZSCORE', activeKey, placeId)
if current and tonumber(held) == number and tonumber(current) >= now then
  if shown > tonumber(serial) then
    redis.call('HSET', placesKey, placeId, string.format('%s %s %d %s', held, rest, shown, visitor))
    redis.call('XADD', entriesKey, '*', 'kind', 'superseded', 'atMs', now, 'visits', placeId .. ' ' .. number, 'serial', shown)
  end
  return { 'active', tonumber(current), math.max(shown, tonumber(serial)) }
end
if tonumber(redis.call('HGET', finishedKey, placeId) or 0) >= number then return { 'finished' } end
if current or redis.call('ZSCORE', promotedKey, placeId) or sessionEpoch >= tonumber(f[2]) or expiresAt < now then
  return { 'ended' }
end

redis.call('ZREM', lineKey, placeId)
redis.call('ZREM', parkedKey, placeId)
redis.call('ZADD', activeKey, expiresAt, placeId)
redis.call('HSET', placesKey, placeId, string.format('%d %d 0 %d %d %s', number, number, startedAt, shown, visitor))
local overCap = redis.call('ZCARD', activeKey) + redis.call('ZCARD', promotedKey) > tonumber(f[3]) and 1 or 0
redis.call('HINCRBY', roomKey, 'adoptedTotal', 1)
redis.call('HINCRBY', roomKey, 'adoptedOverCapTotal', overCap)
redis.call('XADD', entriesKey, '*', 'kind', 'adopted', 'atMs', now, 'visits', string.format('%s %d', placeId, number))
return { 'adopted', expiresAt, overCap }
