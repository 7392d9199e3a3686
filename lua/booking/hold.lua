-- booking.hold: takes seats for one visitor, all or nothing. The caller chooses the hold's id, so that asking twice
-- gives the same answer; that is looked at before anything is searched for. Who takes and gives back again and again
-- has to wait: a visitor may take `paceBurst` holds at once, then one each `paceMs` (GCRA, as lua/limit/take.lua).
-- KEYS: seats holds expiries holders pace
-- ARGV: nowMs(ms, '' = Redis TIME) holdId visitor visit('' = none) saleVersion request section limit ttlMs(ms) paceMs(ms) paceBurst(0 = any number) count together ...offsets
-- Returns: rebuilding | conflict | ended <state> | repeated <entry> | unknown | limit | cooling <retryAfterMs> | taken | none | held <entry>
-- Cost: O(seats of the section + seats taken)
local seatsKey, holdsKey, expiriesKey, holdersKey, paceKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local nowArg, holdId, visitor, visit, saleVersion, request, section = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local limit, ttlMs, paceMs, paceBurst = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local count, together = tonumber(ARGV[12]), ARGV[13]

local f = redis.call('HMGET', seatsKey, 'ready', 'epoch', 'm:' .. section)
if f[1] ~= '1' then return { 'rebuilding' } end
local entry = redis.call('HGET', holdsKey, holdId)
if entry then
  local state, asked = string.match(entry, '^(%a+)|%d+|%d+|[^|]*|[^|]*|%d+|([^|]*)|')
  if asked ~= request then return { 'conflict' } end
  if state ~= 'held' and state ~= 'ordered' then return { 'ended', state } end
  return { 'repeated', entry }
end
local map = f[3]
if not map then return { 'unknown' } end
if tonumber(redis.call('HGET', holdersKey, visitor) or 0) + count > limit then return { 'limit' } end
local time = redis.call('TIME')
local now = tonumber(nowArg) or (time[1] * 1000 + math.floor(time[2] / 1000))
-- Time that went back would leave the stored time far ahead: never further than one whole window.
local window = paceMs * paceBurst
local paced = math.min(math.max(tonumber(redis.call('ZSCORE', paceKey, visitor) or 0), now), now + window) + paceMs
if paceBurst > 0 and paced - now > window then return { 'cooling', paced - now - window } end

local offsets = {}
if #ARGV > 13 then
  for i = 14, #ARGV do
    local offset = tonumber(ARGV[i])
    if string.sub(map, offset + 1, offset + 1) ~= 'f' then return { 'taken' } end
    offsets[#offsets + 1] = offset
  end
else
  -- Places that must be together are a run of n: a row separator can never be part of it. Otherwise n runs of 1.
  local run, from = string.rep('f', together == '1' and count or 1), 1
  while #offsets < count do
    local at = string.find(map, run, from, true)
    if not at then return { 'none' } end
    for i = 0, #run - 1 do offsets[#offsets + 1] = at - 1 + i end
    from = at + #run
  end
end

local expiresAt = now + ttlMs
for _, offset in ipairs(offsets) do map = string.sub(map, 1, offset) .. 'h' .. string.sub(map, offset + 2) end
local number = redis.call('HINCRBY', seatsKey, 'number', 1)
entry = table.concat({ 'held', f[2], string.format('%d', number), visitor, section, string.format('%d', expiresAt),
  request, table.concat(offsets, ','), visit, saleVersion }, '|')
redis.call('HSET', seatsKey, 'm:' .. section, map)
redis.call('HINCRBY', seatsKey, 'version', 1)
redis.call('HSET', holdsKey, holdId, entry)
redis.call('ZADD', expiriesKey, expiresAt, holdId)
redis.call('HINCRBY', holdersKey, visitor, count)
if paceBurst > 0 then redis.call('ZADD', paceKey, paced, visitor) end
return { 'held', entry }
