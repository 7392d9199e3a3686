-- room.redeem: moves a session to another host of the gateway, once. The cookie made there is the newest and so the
-- only one that counts; a pass made before the session was taken over is worth nothing any more.
-- KEYS: room active places finished entries
-- ARGV: nowMs(ms, '' = Redis TIME) sale placeId number serial visitor(of an entry that names none)
-- Returns: unknown | otherSale <sale> | finished | notActive | redeemedBefore | superseded <serial> | redeemed <number> <expiresAtMs> <startedAtMs> <epoch> <serial> <visitor>
-- Cost: O(log n)
local roomKey, activeKey, placesKey, finishedKey, entriesKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local nowArg, saleArg, placeId, number, serialArg = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local visitor = ARGV[6]

local f = redis.call('HMGET', roomKey, 'sale', 'epoch')
if not f[1] then return { 'unknown' } end
if f[1] ~= saleArg then return { 'otherSale', tonumber(f[1]) } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
if tonumber(redis.call('HGET', finishedKey, placeId) or 0) >= number then return { 'finished' } end
local entry = redis.call('HGET', placesKey, placeId) or ''
local held, score, flags, started, serial, owner = string.match(entry, '^(%d+) (%-?%d+) (%d) (%d+) (%d+) ?(%S*)$')
local expiresAt = tonumber(redis.call('ZSCORE', activeKey, placeId))
if not expiresAt or expiresAt < now or tonumber(held) ~= number then return { 'notActive' } end
if tonumber(flags) >= 2 then return { 'redeemedBefore' } end
if tonumber(serial) ~= serialArg then return { 'superseded', tonumber(serial) } end

serial = serialArg + 1
if owner ~= '' then visitor = owner end
redis.call('HSET', placesKey, placeId, string.format('%s %s %d %s %d %s', held, score, flags + 2, started, serial, visitor))
redis.call('XADD', entriesKey, '*', 'kind', 'superseded', 'atMs', now, 'visits', placeId .. ' ' .. number, 'serial', serial)
return { 'redeemed', number, expiresAt, tonumber(started), tonumber(f[2]), serial, visitor }
