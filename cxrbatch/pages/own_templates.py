"""Templates and style sheets of an operator's own, which take the place of the package's one by one (`--templates`).

They are read once, as a run begins: all its pages are made of the same ones, in whatever process, however the folder
changes meanwhile. `printing_with` says which are in use; `page` asks for them. Nothing here loads Jinja.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from cxrbatch.errors import ConfigurationError

CONTEXT_VERSION, CONTEXT_MINOR = 1, 0
"""What templates are given: the first number changes where something is taken away or means something else, the second
where something is added."""

OVERRIDABLE = (
    *("report.html.j2", "viewer.html.j2", "report-print.xml.j2", "worklist.html.j2", "sheet.html.j2"),
    *("look.css", "report.css", "viewer.css", "report-print.css", "worklist.css", "sheet.css"),
)
"""What the pages of an output folder are made of: its scripts are not among it, for they belong to the pages' data."""

LONGEST_FILE = 1 << 20
PACKAGE = "package/"
"""Before a name: the package's template, which one of the same name may extend."""

_TEMPLATE = ".j2"
_OTHERS = ("readme", "license", "changelog", "makefile")


@dataclass(frozen=True, slots=True)
class OwnTemplates:
    """The files of an operator's folder, by name, as they were when they were read; none by default."""

    folder: str = ""
    files: tuple[tuple[str, str], ...] = ()

    def text(self, name: str) -> str | None:
        """Return one of the files."""
        return dict(self.files).get(name)

    def place(self, name: str) -> str:
        """Return where it lies, for messages."""
        return str(Path(self.folder) / name)

    @property
    def mark(self) -> str:
        """What stands for their content; '' for none."""
        return hashlib.sha256(repr(self.files).encode()).hexdigest() if self.files else ""


PACKAGED = OwnTemplates()
_in_use: ContextVar[OwnTemplates] = ContextVar("templates", default=PACKAGED)


def in_use() -> OwnTemplates:
    """Return the templates that pages are made of before the package's."""
    return _in_use.get()


@contextmanager
def printing_with(own: OwnTemplates) -> Iterator[None]:
    """Make pages of these templates while the context lasts, in this thread."""
    token = _in_use.set(own)
    try:
        yield
    finally:
        _in_use.reset(token)


def read_templates(folder: str) -> tuple[OwnTemplates, list[str]]:
    """Read an operator's folder; return its templates and style sheets, and what in it looks like a mistake.

    A template with another name than the package's may be included by the others. Links are followed: whoever keeps
    the folder is trusted. Who else can write there is not, for what they write would be what a radiologist reads.

    Raises:
        ConfigurationError: it is no folder that can be read, or holds what can be no template.
    """
    if not folder:
        return PACKAGED, []
    place, files, remarks = Path(folder), list[tuple[str, str]](), list[str]()
    try:
        _refuse_open_to_all(place)
        paths = sorted(place.iterdir())
    except OSError as error:
        raise ConfigurationError(f"templates = {folder}: {error.strerror}. Name a folder of templates.") from error
    for path in paths:
        if path.name in OVERRIDABLE or (path.name.endswith(_TEMPLATE) and not path.name.startswith(".")):
            files.append((path.name, _read(path)))
        elif not path.name.startswith(".") and not path.name.lower().startswith(_OTHERS):
            remarks.append(f"{path}: not used{_nearest(path.name)}")
    own = OwnTemplates(str(place.absolute()), tuple(files))
    included = "".join(text for _, text in files)
    stray = [name for name, _ in files if name not in OVERRIDABLE and name not in included]
    remarks += [f"{own.place(name)}: not used, nor included by another{_nearest(name)}" for name in stray]
    if not files:
        remarks.append(f"{folder}: holds no template or style sheet that has a name of the package's")
    return own, remarks


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, OVERRIDABLE, 1, 0.75)
    return f"; is it meant to be {near[0]}?" if near else ""


def _read(path: Path) -> str:
    """Return a file's text; never waits for a FIFO."""
    try:
        _refuse_open_to_all(path)
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ConfigurationError(f"{path}: is no file. Take it out of the folder of templates.")
        if state.st_size > LONGEST_FILE:
            raise ConfigurationError(f"{path}: has more than {LONGEST_FILE} bytes, and is no template.")
        content = path.read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}, line {line}: is not UTF-8. Save it as UTF-8.") from None


def _refuse_open_to_all(path: Path) -> None:
    if path.stat().st_mode & stat.S_IWOTH:
        raise ConfigurationError(
            f"{path}: everybody on this machine may write there, and so decide what reports say. "
            f"Run `chmod o-w '{path}'`, or keep templates elsewhere."
        )
