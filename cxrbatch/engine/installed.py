"""The engines of this machine: where bundles are looked up, by name or path. Start at `find_bundle`."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import platformdirs

from cxrbatch.engine.bundle import ENGINE_FILE, EngineBundle, load_bundle
from cxrbatch.errors import EngineError

ENGINES_VARIABLE = "CXRBATCH_ENGINES"

log = logging.getLogger(__name__)


def find_bundle(name_or_path: str) -> EngineBundle:
    """Look an engine up: as a path, then by name in `engine_folders()`; empty is the only one installed.

    Raises:
        EngineError: none or, for an empty name, several are there; or the one found is damaged.
    """
    if not name_or_path:
        return _only_bundle()
    named = Path(name_or_path)
    if _is_engine(named):
        return load_bundle(named)
    for folder in engine_folders():
        # A name is one step below an engines folder; with separators in it, it is a path.
        if named.name == name_or_path and _is_engine(folder / named):
            return load_bundle(folder / named)
    raise EngineError(f"no engine {name_or_path}. {_what_is_installed()}")


def installed_folders() -> list[Path]:
    """Return the folders of all bundles, in the order of the look-up; a name found earlier hides a later one."""
    found: dict[str, Path] = {}
    for folder in engine_folders():
        for manifest in sorted(folder.glob(f"*/{ENGINE_FILE}")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return list(found.values())


def installed_bundles() -> list[EngineBundle]:
    """Return every installed bundle that can be read; a damaged one is logged and left out."""
    loaded = (_load_or_log(folder) for folder in installed_folders())
    return [bundle for bundle in loaded if bundle is not None]


def engine_folders() -> list[Path]:
    """Return where bundles are looked up by name: $CXRBATCH_ENGINES, ./engines, the user's data folder."""
    from_environment = os.environ.get(ENGINES_VARIABLE, "")
    named = [Path(entry) for entry in from_environment.split(os.pathsep) if entry]
    return [*named, Path("engines"), user_engines_folder()]


def user_engines_folder() -> Path:
    """Return the engines folder that belongs to this user."""
    return platformdirs.user_data_path("cxrbatch") / "engines"


def _is_engine(folder: Path) -> bool:
    try:
        return (folder / ENGINE_FILE).is_file()
    except (OSError, ValueError):  # a name that no folder can have
        return False


def _only_bundle() -> EngineBundle:
    folders = installed_folders()
    if len(folders) != 1:
        asked = "several engines are installed; choose one with --engine" if folders else "no engine is installed"
        raise EngineError(f"{asked}. {_what_is_installed()}")
    return load_bundle(folders[0])


def _what_is_installed() -> str:
    if folders := installed_folders():
        return "Installed: " + ", ".join(f"{folder.name} ({folder})" for folder in folders) + "."
    looked_in = ", ".join(str(folder) for folder in engine_folders())
    return (
        f"Looked in {looked_in}. `cxrbatch demo` makes a demo engine, "
        f"`cxrbatch build CHECKPOINT -n NAME` builds one from a checkpoint."
    )


def _load_or_log(folder: Path) -> EngineBundle | None:
    try:
        return load_bundle(folder)
    except EngineError as error:
        log.warning("%s", error)
        return None
