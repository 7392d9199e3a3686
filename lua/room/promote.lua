-- room.promote: lets in as many from the head of the line as rate, cap and gate allow at this instant, and writes
-- one record in the entry stream. Whoever has not been heard from within the grace is parked instead, when
-- presence is known at all. The rate is a token bucket in units of 1/60000 user, so that a millisecond adds
-- exactly newUsersPerMinute units and no fraction is ever lost. A clock that went back earns nothing, once, and
-- leaves a record. With queueingMethod random the places are drawn from the whole line instead of its head, and the
-- head stays. Who went in stands in the record; the caller is told how many, and pays for no list it does not read.
-- KEYS: room line parked promoted active places here entries
-- ARGV: nowMs(ms, '' = Redis TIME) promoteMax(places) examineMax(places)
-- Returns: unknown | gated <reason> | idle | spent <free> | promoted <promoted> <parked> <more>
-- Cost: O(e log n) for e <= min(examineMax, 500) examined places
local roomKey, lineKey, parkedKey, promotedKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local activeKey, placesKey, hereKey, entriesKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local nowArg, promoteMax, examineMax = ARGV[1], tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), 500)

local f = redis.call('HMGET', roomKey, 'suspended', 'opensAt', 'closesAt', 'recoveringUntil', 'newUsersPerMinute',
  'effectiveBurst', 'totalActiveUsers', 'tokens', 'tokensAt', 'claimSeconds', 'graceSeconds', 'hereAt', 'head', 'queueAll', 'queueingMethod',
  'promotedTotal', 'passedTotal')
if not f[1] then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
if f[1] == '1' then return { 'gated', 'suspended' } end
if f[14] == '1' then return { 'gated', 'queueAll' } end
if now < tonumber(f[4]) then return { 'gated', 'recovering' } end
if now < tonumber(f[2]) then return { 'gated', 'notOpen' } end
if f[3] ~= '0' and now >= tonumber(f[3]) then return { 'gated', 'closed' } end
local tokens = math.min(tonumber(f[6]) * 60000, tonumber(f[8]) + math.max(0, now - tonumber(f[9])) * tonumber(f[5]))
local wentBack = now < tonumber(f[9]) and redis.call('HSET', roomKey, 'tokensAt', now)
if wentBack then redis.call('XADD', entriesKey, '*', 'kind', 'clock', 'atMs', now, 'wasMs', f[9]) end
local waiting = redis.call('ZCARD', lineKey)
if waiting == 0 then return { 'idle' } end
local inside = redis.call('ZCARD', activeKey) + redis.call('ZCARD', promotedKey)
local free = tonumber(f[7]) - inside
local budget = math.min(math.floor(tokens / 60000), free, promoteMax)
if budget <= 0 then return { 'spent', free } end

-- The deadline as a text: a number would be written out anew for each place it is handed to a command with.
local grace, deadline, isDrawn = tonumber(f[11]) * 1000, string.format('%d', now + tonumber(f[10]) * 1000), f[15] == 'random'
-- In a long line that is drawn anyone may be next, so nobody is kept present (line/snapshot.ts has the same bound).
local presenceKnown = f[12] and now - tonumber(f[12]) <= grace and (not isDrawn or waiting <= 20000)
-- Some of those at the head may be away; twice the budget is looked at, and `more` asks for another call.
local looked = math.min(examineMax, presenceKnown and not isDrawn and 2 * budget + 50 or budget)
local head = isDrawn and redis.call('ZRANDMEMBER', lineKey, looked, 'WITHSCORES')
  or redis.call('ZRANGE', lineKey, 0, looked - 1, 'WITHSCORES')
local entered, marks, visits, parked, parkedIds, names, seen, n, p = {}, {}, {}, {}, {}, {}, 0, 0, 0
for i = 1, #head, 2 do names[(i + 1) / 2] = head[i] end
-- All inside have an entry; only when there are more of them can one belong to somebody here.
local entries = redis.call('HLEN', placesKey) > inside and redis.call('HMGET', placesKey, unpack(names)) or {}
local heard = presenceKnown and redis.call('ZMSCORE', hereKey, unpack(names))
for i, placeId in ipairs(names) do
  if n >= budget then break end
  local score, entry = head[2 * i], entries[i]
  seen = i
  if heard and now - tonumber(heard[i] or 0) > grace then
    p = p + 1
    parked[2 * p - 1], parked[2 * p], parkedIds[p] = score, placeId, placeId
  else
    n = n + 1
    local number = entry and string.match(entry, '^%d+') or score
    marks[2 * n - 1], marks[2 * n] = placeId, entry or score .. ' ' .. score .. ' 0 0'
    entered[2 * n - 1], entered[2 * n] = deadline, placeId
    visits[n] = placeId .. ' ' .. number .. (number == score and '' or ' ' .. score)
  end
end
local lastScore = isDrawn and f[13] or math.max(tonumber(f[13]), tonumber(head[2 * seen]))
if isDrawn then redis.call('ZREM', lineKey, unpack(names, 1, seen)) else redis.call('ZREMRANGEBYRANK', lineKey, 0, seen - 1) end
if redis.call('EXISTS', hereKey) == 1 then redis.call('ZREM', hereKey, unpack(names, 1, seen)) end
if p > 0 then redis.call('ZADD', parkedKey, unpack(parked)) end
if n > 0 then redis.call('ZADD', promotedKey, unpack(entered)) end
if n > 0 then redis.call('HSET', placesKey, unpack(marks)) end
redis.call('HSET', roomKey, 'tokens', tokens - n * 60000, 'tokensAt', now, 'head', lastScore,
  'promotedTotal', tonumber(f[16] or 0) + n, 'passedTotal', tonumber(f[17] or 0) + seen)
redis.call('XADD', entriesKey, '*', 'kind', 'promoted', 'atMs', now, 'deadlineMs', deadline,
  'visits', table.concat(visits, ','), 'parked', table.concat(parkedIds, ','), 'newUsersPerMinute', f[5],
  'effectiveBurst', f[6], 'totalActiveUsers', f[7], 'queueingMethod', f[15])
local more = n < budget and redis.call('EXISTS', lineKey) or 0
return { 'promoted', n, p, more }
