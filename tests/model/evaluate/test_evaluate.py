"""A model and a labelled folder in, and the whole report out, every number of it known beforehand."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cxrbatch.cli import run_command_line
from cxrbatch.engine.training_facts import TrainingFacts
from cxrbatch.errors import EngineError, ExitCode, UsageError
from cxrbatch.model.data.labelled import LabelledImages, Sample, patients_sha256
from cxrbatch.model.data.options import DataOptions
from cxrbatch.model.evaluate.doubts import find_overlap
from cxrbatch.model.evaluate.evaluate import EvaluationOptions, evaluate_model
from cxrbatch.model.network.checkpoint import Checkpoint
from cxrbatch.model.network.open_model import open_model
from cxrbatch.records import Gray8, Label
from tests.factories.engine import write_tiny_bundle
from tests.factories.studies import four_greys, read_rows

# Images whose top left quadrant is bright are called TopLeft; one of the sick is dark, one of the well bright.
TOP_LEFT = {"sick": (240, 200, 150, 20, 220, 190), "well": (10, 60, 100, 180, 40, 80)}
LABELS = (Label("TopLeft", 0.5), Label("TopRight", None), Label("BottomLeft"))


def write_image(folder: Path, name: str, top_left: int, top_right: int, size_px: int = 128) -> None:
    # A few rows unlike in every image, so that no two are one image; too few to move a score.
    pixels = four_greys(top_left, top_right, 128, 128, size_px=size_px)
    pixels[-1, :] = np.random.default_rng(abs(hash((name, top_left))) % 2**32).integers(0, 256, size_px)
    folder.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(folder / name), pixels)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve test images of ten patients, two train images; the sick ones are all AP."""
    folder = tmp_path / "data"
    rows = ["image_index,patient_id,age,sex,view,split,TopLeft,TopRight"]
    for sick, brightness in enumerate((TOP_LEFT["well"], TOP_LEFT["sick"])):
        for at, grey in enumerate(brightness):
            name, patient = f"{sick}{at}.png", f"p{min(at, 4)}{sick}"
            write_image(folder, name, grey, 200 if at % 2 else 40)
            rows.append(f"{name},{patient},{30 + 10 * at},{'FM'[at % 2]},{('PA', 'AP')[sick]},test,{sick},{at % 2}")
    for at in range(2):
        write_image(folder, f"t{at}.png", 90 + 40 * at, 30)
        rows.append(f"t{at}.png,t{at},50,F,PA,train,{at},0")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "engines", labels=LABELS)


def evaluate(model: Path, images: Path, out: Path, **options: Any) -> dict[str, Any]:
    evaluate_model(str(model), images, out, EvaluationOptions(**({"resamples": 30} | options)))
    loaded: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return loaded


def figures(metrics: dict[str, Any], label: str) -> dict[str, float]:
    (found,) = (each for each in metrics["measured"]["labels"] if each["label"] == label)
    return {name: estimate["value"] for name, estimate in found["figures"].items()}


def test_metrics_json_holds_the_figures_of_the_images(engine: Path, data: Path, tmp_path: Path) -> None:
    metrics = evaluate(engine, data, tmp_path / "out")
    assert (metrics["data"]["images"], metrics["data"]["patients"], metrics["data"]["split"]) == (12, 10, "test")
    found = figures(metrics, "TopLeft")
    # Sick: 240 220 200 190 150 20, well: 10 40 60 80 100 180. Of 36 pairs the first four win 6 each, 150 five, 20 one.
    assert found["auroc"] == pytest.approx(30 / 36)
    assert (found["sensitivity"], found["specificity"], found["ppv"]) == pytest.approx((5 / 6, 5 / 6, 5 / 6))
    assert figures(metrics, "TopRight")["auroc"] == 1.0
    assert "sensitivity" not in figures(metrics, "TopRight")
    assert metrics["measured"]["macro"]["auroc"]["value"] == pytest.approx((30 / 36 + 1) / 2)
    for label in metrics["measured"]["labels"]:
        for estimate in label["figures"].values():
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert {(group["column"], group["group"], group["images"]) for group in metrics["subgroups"]} >= {
        ("sex", "F", 6),
        ("sex", "M", 6),
        ("view", "AP", 6),
        ("age", "80+", 2),
    }


def test_the_planted_shortcut_is_reported(engine: Path, data: Path, tmp_path: Path) -> None:
    metrics = evaluate(engine, data, tmp_path / "out")
    view = next(
        each for each in metrics["shortcuts"] if (each["predictor"], each["label"]) == ("view position", "TopLeft")
    )
    assert (view["auroc"], view["reaches"]) == (1.0, True)
    doubtful = [caution["text"] for caution in metrics["cautions"] if caution["severity"] == "doubtful"]
    assert any("View position alone reaches the model's AUROC for TopLeft (1.000)" in text for text in doubtful)
    notes = [caution["text"] for caution in metrics["cautions"] if caution["severity"] == "note"]
    assert "The data says nothing about BottomLeft: not evaluated." in notes


def test_predictions_hold_every_image_with_its_numbers(engine: Path, data: Path, tmp_path: Path) -> None:
    (data / "10.png").write_bytes(b"no image at all, but there")
    metrics = evaluate(engine, data, tmp_path / "out")
    rows = {row["path"]: row for row in read_rows(tmp_path / "out" / "predictions.csv")}
    assert len(rows) == 12
    bright = rows["11.png"]
    assert (bright["patient_id"], bright["status"], bright["target_TopLeft"]) == ("p11", "scored", "1")
    assert float(bright["logit_TopLeft"]) == pytest.approx(8 * (200 / 255 - 0.5), abs=1e-4)
    assert float(bright["prob_TopLeft"]) == pytest.approx(1 / (1 + np.exp(-8 * (200 / 255 - 0.5))), abs=1e-4)
    assert (bright["positive_TopLeft"], bright["positive_TopRight"]) == ("1", "")
    assert (rows["10.png"]["status"], rows["10.png"]["reason"], rows["10.png"]["prob_TopLeft"]) == (
        *("refused", "not_an_image", ""),
    )
    assert metrics["data"]["refused"] == {"not_an_image": 1}
    assert metrics["data"]["images"] == 11


def test_the_page_shows_the_figures_and_asks_for_nothing_from_elsewhere(
    engine: Path, data: Path, tmp_path: Path
) -> None:
    evaluate(engine, data, tmp_path / "out")
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert "tiny on data, the test part" in page
    assert "A test engine: it measures brightness." in page
    cells = r'<td class="count" data-column="With it">6 of 12</td><td class="number" data-column="AUROC">'
    assert re.search(rf'<th scope="row">TopLeft</th>{cells}\s*<span class="value">0\.833', page)
    assert "These figures are void." not in page
    assert "Read with care.</strong> View position alone reaches" in page
    pictures = re.findall(r'<img src="([^"]+)"', page)
    assert pictures == ["roc.svg", "precision_recall.svg", "calibration.svg"]
    for picture in pictures:
        drawn = (tmp_path / "out" / picture).read_text()
        assert "TopLeft" in drawn
        assert "prefers-color-scheme:dark" in drawn
    assert "http:" not in page
    assert "https:" not in page


def test_the_same_evaluation_leaves_the_same_figures_and_pictures(engine: Path, data: Path, tmp_path: Path) -> None:
    first, second = (evaluate(engine, data, tmp_path / name) for name in ("one", "two"))
    assert first | {"evaluated_at": ""} == second | {"evaluated_at": ""}
    for name in ("roc.svg", "calibration.svg", "predictions.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_boxes_are_measured_where_the_data_has_them(engine: Path, data: Path, tmp_path: Path) -> None:
    # The tiny engine's map of TopLeft peaks in the top left quadrant; a box there is hit, one below is not.
    lines = [
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        "10.png,TopLeft,0,0,512,512",
        "11.png,TopLeft,0,600,300,300",
    ]
    (data / "BBox_List_2017.csv").write_text("\n".join(lines) + "\n")
    (pointing,) = evaluate(engine, data, tmp_path / "out")["pointing"]
    assert (pointing["label"], pointing["images"], pointing["hits"]["value"]) == ("TopLeft", 2, 0.5)
    assert pointing["chance"] == pytest.approx((512**2 + 300**2) / 2 / 1024**2, abs=0.005)
    assert 0.25 < pointing["box_iou"]["value"] < 0.55
    assert "Where it looks" in (tmp_path / "out" / "evaluation.html").read_text()


def test_all_images_include_the_training_part_and_the_page_is_loud_about_it(
    engine: Path, data: Path, tmp_path: Path
) -> None:
    metrics = evaluate(engine, data, tmp_path / "out", split="all", resamples=0)
    (loud,) = (caution["text"] for caution in metrics["cautions"] if caution["severity"] == "void")
    assert loud.startswith(
        "Of 14 images 2 show 2 patients of this data's training part, which the model may have learned"
    )
    assert "These figures are void." in (tmp_path / "out" / "evaluation.html").read_text()
    auroc = metrics["measured"]["labels"][0]["figures"]["auroc"]
    assert auroc["low"] == auroc["value"] == auroc["high"]


def test_a_multi_class_model_gets_a_confusion_matrix(tmp_path: Path) -> None:
    for name, quadrant in (("one", 0), ("two", 1)):
        for at in range(4):
            greys = [60, 60]
            greys[quadrant] = 200 + 10 * at
            write_image(tmp_path / "classes" / "test" / name, f"{name}{at}.png", *greys)
    for name in ("one", "two"):
        write_image(tmp_path / "classes" / "train" / name, f"{name}9.png", 91 if name == "one" else 92, 33)
        write_image(tmp_path / "classes" / "val" / name, f"{name}8.png", 81 if name == "one" else 82, 33)
    engine = write_tiny_bundle(tmp_path / "engines", labels=(Label("one", None), Label("two", None)))
    manifest = json.loads((engine / "engine.json").read_text())
    (engine / "engine.json").write_text(json.dumps(manifest | {"task": "multiclass"}))
    metrics = evaluate(engine, tmp_path / "classes", tmp_path / "out")
    classes = metrics["measured"]["classes"]
    assert classes["confusion"] == [[4, 0], [0, 4]]
    assert classes["accuracy"]["value"] == 1.0
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert 'src="confusion.svg"' in page
    assert "likeliest class" in page


def test_a_checkpoint_is_evaluated_by_pytorch(
    checkpoint: Checkpoint, checkpoint_file: Path, noise: Gray8, data: Path, tmp_path: Path
) -> None:
    engine = open_model(str(checkpoint_file))
    assert (engine.description.backend, engine.description.name) == ("torch", "small")
    scores = engine.infer(noise)
    assert scores.logits.shape == (8, 3)
    with pytest.raises(UsageError, match="model knows A, B, C; the data has TopLeft, TopRight"):
        evaluate(checkpoint_file, data, tmp_path / "out")
    with pytest.raises(UsageError, match="a checkpoint runs in PyTorch only"):
        open_model(str(checkpoint_file), backend="onnxruntime")
    with pytest.raises(EngineError, match="no such checkpoint"):
        open_model(str(tmp_path / "nowhere.safetensors"))


def test_overlap_is_found_by_the_digest_of_the_checkpoint_and_by_the_split() -> None:
    images = tuple(
        Sample(Path(f"/d/{at}.png"), split, (0.0,), patient_id=patient)
        for at, (split, patient) in enumerate([("train", "a"), ("train", "b"), ("test", "c"), ("test", "b")])
    )
    data = LabelledImages(Path("/d"), ("A",), images)
    unknown, known = TrainingFacts(), TrainingFacts(patients={"train": patients_sha256(images[:2])})
    assert find_overlap(images[2:3], data, known) == ()
    assert "Of 2 images 1 show 1 patient of" in find_overlap(images[2:], data, unknown)[0]
    assert find_overlap(images[2:], data, known)[0].endswith("which the model learned from.")
    elsewhere = LabelledImages(Path("/e"), ("A",), tuple(Sample(Path("/e/x.png"), "test", (0.0,), p) for p in "ab"))
    assert "learned from these very patients" in find_overlap(elsewhere.samples, elsewhere, known)[0]


def test_an_image_that_the_engine_cannot_answer_is_refused_alone(data: Path, tmp_path: Path) -> None:
    write_image(data, "t0.png", 77, 30)
    engine = write_tiny_bundle(tmp_path / "engines", name="poisonous", labels=LABELS, poison_value=77)
    metrics = evaluate(engine, data, tmp_path / "out", split="all")
    assert metrics["data"]["images"] + sum(metrics["data"]["refused"].values()) == 14


def test_nothing_that_can_be_scored_is_an_error(engine: Path, data: Path, tmp_path: Path) -> None:
    for path in data.glob("[01]*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="none of 12 images could be scored"):
        evaluate(engine, data, tmp_path / "out")


def test_the_command_prints_the_figures_and_where_the_report_is(
    engine: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["evaluate", str(engine), str(data), "-o", str(out), "--labels", "TopLeft", "--bootstrap", "20"]
    assert run_command_line(arguments) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "0.833" in printed
    assert "View position alone reaches" in printed
    assert str(out / "evaluation.html") in printed
    assert [label["label"] for label in json.loads((out / "metrics.json").read_text())["measured"]["labels"]] == [
        "TopLeft"
    ]


def test_exit_codes_for_what_cannot_be_evaluated(engine: Path, data: Path, tmp_path: Path) -> None:
    common = [str(data), "-o", str(tmp_path / "out")]
    assert run_command_line(["evaluate", str(engine), *common, "--split", "night"]) == ExitCode.USAGE
    assert run_command_line(["evaluate", str(tmp_path / "none"), *common]) == ExitCode.ENGINE
    (tmp_path / "file").touch()
    blocked = ["evaluate", str(engine), str(data), "-o", str(tmp_path / "file" / "out"), "--bootstrap", "0"]
    assert run_command_line(blocked) == ExitCode.OUTPUT_NOT_WRITABLE


def test_a_part_that_the_data_lacks_is_cut_as_for_training_and_the_page_says_so(
    engine: Path, data: Path, tmp_path: Path
) -> None:
    (data / "labels.csv").write_text((data / "labels.csv").read_text().replace(",test,", ",train,"))
    metrics = evaluate(engine, data, tmp_path / "out", split="val")
    assert 0 < metrics["data"]["images"] < 14
    texts = [caution["text"] for caution in metrics["cautions"] if caution["severity"] == "doubtful"]
    assert any("These patients are new to the model only if" in text for text in texts)
    with pytest.raises(UsageError, match="no image belongs to the part night; there are train, val"):
        evaluate(engine, data, tmp_path / "out", split="night")


def test_patients_in_two_parts_stop_the_evaluation_unless_allowed(engine: Path, data: Path, tmp_path: Path) -> None:
    (data / "labels.csv").write_text((data / "labels.csv").read_text().replace("t0.png,t0", "t0.png,p00"))
    with pytest.raises(UsageError, match="--allow-leak"):
        evaluate(engine, data, tmp_path / "out")
    metrics = evaluate(engine, data, tmp_path / "out", data=DataOptions(allow_leak=True))
    loud = [caution["text"] for caution in metrics["cautions"] if caution["severity"] == "void"]
    assert loud[0].startswith("Of 12 images 1 show 1 patient of this data's training part")


def test_data_options_reach_the_data(engine: Path, data: Path, tmp_path: Path) -> None:
    text = (data / "labels.csv").read_text().replace("00.png,p00,30,F,PA,test,0,0", "00.png,p00,30,F,PA,test,-1,0")
    (data / "labels.csv").write_text(text)
    for uncertain, images, positives in (("ignore", 11, 6), ("ones", 12, 7), ("zeros", 12, 6)):
        options = DataOptions(uncertain=uncertain)  # type: ignore[arg-type]
        label = evaluate(engine, data, tmp_path / uncertain, data=options)["measured"]["labels"][0]
        assert (label["images"], label["positives"]) == (images, positives)


def test_csv_cells_are_harmless(engine: Path, data: Path, tmp_path: Path) -> None:
    (data / "labels.csv").write_text((data / "labels.csv").read_text().replace("p20", "=cmd|x"))
    evaluate(engine, data, tmp_path / "out", resamples=0)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as table:
        cells = {cell for row in csv.reader(table) for cell in row}
    assert "'=cmd|x" in cells
    assert "=cmd|x" not in cells
