-- The record is as expected.
local version = now
if last and tonumber(last) >= now then version = tonumber(last) + 1 end
version = string.format('%.0f', version)
live_until, gone_at = 'never', 'never'
local expire_at
if ARGV[2] ~= '' then
  local live = now + ARGV[2]
  live_until = string.format('%.0f', live)
  if ARGV[3] ~= '' then
    local gone = live + ARGV[3]
    gone_at = string.format('%.0f', gone)
    expire_at = string.format('%.0f', math.ceil(gone / 1000) + ARGV[8])
  end
end

-- The first write is the one that a full server refuses, before anything is changed. A write that has no id takes the place
-- of one that had: a late copy of that call is not to be told that this was its own.
if call == '' and not was[5] then
  redis.call('HSET', key, 'version', version, 'live_until', live_until, 'gone_at', gone_at, 'body', ARGV[4],
    'state', ARGV[5], 'about', ARGV[6])
else
  redis.call('HSET', key, 'version', version, 'live_until', live_until, 'gone_at', gone_at, 'body', ARGV[4],
    'state', ARGV[5], 'about', ARGV[6], 'call', call)
end
if expire_at then
  redis.call('PEXPIREAT', key, expire_at)
elseif last then
  redis.call('PERSIST', key)
end
return version
