"""An evaluation finds whom the model learned from, by what its checkpoint carries, and says how sure that is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cxrbatch.engine.bundle import load_bundle, save_bundle
from cxrbatch.engine.manifest import EngineFile
from cxrbatch.engine.untrusted import sha256_of_file
from cxrbatch.errors import EngineError
from cxrbatch.model.data.known_images import KnownImages, KnownPart, remember
from cxrbatch.model.data.labelled import LabelledImages, Sample
from cxrbatch.model.evaluate.evaluate import EvaluationOptions, evaluate_model
from cxrbatch.model.evaluate.scoring import score_images
from cxrbatch.model.network.checkpoint import Checkpoint, load_checkpoint, read_known_images, save_checkpoint
from cxrbatch.model.network.open_model import find_known_images
from cxrbatch.records import Label
from tests.factories.engine import write_tiny_bundle
from tests.factories.labelled import write_image


def learn(patients: dict[str, str], pictures: list[str] | None = None) -> KnownImages:
    """Make what a checkpoint carries that was trained on these patients, by ID: the part."""
    samples = tuple(
        Sample(Path(f"/x/{at}"), part, (0.0,), patient_id=each) for at, (each, part) in enumerate(patients.items())
    )
    return remember(LabelledImages(Path("/x"), ("A",), samples), pictures or [])


def write_engine(folder: Path, checkpoint: Checkpoint, *known: KnownImages) -> Path:
    """Write a bundle with a checkpoint in it; what the tiny graph answers is not that network's, which nobody asks."""
    bundle = write_tiny_bundle(folder / "engines", labels=(Label("TopLeft"),))
    save_checkpoint(bundle / "checkpoint.safetensors", replace(checkpoint, known=known))
    entry = EngineFile("checkpoint.safetensors", sha256_of_file(bundle / "checkpoint.safetensors"), "fp32")
    manifest = load_bundle(bundle).manifest
    save_bundle(bundle, replace(manifest, files={**manifest.files, "checkpoint": entry}))
    return bundle


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten images of long-numbered patients and two of nobody knows whom, no part of a split."""
    rows = ["path,patient_id,split,TopLeft"]
    for at in range(12):
        write_image(tmp_path / "data" / f"{at}.png", at)
        rows.append(f"{at}.png,{'' if at > 9 else 70000 + at},test,{at % 2}")
    (tmp_path / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "data"


def evaluate(engine: Path, data: Path, out: Path) -> dict[str, Any]:
    evaluate_model(str(engine), data, out, EvaluationOptions(resamples=10))
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def texts(metrics: dict[str, Any], severity: str) -> list[str]:
    return [caution["text"] for caution in metrics["cautions"] if caution["severity"] == severity]


def test_patients_are_found_in_other_data_and_unknown_ones_counted(
    data: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    known = learn({"00070000": "train", "70001": "train", "99999": "train", "70005": "val"})
    metrics = evaluate(write_engine(tmp_path, checkpoint, known), data, tmp_path / "out")
    (void,) = texts(metrics, "void")
    assert void.startswith("Of 12 images 2 show 2 patients that the model learned from: its checkpoint knows them")
    assert any("Of 12 images 1 are of patients on whom training chose" in text for text in texts(metrics, "doubtful"))
    assert any(text.startswith("2 images of unknown patients: ") for text in texts(metrics, "note"))
    assert (metrics["data"]["patients"], metrics["data"]["of_unknown"], metrics["data"]["chosen_by"]) == (10, 2, True)
    assert "10, and 2 images of unknown ones" in (tmp_path / "out" / "evaluation.html").read_text()


def test_strangers_are_no_leak(data: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    metrics = evaluate(write_engine(tmp_path, checkpoint, learn({"99999": "train"})), data, tmp_path / "out")
    assert texts(metrics, "void") == []
    assert metrics["data"]["chosen_by"] is False


def test_short_ids_alone_are_no_proof(data: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    table = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(table.replace(",7000", ",1"))
    engine = write_engine(tmp_path, checkpoint, learn({"11": "train", "12": "train"}))
    metrics = evaluate(engine, data, tmp_path / "out")
    assert texts(metrics, "void") == []
    assert any("IDs as short as these may be another" in text for text in texts(metrics, "doubtful"))


def test_the_very_pictures_are_found_whoever_is_on_them(
    data: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = write_engine(tmp_path / "bare", checkpoint, learn({"99999": "train"}))
    seen: list[str] = []

    def look(*args: Any, **kwargs: Any) -> Any:
        images = score_images(*args, **kwargs)
        seen.extend(images.pictures)
        return images

    monkeypatch.setattr("cxrbatch.model.evaluate.evaluate.score_images", look)
    evaluate(bare, data, tmp_path / "first")
    # The last two are of unknown patients.
    known = learn({"": "train", "99998": "train"}, seen[-2:])
    metrics = evaluate(write_engine(tmp_path, checkpoint, known), data, tmp_path / "out")
    (void,) = texts(metrics, "void")
    assert "Of 12 images 2 are the very pictures that the model learned from" in void


def test_what_the_first_weights_were_trained_on_is_known_as_well(
    data: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    engine = write_engine(tmp_path, checkpoint, learn({"99999": "train"}), learn({"70003": "train"}))
    (void,) = texts(evaluate(engine, data, tmp_path / "out"), "void")
    assert "1 show 1 patient that the model learned from" in void


def test_checkpoints_carry_it_through_and_older_ones_say_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    known = learn({"70000": "train"})
    save_checkpoint(tmp_path / "new.safetensors", replace(checkpoint, known=(known,)))
    save_checkpoint(tmp_path / "old.safetensors", checkpoint)
    assert load_checkpoint(tmp_path / "new.safetensors").known == (known,)
    assert read_known_images(tmp_path / "new.safetensors") == (known,)
    assert read_known_images(tmp_path / "old.safetensors") == ()
    assert find_known_images(str(write_tiny_bundle(tmp_path / "engines"))) == ()


def test_a_bundle_without_its_checkpoint_says_nothing_and_a_changed_one_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    engine = write_engine(tmp_path, checkpoint, learn({"70000": "train"}))
    assert len(find_known_images(str(engine))) == 1
    content = (engine / "checkpoint.safetensors").read_bytes()
    (engine / "checkpoint.safetensors").write_bytes(content[:-1] + b"x")
    with pytest.raises(EngineError):
        find_known_images(str(engine))
    (engine / "checkpoint.safetensors").unlink()
    assert find_known_images(str(engine)) == ()


@pytest.mark.parametrize("damage", [KnownImages("no hex"), KnownImages("ab", {"train": KnownPart("AAAA")})])
def test_damaged_digests_are_an_engine_error(checkpoint: Checkpoint, tmp_path: Path, damage: KnownImages) -> None:
    save_checkpoint(tmp_path / "bad.safetensors", replace(checkpoint, known=(damage,)))
    for read in (read_known_images, load_checkpoint):
        with pytest.raises(EngineError, match="damaged"):
            read(tmp_path / "bad.safetensors")
