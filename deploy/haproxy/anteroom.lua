-- Asks the gateway about the request that HAProxy holds (`http-request lua.anteroom <address of the gateway>`).
-- Sets txn.anteroom to `admitted` and, beside it, what the origin is told; sets nothing when the answer is no, or when
-- there is none, so that whatever goes wrong here means: not admitted. HAProxy has no auth_request of its own, its
-- jwt_verify knows no EdDSA, and a signature alone would not know of sessions that have ended.

local TIMEOUT_MS = 5000

-- What belongs to this connection or this body, and what the question says by itself.
local NOT_ASKED = {
  ["host"] = true, ["connection"] = true, ["keep-alive"] = true, ["proxy-connection"] = true, ["te"] = true,
  ["trailer"] = true, ["upgrade"] = true, ["expect"] = true, ["content-length"] = true, ["content-type"] = true,
  ["transfer-encoding"] = true,
}

-- Header of the answer -> variable. Each is a word or a token, never more than one.
local TOLD = {
  ["anteroom-context"] = "txn.anteroom_context",
  ["anteroom-visitor"] = "txn.anteroom_visitor",
  ["anteroom-room"] = "txn.anteroom_room",
  ["anteroom-session-id"] = "txn.anteroom_session_id",
  ["set-cookie"] = "txn.anteroom_cookie",
}

-- HAProxy gives lists that begin at 0 and takes lists that begin at 1.
local function question(txn)
  local headers = {}
  for name, values in pairs(txn.http:req_get_headers()) do
    if not NOT_ASKED[name] and not name:find("[^a-z0-9-]") then
      local list = {}
      for _, value in pairs(values) do list[#list + 1] = value end
      headers[name] = list
    end
  end
  headers["x-original-uri"] = { txn.sf:url() }
  headers["x-original-method"] = { txn.sf:method() }
  headers["x-original-host"] = { txn.sf:req_fhdr("host") }
  return headers
end

-- Cookies of the waiting room are not the origin's business. A request that is not admitted keeps them: it goes to the
-- gateway, which reads them.
local function leave_out_ours(txn)
  local kept = {}
  for _, value in pairs(txn.http:req_get_headers()["cookie"] or {}) do
    for part in value:gmatch("[^;]+") do
      local cookie = part:match("^%s*(.-)%s*$")
      if cookie ~= "" and not cookie:find("^ar_") and not cookie:find("^__Host%-ar_") then kept[#kept + 1] = cookie end
    end
  end
  txn.http:req_del_header("cookie")
  if #kept > 0 then txn.http:req_set_header("cookie", table.concat(kept, "; ")) end
end

core.register_action("anteroom", { "http-req" }, function(txn, gateway)
  -- In a header, where the question carries it, bytes beyond ASCII may get lost; in an address they have no place.
  if txn.sf:url():find("[^\x21-\x7e]") then return end
  local answer = core.httpclient():get({
    url = gateway .. "/v1/authorize",
    headers = question(txn),
    timeout = TIMEOUT_MS,
  })
  if answer == nil or answer.status ~= 204 then return end
  for name, variable in pairs(TOLD) do
    local values = answer.headers[name]
    if values ~= nil then
      for _, value in pairs(values) do
        if value ~= "" then txn:set_var(variable, value) end
      end
    end
  end
  leave_out_ours(txn)
  txn:set_var("txn.anteroom", "admitted")
end, 1)
