"""The Python API: engines, runs and results as arrays and data frames; `import cxrbatch` loads nothing for it."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

import cxrbatch
from cxrbatch.errors import ImageRejected, Reason, UsageError
from cxrbatch.phantom import write_demo_studies
from cxrbatch.records import Label
from tests.factories.engine import tiny_probabilities, write_tiny_bundle
from tests.factories.studies import four_greys, read_rows, write_image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"
EXAMPLE = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
HEAVY = "[name for name in ('numpy', 'pandas', 'onnxruntime', 'cv2', 'torch', 'rich') if name in sys.modules]"


def python(code: str, *arguments: str | Path) -> str:
    """Run Python code in a process of its own; return what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(autouse=True)
def _grey_quadrants_pass_for_radiographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRBATCH_PIXEL_CHECK", "false")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "engines", labels=(Label("TopLeft", 0.5), Label("TopRight", None)))


# --------------------------------------------------------------------------- the front door


def test_import_loads_nothing_heavy() -> None:
    assert python(f"import sys, cxrbatch; print({HEAVY})") == "[]"


@pytest.mark.parametrize(
    "imports",
    [
        "import cxrbatch; run = cxrbatch.run; from cxrbatch.run.batch import run_batch",
        "from cxrbatch.run.batch import run_batch; import cxrbatch; run = cxrbatch.run",
        "import cxrbatch.run.batch; run_batch = cxrbatch.run.batch.run_batch; run = cxrbatch.run",
        "from cxrbatch import run; from cxrbatch.run.batch import run_batch",
        "from cxrbatch import *; from cxrbatch.run.batch import run_batch; import cxrbatch",
    ],
)
def test_run_is_a_room_and_can_be_called_whichever_is_imported_first(imports: str) -> None:
    told = python(
        f"{imports}\n"
        "import cxrbatch\n"
        "assert callable(run) and run is cxrbatch.run and run.batch.run_batch is run_batch\n"
        "try:\n    run('/no/such/input', '/no/such/output')\n"
        "except Exception as error:\n    print(type(error).__name__)"
    )
    assert told == "UsageError"


def test_run_tells_what_it_takes() -> None:
    assert list(inspect.signature(cxrbatch.run).parameters) == ["input_path", "out", "settings"]


def test_every_name_is_there_and_no_other() -> None:
    for name in cxrbatch.__all__:
        assert getattr(cxrbatch, name) is not None
    assert set(cxrbatch.__all__) <= set(dir(cxrbatch))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cxrbatch.no_such_name


if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from typing_extensions import assert_type

    from cxrbatch.config import Settings
    from cxrbatch.output.run_json import RunReport
    from cxrbatch.run.api import Results
    from cxrbatch.run.batch import run_batch
    from cxrbatch.system.progress import RunProgress

    def a_user_s_type_checker_sees_the_types(settings: Settings, progress: RunProgress) -> None:
        """For `make check` alone, which has mypy read the tests: a mypy of its own would take as long again."""
        assert_type(cxrbatch.open_engine("x").maps("y"), NDArray[np.float32])
        assert_type(cxrbatch.run("in", "out", pdf=False), Results)
        assert_type(cxrbatch.read_results("out").images, pd.DataFrame)
        assert_type(run_batch(Path("in"), Path("out"), settings, progress), RunReport)


# --------------------------------------------------------------------------- pandas


def test_no_command_s_start_imports_pandas() -> None:
    code = (
        "import sys; from cxrbatch.cli import commands, run_command_line\n"
        "for name in ['', *commands.commands]:\n    run_command_line([*([name] if name else []), '--help'])\n"
        "print('pandas' in sys.modules)"
    )
    assert python(code).splitlines()[-1] == "False"


def test_a_whole_run_and_its_reports_import_no_pandas(tmp_path: Path, engine: Path) -> None:
    write_image(tmp_path / "images" / "a.png", 20, 60, 120, 240)
    code = (
        "import sys; from cxrbatch.cli import run_command_line\n"
        "images, out, engine = sys.argv[1:]\n"
        "print(run_command_line(['run', images, '-o', out, '-e', engine, '--workers', '1', '--no-pdf']))\n"
        "print(run_command_line(['report', out, '--workers', '1', '--no-pdf']), run_command_line(['status', out]))\n"
        "print('pandas' in sys.modules)"
    )
    assert python(code, tmp_path / "images", tmp_path / "out", engine).splitlines()[-1] == "False"
    assert len(read_rows(tmp_path / "out" / "studies.csv")) == 1


# --------------------------------------------------------------------------- the engine


def test_files_and_arrays_get_the_scores_of_a_run(tmp_path: Path, engine: Path) -> None:
    path = write_image(tmp_path / "images" / "a.png", 200, 60, 120, 240)
    (tmp_path / "images" / "notes.txt").write_text("x" * 200)
    with cxrbatch.open_engine(engine) as opened:
        scores = opened.score([path, tmp_path / "images" / "notes.txt"])
        of_array = opened.score(four_greys(200, 60, 120, 240))
    results = cxrbatch.run(tmp_path / "images", tmp_path / "out", engine=engine, pdf=False, workers=1)
    expected = tiny_probabilities(four_greys(200, 60, 120, 240, size_px=32)[np.newaxis, np.newaxis], 2)[0]
    assert scores["image"].tolist() == [str(path), str(tmp_path / "images" / "notes.txt")]
    assert scores["reason"].tolist() == ["", "not_an_image"]
    assert scores[["prob_TopLeft", "prob_TopRight"]].iloc[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert scores["prob_TopLeft"].isna().tolist() == [False, True]
    assert scores["positive_TopLeft"].tolist()[0] is True
    assert scores["positive_TopRight"].isna().all()
    assert of_array["image"].tolist() == [0]
    assert of_array["prob_TopLeft"][0] == pytest.approx(scores["prob_TopLeft"][0])
    assert results.images["prob_TopLeft"][0] == pytest.approx(scores["prob_TopLeft"][0], abs=1e-6)
    assert results.images["flags"][0] == scores["flags"][0] != ""


def test_more_images_than_a_batch_come_back_in_their_order(engine: Path) -> None:
    images = np.stack([four_greys(grey, 0, 0, 0) for grey in range(40, 250, 10)])
    with cxrbatch.open_engine(engine) as opened:
        scores = opened.score(images)
    assert scores["image"].tolist() == list(range(len(images)))
    assert scores["prob_TopLeft"].is_monotonic_increasing
    assert scores["prob_TopLeft"].nunique() == len(images)


def test_nothing_to_score_is_an_empty_table(engine: Path) -> None:
    with cxrbatch.open_engine(engine) as opened:
        assert opened.score([]).columns.tolist()[-2:] == ["positive_TopLeft", "positive_TopRight"]


def test_an_image_without_a_number_says_so(tmp_path: Path) -> None:
    poisoned = write_tiny_bundle(tmp_path, poison_value=200)
    with cxrbatch.open_engine(poisoned) as opened:
        scores = opened.score([four_greys(200, 0, 0, 0), four_greys(100, 0, 0, 0)])
        with pytest.raises(cxrbatch.run.api.EngineError, match="no number"):  # type: ignore[attr-defined]
            opened.maps(four_greys(200, 0, 0, 0))
    assert scores["reason"].tolist() == ["unexpected_error", ""]
    assert scores["prob_TopLeft"].isna().tolist() == [True, False]


def test_maps_are_those_of_the_engine(engine: Path) -> None:
    with cxrbatch.open_engine(engine) as opened:
        maps = opened.maps(four_greys(255, 0, 0, 0))
    assert maps.dtype == np.float32
    assert maps.shape == (2, 2, 2)
    assert maps[0].tolist() == [[32.0, 0.0], [0.0, 0.0]]


def test_maps_of_what_gets_no_score_raise_why(tmp_path: Path, engine: Path) -> None:
    blank = tmp_path / "blank.png"
    assert cv2.imwrite(str(blank), np.zeros((128, 128), np.uint8))
    with cxrbatch.open_engine(engine) as opened, pytest.raises(ImageRejected) as refused:
        opened.maps(blank)
    assert refused.value.reason is Reason.BLANK


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((0, 4), np.uint8), np.zeros((1, 4, 4, 1), np.uint8)])
def test_arrays_of_another_kind_are_refused(array: Any, engine: Path) -> None:
    with cxrbatch.open_engine(engine) as opened, pytest.raises(ValueError, match=r"uint8 \[H,W\]"):
        opened.score(array)


def test_a_file_that_is_not_there_is_no_refusal(tmp_path: Path, engine: Path) -> None:
    with cxrbatch.open_engine(engine) as opened, pytest.raises(FileNotFoundError):
        opened.score(tmp_path / "missing.dcm")


# --------------------------------------------------------------------------- results


def test_text_comes_back_as_it_was_and_identifiers_stay_text(tmp_path: Path, engine: Path) -> None:
    names = {"=1+1.png", "back\\slash.png", "007.png", "a;-b.png"}
    for name in names:
        write_image(tmp_path / "images" / name, 20, 60, 120, 240)
    results = cxrbatch.run(tmp_path / "images", tmp_path / "out", engine=engine, pdf=False, workers=1)
    assert set(results.images["path"]) == names
    assert not names <= {row["path"] for row in read_rows(tmp_path / "out" / "images.csv")}
    assert set(results.images["patient_id"]) == {""}
    assert results.images["rows"].tolist() == [128] * 4
    assert results.studies["revision"].tolist() == [1] * 4
    assert results.report["studies"] == {"reported": 4}
    assert results.out == tmp_path / "out"


def test_a_folder_without_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run\.json there"):
        cxrbatch.read_results(tmp_path)


# --------------------------------------------------------------------------- the page


def test_the_page_s_examples_print_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXRBATCH_PIXEL_CHECK")
    monkeypatch.chdir(tmp_path)
    write_demo_studies(Path("incoming"), n_studies=3, seed=1, rows=256)
    write_tiny_bundle(Path("engines"), name="demo", labels=("Effusion", "Nodule"))
    examples = EXAMPLE.findall(PAGE.read_text(encoding="utf-8"))
    assert len(examples) >= 5
    names: dict[str, Any] = {}
    for code, expected in examples:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(compile(code, str(PAGE), "exec"), names)
        assert printed.getvalue() == expected, code
