"""Phantoms reach the network with their truths, and their lesions' places, in the right order."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from cxrbatch.demo.cases import REGION_CELLS, Drawing, draw_cases, to_pixel_set
from cxrbatch.phantom import FINDINGS, draw_phantom
from cxrbatch.records import InputSpec

SPEC = InputSpec(64)


def test_cases_come_in_order_with_their_truths_and_regions() -> None:
    data = to_pixel_set(draw_cases([Drawing(seed, 96, SPEC) for seed in range(40, 52)]))
    assert data.pixels.shape == (12, 1, 64, 64)
    assert data.regions is not None
    for row, seed in enumerate(range(40, 52)):
        phantom = draw_phantom(seed, rows=96)
        assert tuple(data.targets[row] > 0) == tuple(name in phantom.findings for name in FINDINGS)
        for index, name in enumerate(FINDINGS):
            region = data.regions[row, index]
            covered = phantom.masks[name].mean() if name in phantom.masks else 0.0
            assert abs(region.mean() / 255 - covered) < 0.003
            if name in phantom.masks:
                rows, columns = np.nonzero(phantom.masks[name])
                found_rows, found_columns = np.indices((REGION_CELLS, REGION_CELLS)) + 0.5
                weight = region / region.sum()
                assert abs((weight * found_rows).sum() / REGION_CELLS - (rows.mean() + 0.5) / 96) < 0.01
                assert abs((weight * found_columns).sum() / REGION_CELLS - (columns.mean() + 0.5) / 96) < 0.01


def test_prevalence_decides_how_often_a_finding_is_there() -> None:
    drawn = to_pixel_set(draw_cases([Drawing(seed, 64, SPEC, prevalence=0.8) for seed in range(40)]))
    assert 0.7 < drawn.targets.mean() < 0.9
    never = to_pixel_set(draw_cases([Drawing(seed, 64, SPEC, prevalence=0.0) for seed in range(4)]))
    assert never.targets.sum() == 0


def test_processes_that_draw_load_no_torch() -> None:
    code = "import sys, cxrbatch.demo.cases; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
