"""What lives on a node, tried in this process: it joins a run or says why not, and keeps chunks flowing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxrbatch.cluster import node
from cxrbatch.cluster.members import Members
from cxrbatch.cluster.node import NodeOrder, NotJoined, join_run, leave_runs, process_chunk
from cxrbatch.config import Settings
from cxrbatch.errors import EngineError, OutputNotWritable
from cxrbatch.intake.discover import describe_file, index_file
from cxrbatch.output.folder.fence import raise_fence
from cxrbatch.output.folder.place import NodeFence
from cxrbatch.output.ledger.queue import StudyTask
from cxrbatch.output.report.report_files import REPORTS
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.source import Order, Source
from cxrbatch.run.witness import names_in, not_seen
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import write_image

NODE = ".cxrbatch-tmp-node-1"


@pytest.fixture
def told(tmp_path: Path) -> Iterator[NodeOrder]:
    settings = Settings(engine=str(write_tiny_bundle(tmp_path / "engines")), workers=1, pdf=False, pixel_check=False)
    out = tmp_path / "out"
    (out / REPORTS).mkdir(parents=True)
    (tmp_path / "images").mkdir()
    with EngineSlot(settings) as slot:
        order = Order(Source(tmp_path / "images"), out, settings)
        yield NodeOrder(order, raise_fence(out), slot.description, slot.bundle.folder)
    leave_runs()


@pytest.fixture
def fence(told: NodeOrder) -> NodeFence:
    return NodeFence(NODE, raise_fence(told.order.out, name=NODE))


def task_of(told: NodeOrder, name: str) -> StudyTask:
    root = told.order.source.folder
    (file,) = describe_file(write_image(root / name, 20, 60, 120, 240))
    indexed = index_file(root, file, told.order.settings)
    return StudyTask(indexed.study_key, 1, (indexed,), (), (indexed.header,))


def test_a_node_keeps_several_chunks_in_its_stages_until_it_is_given_up(told: NodeOrder, fence: NodeFence) -> None:
    tasks = [task_of(told, f"{number}.png") for number in range(5)]
    joined = join_run(told, fence)
    assert not joined.refusal
    with ThreadPoolExecutor() as threads:
        chunks = [(tasks[0], tasks[1]), (tasks[2],), (tasks[3],)]
        done = list(threads.map(lambda chunk: process_chunk(told.token, chunk), chunks))
    assert [[study.study_key for study in each.finished] for each in done] == [
        [task.study_key for task in chunk] for chunk in chunks
    ]
    assert all(
        (told.order.out / study.printed.report_html).is_file()
        for each in done
        for study in each.finished
        if study.printed
    )
    assert sum(each.stage_s.get("infer", 0.0) for each in done) > 0
    # Others do its work by now: it writes nothing.
    raise_fence(told.order.out, name=NODE)
    with pytest.raises(OutputNotWritable, match="was given up by its own"):
        process_chunk(told.token, (tasks[4],))
    assert not (told.order.out / REPORTS / tasks[4].study_key).exists()
    leave_runs()
    with pytest.raises(NotJoined):
        process_chunk(told.token, (tasks[4],))


def test_a_node_that_differs_says_how(told: NodeOrder, fence: NodeFence, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "others", name="other", size_px=64)
    gone = replace(told.order, source=Source(tmp_path / "unmounted"))
    elsewhere = replace(told.order, out=tmp_path / "elsewhere")
    cases = {
        "it has cxrbatch 0.1.0, the driver 0.0.9": replace(told, version="0.0.9"),
        "it has engine other": replace(told, engine_folder=other),
        "the driver engine tiny (000000000000)": replace(told, engine=replace(told.engine, sha256="0" * 64)),
        "no onnx_int8 file": replace(told, engine=replace(told.engine, precision="int8")),
        "INPUT cannot be seen there": replace(told, order=gone),
        "nothing of it is in that folder": replace(told, seen=("one", "two")),
        "elsewhere: cannot be seen there": replace(told, order=elsewhere),
        "another run holds it": replace(told, token="0" * 16),
    }
    for words, order in cases.items():
        assert words in join_run(order, fence).refusal, words
        with pytest.raises(NotJoined):
            process_chunk(order.token, ())


def test_a_node_whose_share_is_lost_takes_no_studies_to_fail_them(told: NodeOrder, fence: NodeFence) -> None:
    images = told.order.source.folder
    tasks = [task_of(told, f"{number}.png") for number in range(2)]
    (images / ".snapshot").mkdir()
    seen = names_in(told.order.source)
    assert sorted(seen) == ["0.png", "1.png"]
    assert not join_run(replace(told, seen=seen), fence).refusal
    mounted = images.rename(images.parent / "away")
    images.mkdir()
    (images / ".snapshot").mkdir()
    with pytest.raises(EngineError, match="is the share mounted"):
        process_chunk(told.token, (tasks[0],))
    images.rename(images.parent / "empty")
    mounted.rename(images)
    (images / "0.png").unlink()
    done = process_chunk(told.token, (tasks[0], tasks[1]))
    unread = {study.study_key: bool(study.unread) for study in done.finished}
    assert unread == {tasks[0].study_key: True, tasks[1].study_key: False}, "one that is gone is that study's affair"


def test_what_failed_while_the_share_went_away_goes_to_others(
    told: NodeOrder, fence: NodeFence, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(told, "0.png")
    images = told.order.source.folder
    assert not join_run(replace(told, seen=names_in(told.order.source)), fence).refusal

    def seen_for_the_last_time(*asked: Any) -> str:
        monkeypatch.setattr(node, "not_seen", not_seen)
        assert not_seen(*asked) == ""
        images.rename(images.parent / "away")
        return ""

    monkeypatch.setattr(node, "not_seen", seen_for_the_last_time)
    with pytest.raises(EngineError, match="is the share mounted"):
        process_chunk(told.token, (task,))


def test_where_out_is_gone_for_the_driver_a_node_that_comes_ends_the_run_in_plain_words(
    told: NodeOrder, tmp_path: Path
) -> None:
    client = SimpleNamespace(status="running", nthreads=lambda: {"tcp://node:1": 2})
    gone = replace(told, order=replace(told.order, out=tmp_path / "gone"))
    with pytest.raises(OutputNotWritable, match="cannot be written"):
        Members(client, gone).look()
