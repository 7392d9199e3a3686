-- room.reconcile: puts right a room that is there but was served by another history of Redis until now: a replica
-- took over, or the server started again. What was acknowledged last may be missing, so the counters go on from
-- what the processes remember where that is further, and the epoch changes: receipts stand lost places up again,
-- sessions of before are adopted. Data of long ago counts as lost data, with the whole recovery time. A reading of
-- the server before this one (a dispatcher that lags) is no change. A replica that took over says which history it
-- comes from; a server that comes from none was started again.
-- KEYS: room line parked entries
-- ARGV: nowMs(ms, '' = Redis TIME) replid replidBefore('' = none) sale head nextNumber epoch waiting(places) snapshotAt(ms) olderMs(ms) failoverSeconds(s) recoverySeconds(s)
-- Returns: unknown | known | noted | recovered <reason> <epoch> <recoveringUntilMs>
-- Cost: O(1)
local roomKey, lineKey, parkedKey, entriesKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local nowArg, replid, replidBefore, sale, head = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local nextNumber, epochBefore, waiting = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local snapshotAt, olderMs = tonumber(ARGV[9]), tonumber(ARGV[10])
local failoverSeconds, recoverySeconds = tonumber(ARGV[11]), tonumber(ARGV[12])

local f = redis.call('HMGET', roomKey, 'epoch', 'replid', 'replidBefore', 'head', 'nextNumber', 'snapshotAt',
  'recoveringUntil', 'newUsersPerMinute', 'effectiveBurst', 'totalActiveUsers', 'sale', 'queueingMethod')
if not f[1] then return { 'unknown' } end
if replid == f[2] or replid == f[3] then return { 'known' } end
if not f[2] then
  redis.call('HSET', roomKey, 'replid', replid)
  return { 'noted' }
end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))

-- Both times were written by the same clock, that of the server before: how much of the room's history is gone.
local reason, seconds = replidBefore == f[2] and 'failover' or 'restart', failoverSeconds
if snapshotAt - tonumber(f[6] or 0) > olderMs then reason, seconds = 'older', recoverySeconds end
local epoch = math.max(now, tonumber(f[1]) + 1, epochBefore + 1)
local untilMs = math.max(tonumber(f[7]), now + seconds * 1000)
-- What was remembered of another sale says nothing about this one.
if sale ~= f[11] then head, nextNumber = tonumber(f[4]), 0 end
head = math.max(head, tonumber(f[4]))
local lost = math.max(0, waiting - redis.call('ZCARD', lineKey) - redis.call('ZCARD', parkedKey))
redis.call('HSET', roomKey, 'replid', replid, 'replidBefore', f[2], 'epoch', epoch, 'head', head,
  'nextNumber', math.max(nextNumber, tonumber(f[5])) + 1000000, 'tokens', 0, 'tokensAt', now,
  'recoveringUntil', untilMs, 'recoveredAt', now, 'recoverReason', reason, 'lostWaiting', lost,
  'restoredTotal', 0, 'adoptedTotal', 0, 'adoptedOverCapTotal', 0)
redis.call('XADD', entriesKey, '*', 'kind', 'recovering', 'reason', reason, 'atMs', now, 'untilMs', untilMs, 'head', head,
  'newUsersPerMinute', f[8], 'effectiveBurst', f[9], 'totalActiveUsers', f[10], 'sale', f[11], 'queueingMethod', f[12])
return { 'recovered', reason, epoch, untilMs }
