"""What builds and evaluates engines asks for no more than it computes with."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "cxrbatch"
MODULES = (
    "cxrbatch.model.network.import_weights",
    "cxrbatch.model.build.build",
    "cxrbatch.model.build.measure",
    "cxrbatch.model.build.adjust",
    "cxrbatch.model.evaluate.evaluate",
    "cxrbatch.model.compare.compare",
    "cxrbatch.model.describe.describe",
)
FOR_TRAINING = {"lightning", "torchmetrics", "tensorboardX"}


def loaded_with(module: str) -> set[str]:
    """Return all modules that our own sources load as this one is imported; to really load torch takes nine seconds."""
    found, asked = set[str](), [module]
    while asked:
        name = asked.pop()
        if name in found:
            continue
        found.add(name)
        asked.append(name.rpartition(".")[0] or name)
        asked += imports_of(name)
    return found


@cache
def imports_of(name: str) -> tuple[str, ...]:
    """Return what a module of ours imports; nothing for one of others, and for what is no module."""
    place = PACKAGE.parent.joinpath(*name.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py") if PACKAGE in (place, *place.parents) else ()
    return tuple(name for path in files if path.is_file() for name in imported_by(ast.parse(path.read_text())))


def imported_by(node: ast.AST) -> Iterator[str]:
    """Yield what is imported outside of functions and not for type checkers alone."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports are not understood here"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        yield from (name for other in node.orelse for name in imported_by(other))
    elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from (name for child in ast.iter_child_nodes(node) for name in imported_by(child))


@pytest.mark.parametrize("module", MODULES)
def test_only_training_imports_lightning(module: str) -> None:
    loaded = {name.split(".")[0] for name in loaded_with(module)}
    assert loaded >= {"numpy", "cxrbatch"}
    assert not loaded & FOR_TRAINING


def test_training_itself_does_import_it() -> None:
    assert "lightning" in loaded_with("cxrbatch.model.train.train_model")
