"""The engine of a run: read and hashed once where something waits, checked where nothing does, opened meanwhile."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cxrbatch.config import Settings
from cxrbatch.engine import bundle as bundle_module
from cxrbatch.errors import EngineError
from cxrbatch.output.ledger.ledger import Ledger
from cxrbatch.records import EngineDescription
from cxrbatch.run import index as index_module
from cxrbatch.run.elsewhere import DescribedSlot
from cxrbatch.run.engine_slot import EngineSlot
from cxrbatch.run.score import images_per_call
from tests.factories.engine import write_tiny_bundle
from tests.factories.output import make_engine
from tests.factories.studies import run_quietly, write_image


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "engines")


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read or hashed of engines, in order."""
    seen: list[str] = []
    for name in ("read_file", "sha256_of_file", "VerifiedFile"):
        real = getattr(bundle_module, name)

        def noted(path: Path, *, name: str = name, real: object = real, **more: int) -> object:
            seen.append(f"{name} {path.name}")
            return real(path, **more)  # type: ignore[operator]

        monkeypatch.setattr(bundle_module, name, noted)
    return seen


def test_the_file_is_opened_once_where_something_waits_and_only_hashed_where_nothing_does(
    tmp_path: Path, engine: Path, looked_at: list[str]
) -> None:
    write_image(tmp_path / "images" / "one.png", 20, 60, 120, 240)
    run_quietly(tmp_path / "images", tmp_path / "out", engine=str(engine))
    assert looked_at == ["read_file engine.json", "VerifiedFile model.onnx"]
    looked_at.clear()
    run_quietly(tmp_path / "images", tmp_path / "out", engine=str(engine))
    assert looked_at == ["read_file engine.json", "sha256_of_file model.onnx"]


@pytest.mark.parametrize(("many", "order"), [(2, ["index", "open"]), (3, ["open", "index"])])
def test_the_engine_opens_while_headers_are_read_unless_very_many_files_are_known(
    tmp_path: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, many: int, order: list[str]
) -> None:
    monkeypatch.setattr(index_module, "_MANY_FILES", many)
    for name in ("one", "two"):
        write_image(tmp_path / "images" / f"{name}.png", 20, 60, 120, 240)
    run_quietly(tmp_path / "images", tmp_path / "out", engine=str(engine))
    write_image(tmp_path / "images" / "three.png", 200, 10, 10, 10)
    seen: list[str] = []
    real_open, real_account = EngineSlot._open, index_module.account_for

    def noted_open(slot: EngineSlot) -> object:
        seen.append("open")
        return real_open(slot)

    def noted_account(ledger: Ledger, total: int) -> None:
        slots = [thread for thread in threading.enumerate() if thread.name == "opening the engine"]
        for thread in slots:
            thread.join()
        seen.append("index")
        real_account(ledger, total)

    monkeypatch.setattr(EngineSlot, "_open", noted_open)
    monkeypatch.setattr(index_module, "account_for", noted_account)
    assert run_quietly(tmp_path / "images", tmp_path / "out", engine=str(engine)).studies_this_run == 1
    assert seen == order


def test_the_file_is_opened_once_where_an_earlier_run_left_results_and_something_is_new(
    tmp_path: Path, engine: Path, looked_at: list[str]
) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_image(images / "one.png", 20, 60, 120, 240)
    run_quietly(images, out, engine=str(engine))
    looked_at.clear()
    write_image(images / "two.png", 200, 10, 10, 10)
    assert run_quietly(images, out, engine=str(engine)).images_scored_this_run == 1
    assert looked_at == ["read_file engine.json", "VerifiedFile model.onnx"]
    looked_at.clear()
    (images / "notes.txt").write_text("no image")
    assert run_quietly(images, out, engine=str(engine)).images_scored_this_run == 0
    assert looked_at == ["read_file engine.json", "VerifiedFile model.onnx"], "opened ahead, though nobody came to ask"


def test_a_tampered_engine_is_refused_also_where_news_are_refused(tmp_path: Path, engine: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_image(images / "one.png", 20, 60, 120, 240)
    run_quietly(images, out, engine=str(engine))
    (images / "notes.txt").write_text("no image")
    (engine / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(EngineError, match="not the file this engine was built with"):
        run_quietly(images, out, engine=str(engine))


def test_a_tampered_engine_takes_over_nothing_that_another_one_scored(tmp_path: Path, engine: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    write_image(images / "one.png", 20, 60, 120, 240)
    run_quietly(images, out, engine=str(engine))
    table = (out / "images.csv").read_bytes()
    other = write_tiny_bundle(tmp_path / "others", labels=("One", "Two"))
    (other / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(EngineError, match="not the file this engine was built with"):
        run_quietly(images, out, engine=str(other))
    assert (out / "images.csv").read_bytes() == table
    assert run_quietly(images, out, engine=str(engine)).studies_this_run == 0


def test_a_tampered_engine_is_refused_before_a_new_output_folder_is_made(tmp_path: Path, engine: Path) -> None:
    write_image(tmp_path / "images" / "one.png", 20, 60, 120, 240)
    (engine / "model.onnx").write_bytes(b"tampered")
    with pytest.raises(EngineError, match="not the file this engine was built with"):
        run_quietly(tmp_path / "images", tmp_path / "out", engine=str(engine))
    assert not (tmp_path / "out").exists()


def test_what_is_opened_is_what_was_verified_whatever_the_file_is_by_then(engine: Path) -> None:
    with EngineSlot(Settings(engine=str(engine)), opens_soon=True) as slot:
        (engine / "tampered").write_bytes(b"tampered")
        (engine / "tampered").replace(engine / "model.onnx")
        slot.open_ahead()
        assert slot.open().description == slot.description


def test_what_was_verified_and_written_over_is_not_opened(engine: Path) -> None:
    with EngineSlot(Settings(engine=str(engine)), opens_soon=True) as slot:
        (engine / "model.onnx").write_bytes(b"tampered")
        slot.open_ahead()
        with pytest.raises(EngineError, match=r"model\.onnx"):
            slot.open()


def test_the_engine_is_opened_ahead_once_and_asked_for_as_often_as_one_likes(
    engine: Path, looked_at: list[str]
) -> None:
    with EngineSlot(Settings(engine=str(engine))) as slot:
        slot.open_ahead()
        slot.open_ahead()
        opened = slot.open()
        slot.open_ahead()
        assert slot.open() is opened
    assert looked_at.count("VerifiedFile model.onnx") == 1


def test_what_goes_wrong_ahead_is_told_where_the_engine_is_asked_for(engine: Path) -> None:
    with EngineSlot(Settings(engine=str(engine))) as slot:
        good = (engine / "model.onnx").read_bytes()
        (engine / "model.onnx").write_bytes(b"tampered")
        slot.open_ahead()
        with pytest.raises(EngineError, match="not the file this engine was built with"):
            slot.open()
        (engine / "model.onnx").write_bytes(good)
        assert slot.open().description == slot.description  # tried anew: an error is not kept


def test_an_engine_that_nobody_came_to_ask_for_is_closed(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxrbatch.engine.onnxruntime_engine import OnnxRuntimeEngine

    closed: list[EngineDescription] = []
    monkeypatch.setattr(OnnxRuntimeEngine, "close", lambda self: closed.append(self.description))
    slot = EngineSlot(Settings(engine=str(engine)))
    slot.open_ahead()
    slot.close()
    slot.close()
    assert closed == [slot.description]


def test_batches_suit_where_the_engine_runs_unless_somebody_says_how_large() -> None:
    on_cpu, on_gpu = make_engine(), replace(make_engine(), backend="tensorrt")
    assert (images_per_call(Settings(), on_cpu), images_per_call(Settings(), on_gpu)) == (4, 8)
    assert images_per_call(Settings(batch_size=32), on_cpu) == 32


def test_an_engine_for_other_machines_is_the_same_by_its_description_checked_and_never_opened(
    engine: Path, looked_at: list[str]
) -> None:
    settings = Settings(engine=str(engine))
    with EngineSlot(settings) as own:
        described = own.description
    looked_at.clear()
    with DescribedSlot(settings, opens_soon=True) as slot:
        assert slot.description == described
        slot.open_ahead()
        slot.verify()
        assert looked_at == ["read_file engine.json", "sha256_of_file model.onnx"], "nothing is kept for who opens it"
        with pytest.raises(AssertionError, match="for other machines"):
            slot.open()
    (engine / "model.onnx").write_bytes(b"other")
    with pytest.raises(EngineError, match="built with"):
        DescribedSlot(settings, opens_soon=True)
