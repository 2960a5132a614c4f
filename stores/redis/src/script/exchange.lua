-- ARGV: the version expected, or '' for a vacant key; how long it lives, and lingers after that, in microseconds, or ''
-- forever; body; state; about; the id of this call, or '' where no connection sends a call twice; how long the hash
-- outlives the record, in milliseconds.
local call = ARGV[7]
local found
if call ~= '' and last and was[5] == call then
  found = last -- an earlier copy of this very call
elseif readable and last ~= ARGV[1] then
  found = {last, left, was[4]}
elseif not readable and ARGV[1] ~= '' then
  found = {}
end
