"""Bundles that don't say where the cells of their maps lie get what their architecture tells; nonsense is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.engine.bundle import ENGINE_FILE, load_bundle, save_bundle
from cxrbatch.engine.cells import known_cells
from cxrbatch.errors import EngineError
from cxrbatch.records import CellGrid, EngineDescription
from cxrbatch.system.record_json import from_json, to_json
from tests.factories.engine import write_tiny_bundle


def rewrite(folder: Path, **changes: Any) -> Path:
    """Change keys of a tiny bundle's engine.json; None takes one out, as an earlier version never wrote it."""
    bundle = write_tiny_bundle(folder)
    manifest = json.loads((bundle / ENGINE_FILE).read_text()) | changes
    kept = {key: value for key, value in manifest.items() if value is not None}
    (bundle / ENGINE_FILE).write_text(json.dumps(kept))
    return bundle


@pytest.mark.parametrize(
    ("architecture", "output_stride", "cells"),
    [
        ("resnet50", 32, CellGrid(0.5, 0.5, 32, 32)),
        ("resnet50", 16, CellGrid(0.5, 0.5, 16, 16)),
        ("densenet121", 32, CellGrid(14.5, 14.5, 32, 32)),
        ("vgg16_bn", 32, CellGrid(16, 16, 32, 32)),
        ("quadrants", 16, None),
    ],
)
def test_an_older_bundle_gets_the_cells_of_its_architecture(
    tmp_path: Path, architecture: str, output_stride: int, cells: CellGrid | None
) -> None:
    folder = rewrite(tmp_path, cells=None, architecture=architecture, output_stride=output_stride)
    bundle = load_bundle(folder)
    assert bundle.manifest.cells == cells == known_cells(architecture, output_stride)
    description = bundle.describe("onnx", "onnxruntime")
    assert description.cells == cells
    # To the letter: by what is written of it reports are known to be of their results.
    written = to_json(description)
    assert to_json(from_json(written, EngineDescription)) == written


def test_an_older_bundle_that_masks_taught_keeps_the_even_cells_that_it_learned(tmp_path: Path) -> None:
    facts = {"data": "phantoms that cxrbatch draws, seeds from 7; their masks taught the heatmaps"}
    bundle = load_bundle(rewrite(tmp_path, cells=None, architecture="resnet50", training=facts))
    assert bundle.manifest.cells == CellGrid(8, 8, 16, 16)


def test_a_bundle_keeps_the_cells_that_it_tells_and_its_identity_without_them(tmp_path: Path) -> None:
    own = {"origin_x": 3.5, "origin_y": 4.5, "stride_x": 20, "stride_y": 21}
    bundle = load_bundle(rewrite(tmp_path / "own", architecture="resnet50", cells=own))
    assert bundle.manifest.cells == CellGrid(3.5, 4.5, 20, 21)
    assert load_bundle(save_bundle(bundle.folder, bundle.manifest).folder).manifest.cells == CellGrid(3.5, 4.5, 20, 21)
    older = load_bundle(rewrite(tmp_path / "older", architecture="resnet50", cells=None))
    identities = {each.describe("onnx", "onnxruntime").sha256 for each in (bundle, older)}
    # Where a map is drawn decides no verdict: studies that were scored need not be scored again.
    assert len(identities) == 1


@pytest.mark.parametrize(
    "cells",
    [
        {"origin_x": 0, "origin_y": 0, "stride_x": 0, "stride_y": 32},
        {"origin_x": 0, "origin_y": 0, "stride_x": 32, "stride_y": -1},
        {"origin_x": 0, "origin_y": 0, "stride_x": 32},
        {"origin_x": 1e999, "origin_y": 0, "stride_x": 32, "stride_y": 32},
        [0, 0, 32, 32],
    ],
)
def test_cells_that_make_no_grid_are_refused(tmp_path: Path, cells: Any) -> None:
    with pytest.raises(EngineError, match=r"engine\.json: damaged"):
        load_bundle(rewrite(tmp_path, cells=cells))
