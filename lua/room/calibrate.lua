-- room.calibrate: keeps how often the estimates of waiting times held, and the factors that follow from it. Of two
-- dispatchers that learnt from the same total the first stays; a repeated call changes nothing.
-- KEYS: room
-- ARGV: seenTotal(estimates) p50Factor p90Factor right(estimates) total(estimates)
-- Returns: unknown | stale <total> | calibrated
-- Cost: O(1)
local roomKey = KEYS[1]
local seenTotal, p50Factor, p90Factor = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local right, total = ARGV[4], ARGV[5]

local f = redis.call('HMGET', roomKey, 'epoch', 'etaTotal')
if not f[1] then return { 'unknown' } end
local known = tonumber(f[2] or 0)
if known ~= seenTotal then return { 'stale', known } end

redis.call('HSET', roomKey, 'etaP50Factor', p50Factor, 'etaP90Factor', p90Factor, 'etaRight', right,
  'etaTotal', total)
return { 'calibrated' }
