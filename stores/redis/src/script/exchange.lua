-- ARGV: the version expected, or '' for a vacant key; how long it lives, and lingers after that, in microseconds, or ''
-- for ever; body; state; about; the id of this call, or '' where no connection sends a call twice; how long the hash
-- outlives the record, in milliseconds.
local call = ARGV[7]
if call ~= '' and last and was[5] == call then
  return last -- an earlier copy of this very call
end
if ARGV[1] == '' then
  if readable then return entry() end
elseif not readable or last ~= ARGV[1] then
  return entry()
end

local version = now
if last and tonumber(last) >= now then version = tonumber(last) + 1 end
version = whole(version)
live_until, gone_at = 'never', 'never'
local expire_at
if ARGV[2] ~= '' then
  local live = now + ARGV[2]
  live_until = whole(live)
  if ARGV[3] ~= '' then
    local gone = live + ARGV[3]
    gone_at = whole(gone)
    expire_at = whole(math.ceil(gone / 1000) + ARGV[8])
  end
end

-- The first write is the one that a full server refuses, before anything is changed.
if call == '' then
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
