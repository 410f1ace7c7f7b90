-- Takes a place, or a slot at once. Repeating it changes nothing.
--
-- ARGV[5..]  ticket, request, user, class, cost, weight, unit, note, most that may wait
-- Returns    {'full', retry after} | {'running'} | {'waiting', position, eta}

local id, limit = ARGV[5], tonumber(ARGV[13])
if find('running', id) then
  return {'running'}
end
if not find('waiting', id) then
  local ticket = {
    id = id, request = ARGV[6], user = ARGV[7], class = tonumber(ARGV[8]), cost = tonumber(ARGV[9]),
    weight = tonumber(ARGV[10]), unit = ARGV[11], note = ARGV[12], gateway = gateway,
    entered = now,
  }
  local waiting = redis.call('HLEN', key('waiting'))
  -- The last places are for users who have none, so that a flood cannot shut others out.
  local alone = redis.call('HEXISTS', key('head', ticket.class), ticket.user) == 0
  if waiting >= limit - (alone and 0 or math.floor(limit / 8)) then
    local total = 0
    for _, other in ipairs(all('waiting')) do
      total = total + other.cost
    end
    return {'full', eta(total, ticket.cost)}
  end
  wait(ticket)
  for _, admitted in ipairs(admit()) do
    if admitted == id then
      return {'running'}
    end
  end
end
for _, ticket in ipairs(in_order()) do
  if ticket.id == id then
    return {'waiting', ticket.position, eta(ticket.ahead, ticket.cost)}
  end
end
