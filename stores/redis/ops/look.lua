#!lua flags=no-writes
-- What a record says, in words: redis-cli --eval ops/look.lua "$KEY"
local was = redis.call('HMGET', KEYS[1], 'version', 'live_until', 'gone_at', 'state', 'about')
if not was[1] then
  if redis.call('EXISTS', KEYS[1]) == 1 then return {'not a record of oncekey'} end
  return {'nothing: the next call runs the operation'}
end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function moment(text)
  if text == 'never' then return math.huge end
  return tonumber(text)
end

local function seconds(micros)
  if micros == math.huge then return 'for ever' end
  return string.format('for %.0f s', micros / 1000000)
end

local live_until, gone_at = moment(was[2]), moment(was[3])
local means
if gone_at <= now then
  means = 'gone: the next call runs the operation anew'
elseif was[4] == 'in_progress' and live_until > now then
  means = 'running: its lease holds ' .. seconds(live_until - now) .. ' unless it is renewed'
elseif was[4] == 'in_progress' then
  means = 'in doubt: its owner stopped in the middle; kept ' .. seconds(gone_at - now)
elseif was[4] == 'completed' and live_until > now then
  means = 'completed: its outcome is replayed ' .. seconds(live_until - now)
elseif was[4] == 'completed' then
  means = 'completed, its outcome no longer kept: that it is done is known ' .. seconds(gone_at - now)
else
  means = was[4] .. ': the next call runs the operation'
end
return {means, was[5], 'version ' .. was[1]}
