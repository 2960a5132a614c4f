-- ARGV: 'doubt' for a listing, which wants only records that are in progress with nothing left to live.
if ARGV[1] == 'doubt' and readable and (was[6] ~= 'in_progress' or live_until > now) then
  return {}
end
return entry()
