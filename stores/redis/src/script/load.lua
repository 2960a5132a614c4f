-- ARGV: 'doubt' for a listing, which wants only records that are in progress with nothing left to live.
local found = {last, left, was[4]}
if not readable or ARGV[1] == 'doubt' and (was[6] ~= 'in_progress' or left ~= 0) then
  found = {}
end
