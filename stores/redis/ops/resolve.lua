#!lua flags=allow-oom
-- Settles by hand what an attempt that stopped in the middle left, as Deduplicator::resolve and forget do. VERSION is the
-- one that ops/look.lua told: should anybody have written since, nothing is done.
--   redis-cli --eval ops/resolve.lua "$KEY" , "$VERSION" completed "$OUTCOME"   it happened, and this is its outcome
--   redis-cli --eval ops/resolve.lua "$KEY" , "$VERSION" failed "$OUTCOME"      it failed for good, with this outcome
--   redis-cli --eval ops/resolve.lua "$KEY" , "$VERSION" no_effect   nothing happened: it may run, as the same operation
--   redis-cli --eval ops/resolve.lua "$KEY" , "$VERSION" forget      whatever happened: the next call begins anew
-- The last argument, after these, is how many seconds the record is kept: a day if it is left out.
-- Writes records of format 1, and refuses any other, and one that is damaged.
local key, looked_at, command = KEYS[1], ARGV[1] or '', ARGV[2]
local happened = command == 'completed' or command == 'failed'
local outcome = happened and ARGV[3]
local keep = ARGV[happened and 4 or 3] or '86400'
if not string.find(looked_at, '^%d+$') then
  return 'refused: say first which version you looked at, as ops/look.lua tells it'
end
if not happened and command ~= 'no_effect' and command ~= 'forget' then
  return 'refused: say completed, failed, no_effect or forget'
end
if happened and not outcome then return 'refused: ' .. command .. ' takes the outcome' end
if not string.find(keep, '^%d+$') or tonumber(keep) < 1 or tonumber(keep) > 3000000000 then
  return 'refused: the seconds to keep it are not a whole number from 1 to 3000000000'
end

local was = redis.call('HMGET', key, 'version', 'live_until', 'gone_at', 'body', 'state', 'about', 'call')
if not was[1] then return 'refused: there is nothing under this key' end
local function moment(text) return text == 'never' and math.huge or tonumber(text or '') end
local live_until, gone_at = moment(was[2]), moment(was[3])
local body, states = was[4], {in_progress = 0, completed = 1, released = 2, forgotten = 3}
local was_state = states[was[5]]
local DAMAGED = 'refused: the record is damaged'
if not (string.find(was[1], '^%d+$') and live_until and gone_at and body and was_state) then return DAMAGED end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if gone_at <= now then return 'refused: the record is gone' end
if was[1] ~= looked_at then return 'refused: it has version ' .. was[1] .. ' by now; look again' end
if was[5] == 'in_progress' and live_until > now then
  return 'refused: the operation is running; wait for its lease to end'
end
if command ~= 'forget' and was[5] ~= 'in_progress' then return 'refused: it is not in doubt, it is ' .. was[5] end
if command == 'forget' and was[5] == 'forgotten' then return 'done: it was forgotten before' end

-- The stored form, as it is written in src/protocol/encoding.rs: 47 bytes of fixed places, then what may be absent (operation
-- id, what a reset left, fingerprint), and the last part. Numbers have their greatest byte first.
if string.byte(body, 1) and string.byte(body, 1) > 1 then return 'refused: this is a record of another format than 1' end
if #body < 47 or string.byte(body, 1) ~= 1 then return DAMAGED end
local function number(from, to)
  local value = 0
  for at = from, to do value = value * 256 + (string.byte(body, at) or 0) end
  return value
end
local flags, digest = string.byte(body, 2, 3)
local function has(bit) return math.floor(flags / bit) % 2 == 1 end
local STATE, DOUBT, HOLD, TOKEN, OWN_ID, RESET = 16, 16, 32, 64, 128, 128
local state, reset, digest_len = flags % STATE, digest >= RESET, digest % RESET
local as_named = state >= 4 and 1 or state == 3 and 3 or state > 0 and 2 or 0
if as_named ~= was_state or state > 11 or digest_len > 32 then return DAMAGED end
if not has(OWN_ID) and string.sub(body, 4, 19) == string.sub(body, 48, 63) then return DAMAGED end
local fingerprint_at = 48 + (has(OWN_ID) and 0 or 16) + (reset and 4 or 0)
local last_at = fingerprint_at + (digest_len > 0 and 1 + digest_len or 0)
local last_len = number(44, 47)
if last_at + last_len ~= #body + 1 then return DAMAGED end
local attempt, forgiven = number(20, 23), reset and number(fingerprint_at - 4, fingerprint_at - 1) or 1
if attempt < 1 or forgiven < 1 or forgiven > attempt then return DAMAGED end
if not has(TOKEN) and number(30, 37) ~= 0 or state == 0 and number(38, 43) ~= 0 then return DAMAGED end
-- Too large, not encodable, dropped: a length, or nothing.
if (state == 3 or state == 8 or state == 9) and last_len > 0 then return DAMAGED end
if (state == 6 or state == 7 or state > 9) and last_len ~= 8 then return DAMAGED end

local function bytes(value, count)
  local made = ''
  for _ = 1, count do
    made = string.char(value % 256) .. made
    value = math.floor(value / 256)
  end
  return made
end
local token = has(TOKEN) and string.sub(body, 30, 37) or bytes(tonumber(was[1]), 8)

local last, optional = '', string.sub(body, 48, last_at - 1)
if happened then
  state, last = command == 'failed' and 5 or 4, outcome
elseif command == 'no_effect' then
  state, last = 1, string.sub(body, last_at)
else
  state, digest, optional = 3, reset and RESET or 0, string.sub(body, 48, fingerprint_at - 1)
end
flags = state + TOKEN + (has(HOLD) and HOLD or 0) + (has(OWN_ID) and OWN_ID or 0)
  + (command == 'forget' and has(DOUBT) and DOUBT or 0)
local finished = bytes(time[1] * 1000 + math.floor(time[2] / 1000), 6)
body = string.char(1, flags, digest) .. string.sub(body, 4, 29) .. token .. finished .. bytes(#last, 4) .. optional .. last

-- Live for so long if it is an outcome; else expired, and readable for so long.
local version = math.max(now, tonumber(was[1]) + 1)
gone_at = now + keep * 1000000
live_until = happened and gone_at or now
local name = happened and 'completed' or state == 1 and 'released' or 'forgotten'
local function text(value) return string.format('%.0f', value) end
redis.call('HSET', key, 'version', text(version), 'live_until', text(live_until), 'gone_at', text(gone_at),
  'body', body, 'state', name, 'about', string.gsub(was[6] or '', ' finished=.*', '') .. ' by_hand')
-- No late copy of the call that wrote the record before is to be told that this was its own.
if was[7] then redis.call('HSET', key, 'call', '') end
redis.call('PEXPIREAT', key, text(math.ceil(gone_at / 1000) + 60000))
return 'done: ' .. (command == 'failed' and 'failed' or name)
