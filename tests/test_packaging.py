"""Templates and types come along in every way of installing: editable, wheel, and wheel from an sdist."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from importlib.metadata import distribution, entry_points
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATES = {f"cxrbatch/templates/{path.name}" for path in (ROOT / "templates").iterdir() if path.is_file()}

CATALOGUES = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cxrbatch" / "catalogues").glob("*/*.[mp]o")}


def build(source: Path, what: str, into: Path) -> Path:
    command = [sys.executable, "-m", "build", f"--{what}", "--no-isolation", "--outdir", str(into), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = into.iterdir()
    return built


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def source_tree(tmp_path: Path) -> Path:
    """Return a copy of what git would clone, so that building leaves nothing in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    tree = tmp_path / "tree"
    for name in listed.stdout.decode().rstrip("\0").split("\0"):
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to((ROOT / name).readlink())
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    return tree


def test_no_folder_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    """Pytest leaves out folders by their names: of its own accord, one named build."""
    passed_over = pytestconfig.getini("norecursedirs")
    folders = {part for path in Path(__file__).parent.rglob("test_*.py") for part in path.relative_to(ROOT).parts[:-1]}
    assert not [name for name in folders if any(fnmatch(name, pattern) for pattern in passed_over)]


def test_there_are_templates() -> None:
    assert "cxrbatch/templates/report.html.j2" in TEMPLATES
    assert {"cxrbatch/catalogues/de/pages.mo", "cxrbatch/catalogues/de/pages.po"} <= CATALOGUES


def test_a_wheel_holds_every_template_and_no_tests(tmp_path: Path) -> None:
    names = contents(build(source_tree(tmp_path), "wheel", tmp_path / "dist"))
    assert names >= {
        *TEMPLATES,
        *CATALOGUES,
        "cxrbatch/py.typed",
        "cxrbatch/intake/read.py",
        "cxrbatch/phantom/__init__.py",
    }
    assert not [name for name in names if name.startswith(("tests", "templates", "scripts"))]


def test_a_wheel_made_from_an_sdist_is_the_same(tmp_path: Path) -> None:
    tree = source_tree(tmp_path)
    with tarfile.open(build(tree, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    from_sdist = contents(build(unpacked, "wheel", tmp_path / "from-sdist"))
    assert from_sdist == contents(build(tree, "wheel", tmp_path / "from-tree"))


def test_an_editable_install_finds_its_templates() -> None:
    assert files("cxrbatch").joinpath("templates/report.html.j2").is_file()


def test_the_console_script_and_the_licence_are_declared() -> None:
    (script,) = (entry for entry in entry_points(group="console_scripts") if entry.name == "cxrbatch")
    assert script.value == "cxrbatch.cli:main"
    assert distribution("cxrbatch").metadata["License"] == "Apache-2.0"


@pytest.mark.parametrize("extra", ["train", "tensorrt", "tensorrt-rtx", "dev"])
def test_every_extra_of_the_design_is_there(extra: str) -> None:
    assert extra in (distribution("cxrbatch").metadata.get_all("Provides-Extra") or [])
