"""What a run left, in a form that can be compared with what another run left: times apart, everything counts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from stat import S_IMODE

from cxrbatch.output.report.report_files import RESULT_JSON
from cxrbatch.output.worklist_data import DATA_FOLDER, NOW_JS
from cxrbatch.records import StudyResult
from cxrbatch.system.durable import TEMPORARY_PREFIX
from cxrbatch.system.record_json import from_json
from tests.factories.studies import read_rows

# Times, in German, too, and what .cxrbatch.json tells one OUT from another by.
_PASSING = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]|\d\d\.\d\d\.\d{4} )\d\d:\d\d(:\d\d)?(\+00:00| UTC)?"
    r'|"(output_id|session)": "[0-9a-f]+"'
)
_FIRST = re.compile(r' id="[a-z]+"')
_ROW = re.compile(r'<tr [^>]*data-key=".*?</tr>', re.DOTALL)
# Written as the run goes, or about the run and not about the studies.
_OF_THE_RUN = (
    *("ledger.sqlite*", "*.damaged-*", "cxrbatch.log*", ".cxrbatch.lock", ".cxrbatch-fence"),
    *("run.json", "metrics.prom", "runs", "runs/*"),
)
# Named after their content, in which the time of arrival stands.
_SHARDS = f"{DATA_FOLDER}/rows-*.js"


def snapshot(out: Path) -> dict[str, tuple[int, object]]:
    """Return mode and content of every file and folder of an output folder, by relative path; PDFs without content."""
    paths = (path for path in sorted(out.rglob("*")) if not any(path.match(name) for name in (*_OF_THE_RUN, _SHARDS)))
    return {str(path.relative_to(out)): (S_IMODE(path.stat().st_mode), _content(path)) for path in paths}


def read_results(out: Path) -> list[StudyResult]:
    """Return what every result.json of an output folder says, by study key."""
    return [from_json(path.read_text(), StudyResult) for path in sorted(out.glob(f"reports/*/{RESULT_JSON}"))]


def leftovers(out: Path) -> list[Path]:
    """Return the temporary files in an output folder."""
    return list(out.rglob(f"{TEMPORARY_PREFIX}*"))


def _content(path: Path) -> object:
    if path.is_dir() or path.suffix == ".pdf":
        return ""
    if path.suffix == ".csv":
        return [{k: v for k, v in row.items() if not k.endswith("_at")} for row in read_rows(path)]
    if path.name == NOW_JS:
        return _worklist(path)
    if path.suffix in {".html", ".json"}:
        text = _PASSING.sub("<passing>", path.read_text())
        return _unordered(text) if path.name == "index.html" else text
    return path.read_bytes()


def _unordered(page: str) -> object:
    """Return a worklist's page without the order of its rows: of one strength, it is by the second of arrival."""
    return _ROW.sub("", page), sorted(_FIRST.sub("", row) for row in _ROW.findall(page))


def _worklist(stamp: Path) -> object:
    """Return what the worklist's script is told beside times: what stands above the list, and which studies it has."""
    told = json.loads(stamp.read_text().partition("(")[2].removesuffix(");\n"))
    keys: list[str] = []
    for name in told["shards"]:
        shard = (stamp.parent / f"rows-{name}.js").read_text().partition(",")[2]
        keys += [row[0] for row in json.loads(shard.removesuffix(");\n"))["rows"]]
    return told["facts"], sorted(keys)
