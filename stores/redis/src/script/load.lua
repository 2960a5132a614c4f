-- ARGV: 'doubt' for a listing, which wants only records that are in progress with nothing left to live.
if not readable or ARGV[1] == 'doubt' and (was[6] ~= 'in_progress' or left ~= 0) then
  return {}
end
return {last, left, was[4]}
