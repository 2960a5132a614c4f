#!lua flags=allow-oom
-- Settles by hand what an attempt that stopped in the middle left, as Deduplicator::resolve and forget do:
--   redis-cli --eval ops/resolve.lua "$KEY" , "$VERSION" completed "$OUTCOME"  it happened, and this is its outcome
--   redis-cli --eval ops/resolve.lua "$KEY" , "$VERSION" failed "$OUTCOME"     it failed for good, and this is replayed
--   redis-cli --eval ops/resolve.lua "$KEY" , "$VERSION" no_effect             nothing happened: it may run, as the same operation
--   redis-cli --eval ops/resolve.lua "$KEY" , "$VERSION" forget                whatever happened: the next call begins anew
-- The version is the one that was looked at (ops/look.lua): a record that moved on since is left alone. The last argument,
-- after these, is how many seconds the record is kept: a day if it is left out.
-- Writes records of format 1, and refuses any other, and one that is damaged.
local key, version_seen, command = KEYS[1], ARGV[1], ARGV[2]
local happened = command == 'completed' or command == 'failed'
local keep = ARGV[happened and 4 or 3] or '86400'
if not happened and command ~= 'no_effect' and command ~= 'forget' then
  return 'refused: say the version, and completed, failed, no_effect or forget'
end
if happened and not ARGV[3] then return 'refused: ' .. command .. ' takes the outcome' end
if not string.find(keep, '^%d+$') then return 'refused: the seconds to keep it are not a number' end

local was = redis.call('HMGET', key, 'version', 'live_until', 'gone_at', 'body', 'state', 'about', 'call')
if not was[1] then return 'refused: there is nothing under this key' end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if was[3] ~= 'never' and tonumber(was[3]) <= now then return 'refused: the record is gone' end
local live = was[2] == 'never' or tonumber(was[2]) > now
if was[5] == 'in_progress' and live then return 'refused: the operation is running; wait for its lease to end' end
if command ~= 'forget' and was[5] ~= 'in_progress' then return 'refused: it is not in doubt, it is ' .. was[5] end
if command == 'forget' and was[5] == 'forgotten' then return 'done: it was forgotten before' end
if was[1] ~= version_seen then return 'refused: it has version ' .. was[1] .. ' by now; look again' end

-- The stored form, as it is written in src/protocol/encoding.rs: format, flags, ids, numbers, then byte strings.
local body = was[4]
if string.byte(body, 1) ~= 1 then return 'refused: this is a record of another format than 1' end
local damaged = 'refused: the record is damaged; look at it, and forget it if you must'
local flags = string.byte(body, 2)
if not flags then return damaged end
local function has(bit) return math.floor(flags / bit) % 2 == 1 end
local HOLD, FINGERPRINT, TOKEN, CHECKPOINT, OWN_ID, DOUBT = 8, 16, 32, 64, 128, 4
local at = has(OWN_ID) and 19 or 35
if command ~= 'forget' and flags % 4 ~= 0 then return damaged end

local function number()
  local value, place = 0, 1
  while true do
    local byte = string.byte(body, at)
    if not byte then error({}) end
    at = at + 1
    value = value + byte % 128 * place
    if byte < 128 then return value end
    place = place * 128
  end
end

local function varint(value)
  local bytes = ''
  while value >= 128 do
    bytes = bytes .. string.char(value % 128 + 128)
    value = math.floor(value / 128)
  end
  return bytes .. string.char(value)
end

local function part(is_there, skipped)
  if not is_there then return '' end
  local from = at
  at = at + skipped
  local len = number()
  at = at + len
  if at > #body + 1 then error({}) end
  return string.sub(body, from, at - 1)
end
local begin, token, fingerprint, checkpoint = '', varint(tonumber(was[1])), '', ''
local read = pcall(function()
  -- The ids, and attempt, forgiven and created.
  number()
  number()
  number()
  begin = string.sub(body, 3, at - 1)
  if has(TOKEN) then
    local from = at
    number()
    token = string.sub(body, from, at - 1)
  end
  if command ~= 'forget' then
    fingerprint = part(has(FINGERPRINT), 1)
    checkpoint = part(has(CHECKPOINT), 0)
    if at ~= #body + 1 then error({}) end
  end
end)
if not read then return damaged end

local state, kept, last
if happened then
  state, last = 1, string.char(command == 'failed' and 1 or 0) .. varint(#ARGV[3]) .. ARGV[3]
  checkpoint = ''
elseif command == 'no_effect' then
  state, last = 2, string.char(0)
else
  state, last = 3, ''
end
flags = state + TOKEN + (has(HOLD) and HOLD or 0) + (has(OWN_ID) and OWN_ID or 0)
  + (command == 'forget' and has(DOUBT) and DOUBT or 0)
  + (fingerprint ~= '' and FINGERPRINT or 0) + (checkpoint ~= '' and CHECKPOINT or 0)
local finished = varint(time[1] * 1000 + math.floor(time[2] / 1000))
body = string.char(1, flags) .. begin .. token .. finished .. fingerprint .. checkpoint .. last

-- Live for so long if it is an outcome; else expired, and readable for so long.
local version = math.max(now, tonumber(was[1]) + 1)
local gone_at = now + keep * 1000000
local live_until = happened and gone_at or now
local names = {'completed', 'released', 'forgotten'}
local function whole(value) return string.format('%.0f', value) end
redis.call('HSET', key, 'version', whole(version), 'live_until', whole(live_until), 'gone_at', whole(gone_at),
  'body', body, 'state', names[state], 'about', string.gsub(was[6] or '', ' finished=.*', '') .. ' by_hand')
-- No late copy of the call that wrote the record before is to be told that this was its own.
if was[7] then redis.call('HSET', key, 'call', '') end
redis.call('PEXPIREAT', key, whole(math.ceil(gone_at / 1000) + 60000))
return 'done: ' .. (command == 'failed' and 'failed' or names[state])
