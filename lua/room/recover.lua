-- room.recover: makes the room again after Redis lost its data, from the settings in SQL and what the processes
-- remember of the last snapshot. Nobody is promoted and nobody new joins until the recovery time is over.
-- KEYS: room entries
-- ARGV: nowMs(ms, '' = Redis TIME) version settings(JSON) head nextNumber epoch waiting(places) replid recoverySeconds(s) remembered(0 or 1)
-- Returns: known <epoch> | recovered <epoch> <recoveringUntilMs>
-- Cost: O(1)
local roomKey, entriesKey = KEYS[1], KEYS[2]
local nowArg, version, settingsJson, head = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local nextNumber, epochBefore, waiting = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local replid, recoverySeconds, remembered = ARGV[8], tonumber(ARGV[9]), ARGV[10]

local known = redis.call('HGET', roomKey, 'epoch')
if known then return { 'known', tonumber(known) } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
-- A session signed before must be of an earlier epoch, even where this server's clock is behind the lost one's.
local epoch = math.max(now, epochBefore + 1)

local settings = cjson.decode(settingsJson)
local fields = {}
for name, value in pairs(settings) do
  if type(value) == 'boolean' then value = value and 1 or 0 end
  if type(value) ~= 'table' then fields[#fields + 1], fields[#fields + 2] = name, value end
end
redis.call('HSET', roomKey, unpack(fields))
local burst = settings.burst > 0 and settings.burst or math.max(1, math.ceil(settings.newUsersPerMinute / 60))
local untilMs = now + recoverySeconds * 1000
redis.call('HSET', roomKey, 'version', version, 'settings', settingsJson, 'effectiveBurst', burst, 'tokens', 0,
  'tokensAt', now, 'epoch', epoch, 'head', head, 'nextNumber', nextNumber + 1000000, 'recoveringUntil', untilMs,
  'recoveredAt', now, 'recoverReason', 'lost', 'lostWaiting', waiting, 'restoredTotal', 0, 'adoptedTotal', 0,
  'adoptedOverCapTotal', 0)
if replid ~= '' then redis.call('HSET', roomKey, 'replid', replid) end
if remembered == '0' then redis.call('HSET', roomKey, 'suspended', 1) end
redis.call('XADD', entriesKey, '*', 'kind', 'recovering', 'reason', 'lost', 'atMs', now, 'untilMs', untilMs, 'head', head,
  'newUsersPerMinute', settings.newUsersPerMinute, 'effectiveBurst', burst, 'totalActiveUsers', settings.totalActiveUsers,
  'sale', settings.sale, 'queueingMethod', settings.queueingMethod)
return { 'recovered', epoch, untilMs }
