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

-- The stored form, as it is written in src/protocol/encoding.rs: format, flags, ids, numbers, then byte strings.
if #body < 2 then return DAMAGED end
if string.byte(body, 1) ~= 1 then return 'refused: this is a record of another format than 1' end
local flags = string.byte(body, 2)
local function has(bit) return math.floor(flags / bit) % 2 == 1 end
local HOLD, FINGERPRINT, TOKEN, CHECKPOINT, OWN_ID, DOUBT = 8, 16, 32, 64, 128, 4
if flags % 4 ~= was_state then return DAMAGED end
local at = has(OWN_ID) and 19 or 35
if not has(OWN_ID) and string.sub(body, 3, 18) == string.sub(body, 19, 34) then return DAMAGED end

-- Each of these goes past what it reads, and is nil once anything was not all there: `whole` remembers it.
local whole = true
local function byte()
  local found = string.byte(body, at)
  at = at + 1
  if not found then whole = false end
  return found
end
local function number()
  local value, place = 0, 1
  for index = 1, 10 do
    local found = byte()
    if not found then return nil end
    -- The shortest form only, of 64 bits.
    if index > 1 and found == 0 or index == 10 and found > 1 then break end
    value = value + found % 128 * place
    if found < 128 then return value end
    place = place * 128
  end
  whole = false
end
local function bytes()
  local len = number()
  if not len or len > #body - at + 1 then
    whole = false
    return nil
  end
  at = at + len
  return len
end
local function from(start) return string.sub(body, start, at - 1) end

local attempt, forgiven = number(), number()
number()
if not whole or attempt < 1 or attempt >= 4294967296 or forgiven > attempt then return DAMAGED end
local begin = from(3)
local start = at
if has(TOKEN) then number() end
local token = from(start)
if was_state ~= 0 then number() end
start = at
if has(FINGERPRINT) then
  byte()
  local len = bytes()
  if not len or len < 1 or len > 32 then return DAMAGED end
end
local fingerprint = from(start)
start = at
if has(CHECKPOINT) and bytes() == 0 then return DAMAGED end
local checkpoint = from(start)
if was_state == 1 then
  local kind = byte()
  if not kind or kind > 7 then return DAMAGED end
  local form = kind - kind % 2
  if form == 0 then bytes() elseif form ~= 4 then number() end
elseif was_state == 2 then
  local fresh = byte()
  if not fresh or fresh > 1 then return DAMAGED end
end
if not whole or at ~= #body + 1 then return DAMAGED end

local function varint(value)
  local made = ''
  while value >= 128 do
    made = made .. string.char(value % 128 + 128)
    value = math.floor(value / 128)
  end
  return made .. string.char(value)
end
if not has(TOKEN) then token = varint(tonumber(was[1])) end

local state, last
if happened then
  state, last = 1, string.char(command == 'failed' and 1 or 0) .. varint(#outcome) .. outcome
  checkpoint = ''
elseif command == 'no_effect' then
  state, last = 2, string.char(0)
else
  state, last, fingerprint, checkpoint = 3, '', '', ''
end
flags = state + TOKEN + (has(HOLD) and HOLD or 0) + (has(OWN_ID) and OWN_ID or 0)
  + (command == 'forget' and has(DOUBT) and DOUBT or 0)
  + (fingerprint ~= '' and FINGERPRINT or 0) + (checkpoint ~= '' and CHECKPOINT or 0)
local finished = varint(time[1] * 1000 + math.floor(time[2] / 1000))
body = string.char(1, flags) .. begin .. token .. finished .. fingerprint .. checkpoint .. last

-- Live for so long if it is an outcome; else expired, and readable for so long.
local version = math.max(now, tonumber(was[1]) + 1)
gone_at = now + keep * 1000000
live_until = happened and gone_at or now
local names = {'completed', 'released', 'forgotten'}
local function text(value) return string.format('%.0f', value) end
redis.call('HSET', key, 'version', text(version), 'live_until', text(live_until), 'gone_at', text(gone_at),
  'body', body, 'state', names[state], 'about', string.gsub(was[6] or '', ' finished=.*', '') .. ' by_hand')
-- No late copy of the call that wrote the record before is to be told that this was its own.
if was[7] then redis.call('HSET', key, 'call', '') end
redis.call('PEXPIREAT', key, text(math.ceil(gone_at / 1000) + 60000))
return 'done: ' .. (command == 'failed' and 'failed' or names[state])
