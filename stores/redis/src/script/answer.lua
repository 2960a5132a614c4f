-- Answers what was found, if that is the answer.
--
-- A replica may have old data, also one that was the primary a moment ago: it answers nothing. It gives itself away where it
-- is to write; this write changes nothing, since no time is before the first. Whatever else keeps a server from writing does
-- not keep a record from being read. It comes only now: a server that is full refuses the first write of a script.
if found then
  local refused = redis.pcall('PEXPIREAT', key, 1, 'GT')
  if type(refused) == 'table' and refused.err and string.find(refused.err, 'READONLY', 1, true) then return refused end
  return found
end
