-- room.snapshot: measures the room once for everybody and keeps the result. Ranks are taken at fixed scores
-- (multiples of a power of two), because the rank of a fixed score only ever falls; the first places are listed
-- exactly. Speed is people who left the head of the line in the last minute, from marks kept every 5 s.
-- KEYS: room line parked withheld promoted active snapshot
-- ARGV: nowMs(ms, '' = Redis TIME) freshMs(ms) firstMax(places) anchorsMax
-- Returns: unknown | fresh | snapshot <json>
-- Cost: O(anchorsMax log n + firstMax)
local roomKey, lineKey, parkedKey, withheldKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local promotedKey, activeKey, snapshotKey = KEYS[5], KEYS[6], KEYS[7]
local nowArg, freshMs, firstMax, anchorsMax = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local r = {}
local flat = redis.call('HGETALL', roomKey)
for i = 1, #flat, 2 do r[flat[i]] = flat[i + 1] end
if not r.epoch then return { 'unknown' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
local age = now - tonumber(r.snapshotAt or 0)
if age >= 0 and age < freshMs then return { 'fresh' } end

local function scoresOf(list)
  local scores = {}
  for i = 2, #list, 2 do scores[#scores + 1] = tonumber(list[i]) end
  return scores
end
local first = scoresOf(redis.call('ZRANGE', lineKey, 0, firstMax - 1, 'WITHSCORES'))
local between, parkedBefore = {}, 0
if #first > 0 then
  between = scoresOf(redis.call('ZRANGE', parkedKey, first[1], first[#first], 'BYSCORE', 'LIMIT', 0, firstMax, 'WITHSCORES'))
  parkedBefore = redis.call('ZCOUNT', parkedKey, '-inf', '(' .. first[1])
end
local anchors, ranks = {}, {}
local function anchor(from, to, count)
  local step = 1
  while (to - from) / step > count do step = step * 2 end
  for score = math.ceil(from / step) * step, to + step, step do
    anchors[#anchors + 1] = score
    local below = '(' .. string.format('%d', score)
    ranks[#ranks + 1] = redis.call('ZCOUNT', lineKey, '-inf', below) + redis.call('ZCOUNT', parkedKey, '-inf', below)
  end
end
local waiting = redis.call('ZCARD', lineKey)
if waiting > #first then
  if first[1] < 0 then anchor(-1099511627776, -1, anchorsMax / 2) end
  anchor(math.max(0, first[1]), tonumber(r.nextNumber), anchorsMax)
end
local passed, marks = tonumber(r.passedTotal or 0), r.marks or ''
local markAt, markPassed = string.match(marks, '^(%d+):(%d+)')
local perMinute = 0
if markAt and now > tonumber(markAt) then perMinute = (passed - tonumber(markPassed)) * 60000 / (now - tonumber(markAt)) end
if now - tonumber(string.match(marks, '(%d+):%d+$') or 0) >= 5000 then
  marks = marks .. (marks == '' and '' or ' ') .. string.format('%d:%d', now, passed)
  while tonumber(string.match(marks, '^%d+')) < now - 60000 do marks = string.match(marks, '^%S+ (.*)$') end
end
local free = tonumber(r.totalActiveUsers) - redis.call('ZCARD', activeKey) - redis.call('ZCARD', promotedKey)
local nearRank = math.ceil(tonumber(r.newUsersPerMinute) * tonumber(r.graceSeconds) / 30) + tonumber(r.effectiveBurst)
local near = redis.call('ZRANGE', lineKey, math.max(100, nearRank), math.max(100, nearRank), 'WITHSCORES')
local nearScore = near[2] or '9007199254740991'
redis.call('HSET', roomKey, 'marks', marks, 'nearScore', nearScore, 'snapshotAt', now)

local json = cjson.encode({ atMs = now, epoch = tonumber(r.epoch), version = tonumber(r.version), waiting = waiting,
  parked = redis.call('ZCARD', parkedKey), withheld = redis.call('ZCARD', withheldKey),
  promoted = redis.call('ZCARD', promotedKey), active = redis.call('ZCARD', activeKey), free = free,
  head = tonumber(r.head), nextNumber = tonumber(r.nextNumber), perMinute = perMinute, nearScore = nearScore,
  promotedTotal = tonumber(r.promotedTotal or 0), recoveringUntil = tonumber(r.recoveringUntil),
  noticeId = r.noticeId or '', noticeText = r.noticeText or '', noticeLevel = r.noticeLevel or '',
  parkedBefore = parkedBefore, first = table.concat(first, ' '), between = table.concat(between, ' '),
  anchors = table.concat(anchors, ' '), ranks = table.concat(ranks, ' '), settings = r.settings })
redis.call('SET', snapshotKey, json)
return { 'snapshot', json }
