-- Tells the bridge of every study that is stable. Load it with "LuaScripts": ["prelim_hook.lua"], and configure it in orthanc.json:
--   "PrelimBridge": {"Url": "http://127.0.0.1:8190", "Token": "..."}, "HttpTimeout": 5
-- Orthanc calls this once and waits for the answer, which comes at once; the bridge finds a lost event by polling.

local bridge = GetOrthancConfiguration()["PrelimBridge"]
-- An empty table of headers ends Orthanc 1.10.1: it takes it for a list.
local headers = {["Content-Type"] = "text/plain"}
if bridge["Token"] ~= nil then
  headers["Authorization"] = "Bearer " .. bridge["Token"]
end

function OnStableStudy(studyId, tags, metadata)
  pcall(HttpPost, bridge["Url"] .. "/studies/" .. tags["StudyInstanceUID"], "", headers)
end
