"""What Prometheus scrapes of a run: read back with its own parser."""

from __future__ import annotations

import stat
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cxrbatch import __version__
from cxrbatch.config import METRICS_FILE, Settings
from cxrbatch.errors import Reason
from cxrbatch.output.metrics_prom import describe_run, write_metrics
from cxrbatch.output.run_json import RunReport
from cxrbatch.records import now_text
from cxrbatch.system.durable import TEMPORARY_PREFIX
from tests.factories.engine import write_tiny_bundle
from tests.factories.intake import blobs, write_dicom
from tests.factories.output import make_engine
from tests.factories.studies import run_quietly

Labels = tuple[tuple[str, str], ...]


FIVE_STUDIES = RunReport(
    cxrbatch_version=__version__,
    started_at="2026-03-01T04:04:53+00:00",
    finished_at="2026-03-01T04:05:06+00:00",
    finished=True,
    settings=Settings(),
    engine=make_engine(),
    files={"scored": 5, "rejected": 2, "pending": 3},
    files_deferred=1,
    folders_unlistable=4,
    studies={"reported": 5, "pending": 2, "failed": 1},
    reasons={"blank": 2},
    failures={},
    studies_this_run=6,
    images_scored_this_run=7,
    wall_s=12.5,
    stage_s={"read": 3.25, "infer": 8.0},
    libraries={},
)


def scrape(text: str) -> dict[tuple[str, Labels], float]:
    return {
        (sample.name.removeprefix("cxrbatch_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_scrape_reads_back_what_the_run_told() -> None:
    seen = scrape(describe_run(FIVE_STUDIES))
    assert seen["studies", (("status", "reported"),)] == 5
    assert seen["studies", (("status", "failed"),)] == 1
    assert seen["files", (("status", "rejected"),)] == 2
    assert seen["files_refused", (("reason", "blank"),)] == 2
    assert seen["files_deferred", ()] == 1
    assert seen["folders_unlistable", ()] == 4
    assert seen["queue_studies", ()] == 2
    assert seen["run_studies", ()] == 6
    assert seen["run_images_scored", ()] == 7
    assert seen["run_duration_seconds", ()] == 12.5
    assert seen["run_stage_seconds", (("stage", "infer"),)] == 8.0
    assert seen["run_finished", ()] == 1
    ended = datetime(2026, 3, 1, 4, 5, 6, tzinfo=timezone.utc).timestamp()
    assert seen["figures_timestamp_seconds", ()] == seen["last_success_timestamp_seconds", ()] == ended


def test_engine_and_version_are_labels_of_an_info() -> None:
    infos = {name: dict(labels) for name, labels in scrape(describe_run(FIVE_STUDIES)) if name.endswith("_info")}
    engine = make_engine()
    assert infos["engine_info"] == {
        "name": engine.name,
        "sha256": engine.sha256,
        "backend": engine.backend,
        "precision": engine.precision,
    }
    assert infos["build_info"]["version"] == __version__


def test_a_reason_that_no_file_has_is_there_with_0() -> None:
    seen = scrape(describe_run(FIVE_STUDIES))
    counted = {labels[0][1]: number for (name, labels), number in seen.items() if name == "files_refused"}
    assert counted == dict.fromkeys((reason.value for reason in Reason), 0) | {"blank": 2}
    assert seen["files", (("status", "failed"),)] == 0


def test_the_age_of_the_queue_is_that_of_the_study_that_waits_longest() -> None:
    since = (datetime.now(timezone.utc) - timedelta(hours=1)).isoformat(timespec="seconds")
    assert scrape(describe_run(FIVE_STUDIES, oldest_queued_at=since))["queue_oldest_age_seconds", ()] >= 3600
    assert scrape(describe_run(FIVE_STUDIES, oldest_queued_at=""))["queue_oldest_age_seconds", ()] == 0
    ahead = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat(timespec="seconds")  # the clock was set back
    assert scrape(describe_run(FIVE_STUDIES, oldest_queued_at=ahead))["queue_oldest_age_seconds", ()] == 0


def test_names_keep_to_the_conventions_of_prometheus() -> None:
    families = list(text_string_to_metric_families(describe_run(FIVE_STUDIES)))
    assert {family.type for family in families} == {"gauge"}
    for family in families:
        assert family.name.startswith("cxrbatch_")
        assert not family.name.endswith(("_total", "_count", "_sum", "_ms", "_minutes"))
        assert family.documentation.endswith(".")


def test_an_engine_named_in_bytes_that_are_no_utf_8_can_be_scraped() -> None:
    engine = replace(make_engine(), name='odd\udcff"\n')
    names = {
        dict(labels)["name"]
        for name, labels in scrape(describe_run(replace(FIVE_STUDIES, engine=engine)))
        if "engine" in name
    }
    assert names == {'odd\\udcff"\n'}


# --------------------------------------------------------------------------- the file


def test_metrics_prom_is_replaced_whole_and_for_the_group_to_read(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text("old")
    text = write_metrics(tmp_path, FIVE_STUDIES)
    assert (tmp_path / METRICS_FILE).read_text() == text
    assert stat.S_IMODE((tmp_path / METRICS_FILE).stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]


def test_a_run_that_was_stopped_leaves_the_last_success_as_it_was(tmp_path: Path) -> None:
    good = scrape(write_metrics(tmp_path, FIVE_STUDIES))["last_success_timestamp_seconds", ()]
    for _ in range(2):
        stopped = scrape(write_metrics(tmp_path, replace(FIVE_STUDIES, finished=False, finished_at=now_text())))
        assert stopped["last_success_timestamp_seconds", ()] == good
        assert stopped["figures_timestamp_seconds", ()] > good
        assert stopped["run_finished", ()] == 0


@pytest.mark.parametrize("former", [b"", b"\xff\xfe", b"cxrbatch_last_success_timestamp_seconds soon\n"])
def test_a_damaged_metrics_prom_is_replaced(tmp_path: Path, former: bytes) -> None:
    (tmp_path / METRICS_FILE).write_bytes(former)
    seen = scrape(write_metrics(tmp_path, replace(FIVE_STUDIES, finished=False)))
    assert seen["last_success_timestamp_seconds", ()] == 0


def test_a_run_leaves_metrics_that_name_no_patient_no_path_and_no_study(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    (images / "Canary^Zoe").mkdir(parents=True)
    write_dicom(images / "Canary^Zoe" / "image.dcm", pixels=blobs(), PatientName="Canary^Zoe", PatientID="CANARY-1")
    (images / "Canary.txt").write_text("x" * 200)
    before = int(time.time())
    report = run_quietly(images, out, engine=str(write_tiny_bundle(tmp_path / "engines")))
    text = (out / METRICS_FILE).read_text()
    seen = scrape(text)
    assert seen["files", (("status", "scored"),)] == report.files["scored"] == 1
    assert seen["files_refused", (("reason", "not_an_image"),)] == 1
    assert seen["last_success_timestamp_seconds", ()] >= before
    assert "canary" not in text.lower()
    assert str(tmp_path) not in text
    assert not [key.name for key in (out / "reports").iterdir() if key.name in text]
    assert not list(out.glob(f"{TEMPORARY_PREFIX}*"))


def test_metrics_need_nothing_that_scores() -> None:
    script = (
        "import sys; import cxrbatch.output.metrics_prom, cxrbatch.watch.metrics_server; "
        "sys.exit(bool({'torch', 'onnxruntime', 'pydicom', 'cv2'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
