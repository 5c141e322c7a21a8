"""What a check says of maps that point at the finding."""

from __future__ import annotations

from cxrbatch.records import MapCheck

VALIDATED = MapCheck(images=40, patients=30, hits=0.7, chance=0.1, validated=True, source="made up")
"""Labels of made-up engines have it, so that reports of them show heatmaps."""
