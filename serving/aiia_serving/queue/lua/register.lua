-- Makes Redis agree with what a gateway holds, after the two were apart: Redis may have lost all, or only missed a few
-- words. What the gateway says is running runs.
--
-- ARGV[5]   for how many seconds no slot is given if Redis lost all, so that every gateway can come back first
-- ARGV[6]   slots, or '' if unknown    ARGV[7]  age of that knowledge in seconds
-- ARGV[8..] of each ticket: ticket, request, user, class, cost, weight, unit, note, seconds since it entered, seconds
--           since it started or '', cost so far, lag of its user
-- Returns   the tickets of this gateway that have a slot

local FIELDS = 12
local empty = redis.call('HSETNX', key('meta'), 'born', text(now)) == 1
if empty then
  redis.call('HSET', key('meta'), 'hold', text(now + tonumber(ARGV[5])))
end
if ARGV[6] ~= '' then
  tell_slots(ARGV[6], tonumber(ARGV[7]))
end

local held = {}
for i = 8, #ARGV, FIELDS do
  local started = tonumber(ARGV[i + 9])
  local ticket = {
    id = ARGV[i], request = ARGV[i + 1], user = ARGV[i + 2], class = tonumber(ARGV[i + 3]), cost = tonumber(ARGV[i + 4]),
    weight = tonumber(ARGV[i + 5]), unit = ARGV[i + 6], note = ARGV[i + 7], gateway = gateway,
    entered = now - tonumber(ARGV[i + 8]), spent = tonumber(ARGV[i + 10]),
  }
  held[ticket.id] = true
  local known = find('waiting', ticket.id)
  if not find('running', ticket.id) then
    if started then
      if known then
        leave_line(known, now)
      end
      -- Another gateway may have taken this one for dead.
      local lost = find('lost', ticket.id)
      if lost then
        owner_forgets(lost)
        redis.call('HDEL', key('lost'), ticket.id)
      end
      ticket.charged = 0
      own(ticket, gateway)
      run(ticket)
      ticket.started = now - started
      save('running', ticket)
    elseif not known then
      wait(ticket)
      local start = meta('floor:' .. ticket.class) + tonumber(ARGV[i + 11])
      set_virtual(ticket.class, ticket.user, math.max(virtual(ticket.class, ticket.user), start))
    end
  end
end

local running = {}
for _, id in ipairs(redis.call('SMEMBERS', key('owned', gateway))) do
  local ticket = find('running', id)
  if ticket and held[id] then
    table.insert(running, id)
  elseif ticket then
    stop(ticket)
    owner_forgets(ticket)
  elseif not held[id] then
    ticket = find('waiting', id)
    if ticket then
      leave_line(ticket, 0)
      owner_forgets(ticket)
    end
  end
end
for _, id in ipairs(admit()) do
  table.insert(running, id)
end
return running
