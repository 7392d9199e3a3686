-- room.claim: turns a promotion into the one session of its visit. Claiming again returns the same session and
-- never extends it, and it stays that of the visitor who claimed first, whoever comes later. A claimant who shows the newest cookie (its serial) keeps it; anyone else of the same visitor
-- takes the session over with the next serial, and the stream tells every gateway that lower ones are worth nothing.
-- A claim after the deadline still counts while nobody has reaped it: the slot was kept all the while.
-- KEYS: room promoted active places finished entries
-- ARGV: nowMs(ms, '' = Redis TIME) placeId number shownSerial('' = no cookie of this visit) visitor
-- Returns: unknown | finished | active <number> <expiresAtMs> <startedAtMs> <epoch> <serial> <visitor> | notPromoted | claimed <number> <expiresAtMs> <startedAtMs> <epoch> <serial> <visitor>
-- Cost: O(log n)
local roomKey, promotedKey, activeKey, placesKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local finishedKey, entriesKey = KEYS[5], KEYS[6]
local nowArg, placeId, number, shownSerial, visitor = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local f = redis.call('HMGET', roomKey, 'epoch', 'sessionSeconds', 'absoluteSessionSeconds')
if not f[1] then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local epoch = tonumber(f[1])
local entry = redis.call('HGET', placesKey, placeId) or ''
local held, score, flags, started, serial, owner = string.match(entry, '^(%d+) (%-?%d+) (%d) (%d+) ?(%d*) ?(%S*)$')
local isOwn = tonumber(held) == number
local expiresAt = isOwn and tonumber(redis.call('ZSCORE', activeKey, placeId))
if tonumber(redis.call('HGET', finishedKey, placeId) or 0) >= number then return { 'finished' } end
if expiresAt and expiresAt < now then return { 'finished' } end
if expiresAt then
  -- An entry of an earlier version names nobody: then it is whoever claims now.
  local isOwned = owner ~= ''
  if isOwned then visitor = owner end
  serial = tonumber(serial) or 0
  local next = serial + (serial == shownSerial and 0 or 1)
  if next ~= serial or not isOwned then
    redis.call('HSET', placesKey, placeId, string.format('%s %s %s %s %d %s', held, score, flags, started, next, visitor))
  end
  if next ~= serial then
    redis.call('XADD', entriesKey, '*', 'kind', 'superseded', 'atMs', now, 'visits', placeId .. ' ' .. number, 'serial', next)
  end
  return { 'active', number, expiresAt, tonumber(started), epoch, next, visitor }
end
if not isOwn or not redis.call('ZSCORE', promotedKey, placeId) then return { 'notPromoted' } end

expiresAt = now + math.min(tonumber(f[2]), tonumber(f[3])) * 1000
redis.call('ZREM', promotedKey, placeId)
redis.call('ZADD', activeKey, expiresAt, placeId)
redis.call('HSET', placesKey, placeId, string.format('%s %s 0 %d 1 %s', held, score, now, visitor))
redis.call('HINCRBY', roomKey, 'claimedTotal', 1)
return { 'claimed', number, expiresAt, now, epoch, 1, visitor }
