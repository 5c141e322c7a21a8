"""What this machine can run, with the way to mend whatever is missing. Start at `examine`.

Which packages are needed stands in the installation's own metadata, which setup.cfg wrote; no second list falls behind.
"""

from __future__ import annotations

import ctypes
import importlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version
from rich.console import Console
from rich.table import Table

from cxrbatch import __version__
from cxrbatch.config import available_cores
from cxrbatch.engine.backends import FASTEST_FIRST, look_at_backend
from cxrbatch.engine.cuda import probe_cuda
from cxrbatch.engine.installed import engine_folders, installed_bundles
from cxrbatch.errors import CxrBatchError, ExitCode
from cxrbatch.output.report.load_weasyprint import load_weasyprint
from cxrbatch.pages.terminal_text import literal
from cxrbatch.system.fonts import SCRIPTS, scripts_without_font

PACKAGE = "cxrbatch"
BASE = ""
"""The requirements that are no extra's."""

State = Literal["ok", "missing", "broken"]
MARKS: dict[State, str] = {
    "ok": "[green]ok[/green]",
    "missing": "[yellow]missing[/yellow]",
    "broken": "[red]broken[/red]",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `needed` tells whether `cxrbatch run` works without it."""

    what: str
    state: State
    detail: str
    needed: bool = False


def examine() -> list[Finding]:
    """Look at everything; no look can end the examination."""
    looks: list[tuple[str, Callable[[], Finding]]] = [
        ("machine", _machine),
        ("compressed DICOM", _decoders),
        ("PDF reports", _pdf),
        ("PDF speed", _font_subsetting),
        ("PDF fonts", _fonts),
        ("GPU", _gpu),
        *((f"backend {backend}", partial(_backend, backend)) for backend in FASTEST_FIRST),
        ("engines", _engines),
    ]
    machine, *others = (_look(what, look) for what, look in looks)
    return [machine, *_packages(), *others]


def print_findings(console: Console, findings: list[Finding]) -> ExitCode:
    """Print the findings; the exit code tells whether `cxrbatch run` can work here."""
    table = Table("", "state", "detail", title=f"cxrbatch {__version__}")
    for finding in findings:
        table.add_row(finding.what, MARKS[finding.state], literal(finding.detail))
    console.print(table)
    unfit = [finding for finding in findings if finding.needed and finding.state != "ok"]
    return ExitCode.CONFIGURATION if unfit else ExitCode.DONE


def _look(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except Exception as error:  # noqa: BLE001  # a broken part is the finding
        return Finding(what, "broken", f"{type(error).__name__}: {error}", needed=True)


def _machine() -> Finding:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    return Finding(
        "machine", "ok", f"Python {platform.python_version()} at {sys.prefix}, {available_cores()} cores, "
        f"{platform.machine()}, {free_gb:.0f} GB free here",
    )  # fmt: skip


def _packages() -> list[Finding]:
    """Say of the packages that this installation requires, and of each extra's, what is missing or does not fit."""
    try:
        return [_packages_of(needs) for needs in look_at_requirements()]
    except PackageNotFoundError:
        mend = "cxrbatch is not installed here, so what it requires is not known: pip install . in its folder"
        return [Finding("runtime packages", "missing", mend)]
    except Exception as error:  # noqa: BLE001  # a broken part is the finding
        return [Finding("runtime packages", "broken", f"{type(error).__name__}: {error}", needed=True)]


def _packages_of(needs: Needs) -> Finding:
    what = f"extra {needs.extra}" if needs.extra else "runtime packages"
    is_base = needs.extra == BASE
    if not needs.wrong:
        return Finding(what, "ok", ", ".join(needs.found), needed=is_base)
    mend = "pip install --upgrade cxrbatch" if is_base else f"pip install 'cxrbatch[{needs.extra}]'. Not needed to run"
    return Finding(what, "missing", f"{', '.join(needs.wrong)}: {mend}", needed=is_base)


def _decoders() -> Finding:
    imagecodecs = importlib.import_module("imagecodecs")
    names = ("JPEG8", "LJPEG", "JPEGLS", "JPEG2K", "HTJ2K")
    absent = [name for name in names if not getattr(getattr(imagecodecs, name, None), "available", False)]
    if absent:
        mend = f"imagecodecs lacks {', '.join(absent)}; such files are refused. pip install --upgrade imagecodecs"
        return Finding("compressed DICOM", "missing", mend)
    return Finding("compressed DICOM", "ok", "JPEG, JPEG Lossless, JPEG-LS, JPEG 2000, HTJ2K, RLE, Deflate")


def _pdf() -> Finding:
    try:
        weasyprint = load_weasyprint()
        pages = len(weasyprint.HTML(string="<p>cxrbatch</p>").write_pdf())
    except OSError as error:  # WeasyPrint could not load Pango
        mend = (
            f"{error}. Debian: apt-get install libpango-1.0-0 libpangoft2-1.0-0 fonts-dejavu-core. Or run with --no-pdf"
        )
        return Finding("PDF reports", "missing", mend, needed=True)
    return Finding(
        "PDF reports", "ok", f"WeasyPrint {version('weasyprint')} wrote a page of {pages} bytes", needed=True
    )


def _font_subsetting() -> Finding:
    try:
        ctypes.CDLL("libharfbuzz-subset.so.0")
    except OSError:
        return Finding(
            "PDF speed", "missing", "a report takes about 3 times longer. apt-get install libharfbuzz-subset0"
        )
    return Finding("PDF speed", "ok", "fonts are subset by HarfBuzz")


def _fonts() -> Finding:
    try:
        without = scripts_without_font()
    except OSError as error:
        return Finding("PDF fonts", "missing", f"{error}. Debian: apt-get install libfontconfig1 fonts-dejavu-core")
    if without:
        packages = " ".join(sorted(set(without.values())))
        mend = f"names in {', '.join(without)} stand as codes in report.pdf. Debian: apt-get install {packages}"
        return Finding("PDF fonts", "missing", mend)
    return Finding("PDF fonts", "ok", f"there are fonts for Latin, {', '.join(SCRIPTS)}")


def _gpu() -> Finding:
    probe = probe_cuda()
    if not probe.gpus:
        return Finding("GPU", "missing", f"{probe.problem}; engines run on the CPU")
    gpus = (f"{gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB, {gpu.compute_capability})" for gpu in probe.gpus)
    return Finding("GPU", "ok", f"{', '.join(gpus)}; the driver takes CUDA up to {probe.driver_version}")


def _backend(backend: str) -> Finding:
    state = look_at_backend(backend)
    # ONNX Runtime is the one that every machine runs; the others are as good as not there.
    return Finding(
        f"backend {backend}", "ok" if state.runs else "missing", state.detail, needed=backend == "onnxruntime"
    )


def _engines() -> Finding:
    try:
        names = [f"{bundle.name} ({bundle.folder})" for bundle in installed_bundles()]
    except CxrBatchError as error:
        return Finding("engines", "broken", str(error))
    if not names:
        looked_in = ", ".join(str(folder) for folder in engine_folders())
        return Finding("engines", "missing", f"none in {looked_in}. `cxrbatch demo` makes one to try")
    return Finding("engines", "ok", ", ".join(names))


# --------------------------------------------------------------------------- what this installation requires


@dataclass(frozen=True, slots=True)
class Needs:
    """What one extra needs: packages that are there as it needs them, with their versions, and what is wrong."""

    extra: str
    found: tuple[str, ...]
    wrong: tuple[str, ...]


def look_at_requirements() -> list[Needs]:
    """Compare what is required with what is installed: without any extra first, then per extra.

    Raises:
        PackageNotFoundError: cxrbatch runs from its sources, and was never installed.
    """
    required = [Requirement(line) for line in requires(PACKAGE) or ()]
    extras = metadata(PACKAGE).get_all("Provides-Extra") or []
    return [_compare(extra, _of_extra(required, extra)) for extra in (BASE, *extras)]


def _of_extra(required: list[Requirement], extra: str) -> Iterator[Requirement]:
    """Yield what `extra` needs on this Python and system; what is needed without it is not repeated."""
    for requirement in required:
        always = requirement.marker is None or requirement.marker.evaluate({"extra": BASE})
        with_extra = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if with_extra and always == (extra == BASE):
            yield requirement


def _compare(extra: str, required: Iterator[Requirement]) -> Needs:
    found, wrong = [], []
    for requirement in required:
        installed = _installed(requirement.name)
        if not installed:
            wrong.append(f"{requirement.name}{requirement.specifier} is not installed")
        elif not _fits(requirement, installed):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
        else:
            found.append(f"{requirement.name} {installed}")
    return Needs(extra, tuple(found), tuple(wrong))


def _installed(name: str) -> str:
    try:
        # A package whose metadata are damaged has a name and no version.
        return version(name) or "of no version"
    except PackageNotFoundError:
        return ""


def _fits(requirement: Requirement, installed: str) -> bool:
    try:
        return requirement.specifier.contains(Version(installed), prereleases=True)
    except InvalidVersion:
        return False
