-- What all scripts share; it is put in front of each of them. docs/developers/fair-queue.md explains the order.
--
-- KEYS[1]  aiia:queue:{<model>}, the base of all keys of the model, which makes them one slot of a cluster
-- ARGV[1]  the time in seconds, or '' for the server's own clock
-- ARGV[2]  the calling gateway
-- ARGV[3]  seconds after which a user who was not served moves up one class
-- ARGV[4]  share of the slots that is given beyond them to users who have nothing in flight
--
-- waiting, running, lost   hashes: ticket -> the packed ticket
-- owned:<gateway>          set of the gateway's tickets
-- gateways                 zset: gateway -> when it was last heard
-- line:<class>:<user>      zset: the waiting tickets of a user, in the order they came
-- head:<class>             hash: user -> the first member of the line
-- order:<class>            zset: heads by the virtual time of their users
-- since:<class>            zset: heads by the time since when their users were not served
-- virtual:<class>          zset: user -> virtual time, in cost by weight
-- inflight                 hash: user -> number of running tickets
-- meta                     hash: slots, told (when) and teller (by whom), floor:<class>, cost and time (for the speed),
--                          born, hold (until when no slot is given)

local base = KEYS[1]
local clock = tonumber(ARGV[1])
if not clock then
  local time = redis.call('TIME')
  clock = time[1] + time[2] / 1e6
end
local now = clock
local gateway = ARGV[2]
local ageing = tonumber(ARGV[3])
local express = tonumber(ARGV[4])
local LAST_CLASS = 2
-- Weight of the newest request in the running means of cost and time.
local NEWEST = 0.05

local function key(...)
  return base .. ':' .. table.concat({...}, ':')
end

-- Replies carry no fractions unless they are text.
local function text(number)
  return string.format('%.17g', number)
end

local function meta(field)
  return tonumber(redis.call('HGET', key('meta'), field)) or 0
end

local function find(state, id)
  local packed = redis.call('HGET', key(state), id)
  return packed and cmsgpack.unpack(packed)
end

local function save(state, ticket)
  redis.call('HSET', key(state), ticket.id, cmsgpack.pack(ticket))
end

local function all(state)
  local tickets = redis.call('HVALS', key(state))
  for i, packed in ipairs(tickets) do
    tickets[i] = cmsgpack.unpack(packed)
  end
  return tickets
end

local function own(ticket, holder)
  redis.call('SREM', key('owned', ticket.gateway), ticket.id)
  ticket.gateway = holder
  redis.call('SADD', key('owned', holder), ticket.id)
end

-- Virtual time -----------------------------------------------------------------------------------------------------

local function least_waiting(class)
  return tonumber(redis.call('ZRANGE', key('order', class), 0, 0, 'WITHSCORES')[2])
end

-- Where those who had nothing waiting start: at the virtual time of who was served last, or at the least that waits now
-- if that has fallen below it, since requests had cost less than was thought.
local function floor_of(class)
  local floor = meta('floor:' .. class)
  return math.min(floor, least_waiting(class) or floor)
end

local function virtual(class, user)
  return tonumber(redis.call('ZSCORE', key('virtual', class), user)) or floor_of(class)
end

local function set_virtual(class, user, value)
  redis.call('ZADD', key('virtual', class), text(value), user)
  local head = redis.call('HGET', key('head', class), user)
  if head then
    redis.call('ZADD', key('order', class), text(value), head)
  end
end

local function charge(ticket, cost)
  set_virtual(ticket.class, ticket.user, virtual(ticket.class, ticket.user) + (cost - ticket.charged) / ticket.weight)
  ticket.charged = cost
end

-- Users at or below the floor who wait for nothing are like new ones.
local function forget_idle()
  for class = 0, LAST_CLASS do
    local idle = redis.call('ZRANGEBYSCORE', key('virtual', class), '-inf', text(floor_of(class)))
    for _, user in ipairs(idle) do
      if redis.call('HEXISTS', key('head', class), user) == 0 then
        redis.call('ZREM', key('virtual', class), user)
      end
    end
  end
end

-- Lines ------------------------------------------------------------------------------------------------------------

-- Shows the first of a user's line as its head. since: when the user was last served, at the earliest.
local function show_head(class, user, since)
  local first = redis.call('ZRANGE', key('line', class, user), 0, 0)[1]
  local shown = redis.call('HGET', key('head', class), user)
  if shown == first then
    return
  end
  if shown then
    since = math.max(since, tonumber(redis.call('ZSCORE', key('since', class), shown)))
    redis.call('ZREM', key('order', class), shown)
    redis.call('ZREM', key('since', class), shown)
    redis.call('HDEL', key('head', class), user)
  end
  if first then
    local entered = tonumber(string.sub(first, 1, 17))
    redis.call('HSET', key('head', class), user, first)
    redis.call('ZADD', key('order', class), text(virtual(class, user)), first)
    redis.call('ZADD', key('since', class), text(math.max(since, entered)), first)
  end
end

-- Members sort by the time of entering, then by ticket.
local function wait(ticket)
  local member = string.format('%017.6f', ticket.entered) .. ticket.id
  ticket.member = member
  ticket.charged = 0
  save('waiting', ticket)
  own(ticket, ticket.gateway)
  if redis.call('HEXISTS', key('head', ticket.class), ticket.user) == 0 then
    set_virtual(ticket.class, ticket.user, math.max(virtual(ticket.class, ticket.user), floor_of(ticket.class)))
  end
  redis.call('ZADD', key('line', ticket.class, ticket.user), 0, member)
  show_head(ticket.class, ticket.user, 0)
end

local function leave_line(ticket, since)
  redis.call('HDEL', key('waiting'), ticket.id)
  redis.call('ZREM', key('line', ticket.class, ticket.user), ticket.member)
  show_head(ticket.class, ticket.user, since)
end

-- Sets the number of slots, unless another gateway has told it from newer knowledge. What one gateway says last counts:
-- its words come in order, but the way of the earlier may have taken longer, which makes it look newer.
local function tell_slots(slots, age)
  local told = now - age
  if told >= meta('told') or redis.call('HGET', key('meta'), 'teller') == gateway then
    redis.call('HSET', key('meta'), 'slots', slots, 'told', text(told), 'teller', gateway)
  end
end

-- Slots ------------------------------------------------------------------------------------------------------------

local function run(ticket)
  ticket.started = now
  local least = least_waiting(ticket.class)
  if least then
    redis.call('HSET', key('meta'), 'floor:' .. ticket.class, text(least))
  end
  charge(ticket, ticket.cost)
  save('running', ticket)
  redis.call('HINCRBY', key('inflight'), ticket.user, 1)
end

local function stop(ticket)
  redis.call('HDEL', key('running'), ticket.id)
  if redis.call('HINCRBY', key('inflight'), ticket.user, -1) <= 0 then
    redis.call('HDEL', key('inflight'), ticket.user)
  end
end

local function owner_forgets(ticket)
  redis.call('SREM', key('owned', ticket.gateway), ticket.id)
end

local function in_flight(ticket)
  return redis.call('HEXISTS', key('inflight'), ticket.user) == 1
end

-- The head that goes next, and whether it has moved up. Among equals it is one whose user has nothing in flight. A head moves up one class for each `ageing` since its user was served, to the front of
-- that class, and in the end to the front of all.
local function next_head()
  for rank = -1, LAST_CLASS do
    local oldest, aged
    for class = rank + 1, LAST_CLASS do
      local head = redis.call('ZRANGE', key('since', class), 0, 0, 'WITHSCORES')
      local since = tonumber(head[2])
      if since and class - math.floor((now - since) / ageing) <= rank and (not oldest or since < oldest) then
        oldest, aged = since, head[1]
      end
    end
    if aged then
      return aged, true
    end
    local first = rank >= 0 and least_waiting(rank)
    if first then
      local equals = redis.call('ZRANGEBYSCORE', key('order', rank), text(first), text(first))
      for _, head in ipairs(equals) do
        if not in_flight(find('waiting', string.sub(head, 18))) then
          return head
        end
      end
      return equals[1]
    end
  end
end

-- Whose turn it is, with nothing in flight, need not wait for a slot to come free.
local function may_exceed(ticket)
  return ticket.class < LAST_CLASS and not in_flight(ticket)
end

-- An image of the batch class leaves the last slot to others, who can then take the device from it between two steps;
-- one that has waited so long that it moved up does not.
local function leaves_last(ticket, moved_up)
  return ticket.class == LAST_CLASS and ticket.unit == 'gpu_ms' and not moved_up
end

-- Fills the slots. Returns the tickets of the calling gateway that got one; others are told by message.
local function admit()
  local admitted = {}
  if redis.call('HLEN', key('waiting')) == 0 or meta('hold') > now then
    return admitted
  end
  local slots = meta('slots')
  local running = redis.call('HLEN', key('running'))
  local limit = slots + math.ceil(slots * express)
  while running < limit do
    local head, moved_up = next_head()
    local ticket = head and find('waiting', string.sub(head, 18))
    if not ticket or (running >= slots and not may_exceed(ticket)) then
      break
    end
    if slots > 1 and running >= slots - 1 and leaves_last(ticket, moved_up) then
      break
    end
    run(ticket)
    leave_line(ticket, now)
    running = running + 1
    if ticket.gateway == gateway then
      table.insert(admitted, ticket.id)
    else
      redis.call('PUBLISH', 'aiia:queue:gateway:' .. ticket.gateway, ticket.id)
    end
  end
  return admitted
end

-- Estimates --------------------------------------------------------------------------------------------------------

-- Cost per second of all slots together, or nil.
local function speed()
  local time = meta('time')
  if time > 0 then
    return meta('cost') / time * math.max(meta('slots'), 1)
  end
end

local function measure(cost, seconds)
  local old = 1 - NEWEST
  redis.call('HSET', key('meta'), 'cost', text(meta('cost') * old + cost), 'time', text(meta('time') * old + seconds))
end

-- All waiting tickets in the order in which they will go if nothing changes, each with position, ahead (the cost
-- before it) and lag (how far its user's virtual time is above the floor).
local function in_order()
  local tickets = all('waiting')
  table.sort(tickets, function(a, b) return a.member < b.member end)
  local last = {}
  for _, ticket in ipairs(tickets) do
    local line = ticket.class .. ticket.user
    if last[line] then
      ticket.tag = last[line].tag + last[line].cost / last[line].weight
      ticket.lag = last[line].lag
      ticket.rank, ticket.aged, ticket.busy = ticket.class, math.huge, 1
    else
      ticket.tag = virtual(ticket.class, ticket.user)
      ticket.lag = ticket.tag - floor_of(ticket.class)
      local since = tonumber(redis.call('ZSCORE', key('since', ticket.class), ticket.member))
      local steps = math.floor((now - since) / ageing)
      ticket.rank = math.max(ticket.class - steps, -1)
      ticket.aged = steps > 0 and since or math.huge
      ticket.busy = in_flight(ticket) and 1 or 0
    end
    last[line] = ticket
  end
  table.sort(tickets, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    if a.aged ~= b.aged then return a.aged < b.aged end
    if a.tag ~= b.tag then return a.tag < b.tag end
    if a.busy ~= b.busy then return a.busy < b.busy end
    return a.member < b.member
  end)
  local ahead = 0
  for position, ticket in ipairs(tickets) do
    ticket.position, ticket.ahead = position, ahead
    ahead = ahead + ticket.cost
  end
  return tickets
end

-- Seconds until a ticket goes that has so much cost before it, or ''. A slot must come free first, which takes as
-- long as its share of one request.
local function eta(ahead, own_cost)
  local rate = speed()
  if rate and rate > 0 and meta('slots') > 0 then
    return text((ahead + own_cost) / rate)
  end
  return ''
end

redis.call('ZADD', key('gateways'), text(now), gateway)
