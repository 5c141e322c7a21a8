"""Packages that tests look at but cxrbatch does not need: installed once, beside everything, into the user's cache."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import platformdirs
import pytest


def fetch_package(requirement: str, *, with_dependencies: bool = False) -> Path:
    """Return a folder to import `requirement` (name==version) from; skip the test where the index has it not."""
    place = platformdirs.user_cache_path("cxrbatch") / "test-packages" / f"{requirement}-py{sys.version_info.minor}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        growing = Path(tempfile.mkdtemp(dir=place.parent))
        try:
            _install(requirement, growing, with_dependencies=with_dependencies)
            growing.rename(place)
        finally:
            shutil.rmtree(growing, ignore_errors=True)
    return place


def _install(requirement: str, folder: Path, *, with_dependencies: bool) -> None:
    tool = ["uv", "pip"] if importlib.util.find_spec("uv") else ["pip"]
    options = [] if with_dependencies else ["--no-deps"]
    if tool == ["uv", "pip"]:
        options += ["--python", sys.executable]
    command = [sys.executable, "-m", *tool, "install", "--quiet", *options, "--target", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        pytest.skip(f"{requirement} cannot be had here: {done.stderr.strip().splitlines()[-1:]}")
