-- What all scripts begin with: reads the record, and judges it by one reading of the server's clock.
--
-- A record is a hash: version; live_until and gone_at in microseconds since 1970, or 'never'; body, the encoded
-- record; state and about, for people; call, in a cluster, the call that wrote it, and
-- '' or nothing for a write without one. Numbers stay below 2^53, so a
-- double holds them exactly; versions are compared as text.
--
-- No functions: making one costs as much as half a call of the server.
local key = KEYS[1]
local was = redis.call('HMGET', key, 'version', 'live_until', 'gone_at', 'body', 'call', 'state')
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local last = was[1]
local live_until, gone_at, readable, left

-- One element alone says what is wrong with the record.
if last then
  local number = tonumber(last)
  if not (number and number < 9007199254740991) then return {'its version is not a number below 2^53'} end
  live_until = was[2] == 'never' and math.huge or tonumber(was[2])
  gone_at = was[3] == 'never' and math.huge or tonumber(was[3])
  if not (live_until and gone_at) then return {'its live_until or gone_at is not a time'} end
  if not was[4] then return {'it has no body'} end
  readable = gone_at > now
  left = was[2] == 'never' and 'never' or math.max(0, live_until - now)
elseif redis.call('EXISTS', key) == 1 then
  return {'it has no version'}
end
