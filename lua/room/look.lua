-- room.look: says where each place of a batch stands. Reads only. One outcome a place: held <state> <number> <score>
-- <untilMs> <missed>, finished <number>, none; the usual one, waiting with the number as its score and nothing missed,
-- is the number alone.
-- KEYS: room line parked withheld promoted active places finished
-- ARGV: ...placeIds
-- Returns: unknown | answered <epoch> <outcomes>
-- Cost: O(k) for k places, at most 13 commands; the caller sends at most 128
local roomKey, lineKey, parkedKey, withheldKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local promotedKey, activeKey, placesKey, finishedKey = KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local ids = { unpack(ARGV) }

local epoch = tonumber(redis.call('HGET', roomKey, 'epoch'))
if not epoch then return { 'unknown' } end
local function scoresIn(key) return redis.call('EXISTS', key) == 1 and redis.call('ZMSCORE', key, unpack(ids)) or {} end
local active, promoted, line = scoresIn(activeKey), scoresIn(promotedKey), scoresIn(lineKey)
local parked, withheld = scoresIn(parkedKey), scoresIn(withheldKey)
local entries, finished, outcomes = redis.call('HMGET', placesKey, unpack(ids)), nil, {}
for i = 1, #ids do
  local number, score, misses = string.match(entries[i] or '', '^(%d+) (%-?%d+) (%d)')
  local missed = (tonumber(misses) or 0) % 2
  local stands = line[i] or parked[i] or withheld[i]
  if active[i] then outcomes[i] = { 'held', 'active', tonumber(number), tonumber(score), tonumber(active[i]), missed }
  elseif promoted[i] then
    outcomes[i] = { 'held', 'promoted', tonumber(number), tonumber(score), tonumber(promoted[i]), missed }
  elseif stands then
    number, score = tonumber(number or stands), tonumber(stands)
    local state = line[i] and 'waiting' or parked[i] and 'parked' or 'withheld'
    if state == 'withheld' then missed = 0 end
    outcomes[i] = state == 'waiting' and number == score and missed == 0 and number
      or { 'held', state, number, score, 0, missed }
  else
    finished = finished or redis.call('HMGET', finishedKey, unpack(ids))
    outcomes[i] = finished[i] and { 'finished', tonumber(finished[i]) } or { 'none' }
  end
end
return { 'answered', epoch, outcomes }
