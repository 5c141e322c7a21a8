"""The report folder of one study: pictures, result.json, report.html, report.pdf. Start at `report`."""
