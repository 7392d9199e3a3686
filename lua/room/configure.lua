-- room.configure: puts settings into effect, or makes the room. An older version never overwrites a newer one.
-- Tokens earned so far are counted at the old rate and burst, then clamped to the new burst. A new sale number clears the
-- room: nothing signed for the sale before is worth anything, and numbers begin again. A closing time that has not
-- come yet opens a sale that was over.
-- KEYS: room line parked withheld promoted active places finished here entries snapshot
-- ARGV: nowMs(ms, '' = Redis TIME) version settings(JSON) create(0 or 1)
-- Returns: unknown | stale <version> | created <epoch> | configured
-- Cost: O(1); the memory of a cleared room is freed by another thread of Redis
local roomKey, lineKey, parkedKey, withheldKey, promotedKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local activeKey, placesKey, finishedKey, hereKey, entriesKey, snapshotKey = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local nowArg, version, settingsJson, create = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

local f = redis.call('HMGET', roomKey, 'version', 'tokens', 'tokensAt', 'newUsersPerMinute', 'sale', 'effectiveBurst')
if not f[1] and create ~= '1' then return { 'unknown' } end
if f[1] and tonumber(f[1]) >= version then return { 'stale', tonumber(f[1]) } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))

local settings = cjson.decode(settingsJson)
local fields = {}
for name, value in pairs(settings) do
  if type(value) == 'boolean' then value = value and 1 or 0 end
  if type(value) ~= 'table' then fields[#fields + 1], fields[#fields + 2] = name, value end
end
redis.call('HSET', roomKey, unpack(fields))
local isNewSale = f[1] and tonumber(f[5]) ~= settings.sale
if isNewSale then
  redis.call('UNLINK', lineKey, parkedKey, withheldKey, promotedKey, activeKey, placesKey, finishedKey, hereKey,
    snapshotKey)
  redis.call('HDEL', roomKey, 'promotedTotal', 'passedTotal', 'claimedTotal', 'adoptedTotal', 'restoredTotal',
    'adoptedOverCapTotal', 'cameAmong', 'cameAhead', 'pace', 'hereAt', 'nearScore', 'snapshotAt')
end
if isNewSale or settings.closesAt == 0 or settings.closesAt > now then redis.call('HDEL', roomKey, 'over') end
if isNewSale or not f[1] then redis.call('HSET', roomKey, 'head', -1099511627777, 'nextNumber', 0) end
if not f[1] then redis.call('HSET', roomKey, 'epoch', now, 'recoveringUntil', 0) end
local burst = settings.burst > 0 and settings.burst or math.max(1, math.ceil(settings.newUsersPerMinute / 60))
local tokens = burst * 60000
if f[1] then
  local earned = tonumber(f[2]) + math.max(0, now - tonumber(f[3])) * tonumber(f[4])
  tokens = math.min(tokens, tonumber(f[6]) * 60000, earned)
end
redis.call('HSET', roomKey, 'version', version, 'settings', settingsJson, 'effectiveBurst', burst, 'tokens', tokens, 'tokensAt', now)
redis.call('XADD', entriesKey, '*', 'kind', 'settings', 'atMs', now, 'version', version, 'isNewSale', isNewSale and 1 or 0,
  'newUsersPerMinute', settings.newUsersPerMinute, 'effectiveBurst', burst, 'totalActiveUsers', settings.totalActiveUsers,
  'sale', settings.sale, 'queueingMethod', settings.queueingMethod)
if f[1] then return { 'configured' } end
return { 'created', now }
