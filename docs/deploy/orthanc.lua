-- Hands radiographs that arrive on to cxrbatch; what cxrbatch itself stored, and every other kind, stays.
local radiographs = { CR = true, DX = true, RG = true }

function OnStoredInstance(instanceId, tags, metadata, origin)
   if radiographs[tags['Modality']] and tags['Manufacturer'] ~= 'cxrbatch' then
      SendToModality(instanceId, 'cxrbatch')
   end
end
