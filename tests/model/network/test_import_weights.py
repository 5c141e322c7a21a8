"""Imported weights answer what the package that they come from answers, from the file of an image on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from cxrbatch.cli import run_command_line
from cxrbatch.config import Settings
from cxrbatch.errors import EngineError, ExitCode, UsageError
from cxrbatch.intake.preprocess import prepare
from cxrbatch.intake.read import read_radiograph
from cxrbatch.model.network.checkpoint import Checkpoint, load_checkpoint
from cxrbatch.model.network.import_weights import XRV_RESNET50_POINTS, ImportOptions, import_weights
from cxrbatch.records import call_image
from tests.factories.model import Original, colours_of, draw_noise, settle

with warnings.catch_warnings():
    # The package turns all warnings off when it is imported.
    import torchxrayvision

RESNET50, DENSENET = "resnet50-res512-all", "densenet121-res224-nih"

needs_images = pytest.mark.skipif("CXRBATCH_SHARED_DATA" not in os.environ, reason="needs real images (shared/data)")


@pytest.fixture
def images(tmp_path: Path) -> Callable[[int, int], list[Path]]:
    """Cut real images to a size, so that neither side has to resize them."""

    def cut(height: int, width: int) -> list[Path]:
        paths = []
        for number, source in enumerate(sorted(Path(os.environ["CXRBATCH_SHARED_DATA"], "nih1024").rglob("*.png"))[:3]):
            left, top = (1024 - width) // 2, (1024 - height) // 2
            image = Image.open(source).convert("L").crop((left, top, left + width, top + height))
            paths.append(tmp_path / f"{number}-{width}x{height}.png")
            image.save(paths[-1])
        return paths

    return cut


def xrv_image(path: Path, size_px: int, engine: str = "skimage") -> Tensor:
    """Read an image as the package's documentation does: float32 [1,1,S,S], -1024..1024."""
    image = torchxrayvision.datasets.XRayCenterCrop()(torchxrayvision.utils.load_image(str(path)))
    resized = torchxrayvision.datasets.XRayResizer(size_px, engine=engine)(image)
    return torch.from_numpy(np.asarray(resized, np.float32))[None]


def our_probabilities(checkpoint: Checkpoint, paths: list[Path]) -> Tensor:
    prepared = [prepare(read_radiograph(path, Settings()), checkpoint.facts.input).pixels for path in paths]
    with torch.no_grad():
        probabilities: Tensor = checkpoint.network(torch.from_numpy(np.stack(prepared))).probabilities
    return probabilities


def tell_images_apart(head: nn.Module) -> None:
    """Make a random head's probabilities differ between images by far more than the tolerance."""
    for parameter in head.parameters():
        parameter.data.mul_(10)


def publish_resnet50(folder: Path) -> Path:
    """Write random weights where the package looks for its ResNet50's, as it would download them."""

    def build() -> nn.Module:
        resnet: nn.Module = torchvision.models.resnet50(num_classes=18)
        resnet.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        return resnet

    resnet = settle(build, torch.from_numpy(draw_noise(8, 96)) / 255 * 2048 - 1024)
    tell_images_apart(resnet.get_submodule("fc"))
    path = folder / Path(torchxrayvision.models.model_urls[RESNET50]["weights_url"]).name
    torch.save(resnet.state_dict(), path)
    return path


def publish_densenet(folder: Path) -> None:
    """Write a random network where the package looks for its DenseNet: a pickle of all of it, as it is published."""
    example = torch.from_numpy(draw_noise(8, 96)) / 255 * 2048 - 1024
    densenet = settle(torchxrayvision.models.DenseNet, example)
    tell_images_apart(densenet.classifier)
    torch.save(densenet, folder / Path(torchxrayvision.models.model_urls[DENSENET]["weights_url"]).name)


def xrv_answers(model: Any, images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return what the package answers by default, bent by `op_norm`, and the plain sigmoids."""
    with torch.no_grad():
        bent = torch.cat([model(image) for image in images])
        thresholds, model.op_threshs, model.apply_sigmoid = model.op_threshs, None, True
        plain = torch.cat([model(image) for image in images])
        model.op_threshs = thresholds
    return bent, plain


@needs_images
def test_a_resnet50_of_torchxrayvision_answers_the_same(
    tmp_path: Path, images: Callable[[int, int], list[Path]]
) -> None:
    published = publish_resnet50(tmp_path)
    wide, tall = (512, 620), (700, 512)
    paths = [images(*shape)[place] for place, shape in enumerate((wide, tall))]
    import_weights(published, tmp_path / "ours.safetensors", ImportOptions(weights_format="torchxrayvision"))
    ours = our_probabilities(load_checkpoint(tmp_path / "ours.safetensors"), paths)
    model = torchxrayvision.models.ResNet(weights=RESNET50, cache_dir=str(tmp_path))
    _, plain = xrv_answers(model, [xrv_image(path, 512) for path in paths])
    kept = [place for place, point in enumerate(XRV_RESNET50_POINTS) if point is not None]
    assert plain.std() > 0.1
    torch.testing.assert_close(ours, plain[:, kept], rtol=0, atol=1e-5)


@needs_images
def test_a_densenet_answers_the_same_and_op_norm_follows_from_it(
    tmp_path: Path, images: Callable[[int, int], list[Path]]
) -> None:
    publish_densenet(tmp_path)
    model = torchxrayvision.models.DenseNet(weights=DENSENET, cache_dir=str(tmp_path))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    imported = import_weights(
        tmp_path / "state.pt", tmp_path / "ours.safetensors", ImportOptions(weights_format="torchxrayvision")
    )
    paths = images(224, 224)
    ours = our_probabilities(load_checkpoint(tmp_path / "ours.safetensors"), paths)
    bent, plain = xrv_answers(model, [xrv_image(path, 224) for path in paths])
    assert plain.std(dim=0).mean() > 0.01
    # The last four outputs of this model have no name.
    assert ours.shape == (3, 14)
    torch.testing.assert_close(ours, plain[:, :14], rtol=0, atol=1e-5)
    points = torch.tensor([label.operating_point for label in imported.facts.labels])
    below, above = ours / (2 * points), 1 - (1 - ours) / (2 - 2 * points)
    torch.testing.assert_close(torch.where(ours < points, below, above), bent[:, :14], rtol=1e-4, atol=1e-5)
    verdicts = torch.tensor([call_image(imported.facts.labels, "threshold", row) for row in ours.tolist()])
    assert torch.equal(verdicts, bent[:, :14] >= 0.5)


@needs_images
def test_what_remains_is_how_images_are_made_smaller(tmp_path: Path, images: Callable[[int, int], list[Path]]) -> None:
    """Both average, ours over whole pixels and to whole grey values: less than 2 of 255 apart on average."""
    spec = ImportOptions(weights_format="torchxrayvision")
    imported = import_weights(publish_resnet50(tmp_path), tmp_path / "ours.safetensors", spec)
    for path in images(1024, 1024):
        ours = prepare(read_radiograph(path, Settings()), imported.facts.input).pixels[0].astype(np.float32)
        same_method, default = (
            ((xrv_image(path, 512, engine)[0, 0].numpy() / 1024) + 1) * 127.5 for engine in ("cv2", "skimage")
        )
        assert np.abs(ours - same_method).max() <= 0.51
        assert np.abs(ours - default).mean() < 2


def test_the_pickle_of_a_whole_network_is_refused(tmp_path: Path) -> None:
    publish_densenet(tmp_path)
    (published,) = tmp_path.iterdir()
    with pytest.raises(EngineError, match=r"a pickle of more than tensors.*torch\.save\(model\.state_dict\(\)"):
        import_weights(published, tmp_path / "ours.safetensors", ImportOptions(weights_format="torchxrayvision"))
    assert not (tmp_path / "ours.safetensors").exists()


def test_a_missing_file_is_told_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file\. Download https://github\.com/mlmed/.*e400-state\.pt"):
        import_weights(
            tmp_path / "none.pt", tmp_path / "ours.safetensors", ImportOptions(weights_format="torchxrayvision")
        )


def test_the_command_imports_chexnets_training_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole of it: several GPUs' names, names of DenseNets before 2018, a training's own facts beside them."""
    images = torch.from_numpy(draw_noise(4, 64))
    original = settle(lambda: Original("densenet121"), colours_of(images / 255))
    head = nn.Linear(1024, 14)
    tensors = {
        f"module.densenet121.{name.replace('conv1.', 'conv.1.') if 'denselayer' in name else name}": tensor
        for name, tensor in original.network.state_dict().items()
        if not name.startswith("classifier.")
    }
    tensors |= {f"module.densenet121.classifier.0.{name}": tensor for name, tensor in head.state_dict().items()}
    torch.save({"epoch": 6, "state_dict": tensors, "best_loss": 0.2}, tmp_path / "model.pth.tar")
    out = tmp_path / "chexnet.safetensors"
    arguments = ["import", str(tmp_path / "model.pth.tar"), "-o", str(out), "--format", "chexnet", "--image-size", "64"]
    assert run_command_line(arguments) == ExitCode.DONE
    assert capsys.readouterr().out == f"{out}: densenet121, 64 px, 14 labels\n"
    checkpoint = load_checkpoint(out)
    assert checkpoint.facts.input.fit == "crop"
    assert checkpoint.facts.labels[6].name == "Pneumonia"
    assert "Imported weights (chexnet)" in checkpoint.facts.notice
    # ImageNet's means are not ours, so images come with a border of the grey that our zeros mean.
    stem = original.network.get_submodule("features.conv0")
    assert isinstance(stem, nn.Conv2d)
    stem.padding = (0, 0)
    with torch.no_grad():
        bordered = nn.functional.pad(images / 255, [3] * 4, value=checkpoint.facts.input.mean)
        expected = head(original(colours_of(bordered)).mean(dim=(2, 3))).sigmoid()
        found = checkpoint.network(images).probabilities
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_command_imports_a_network_of_torchvision(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), tmp_path / "mine.pth")
    out = tmp_path / "mine.safetensors"
    options = ["--format", "torchvision", "--labels", "Normal, Pneumonia", "--task", "multiclass", "--fit", "pad"]
    assert run_command_line(["import", str(tmp_path / "mine.pth"), "-o", str(out), *options]) == ExitCode.DONE
    facts = load_checkpoint(out).facts
    assert (facts.task, facts.input.size_px, facts.input.fit) == ("multiclass", 224, "pad")
    assert [(label.name, label.operating_point) for label in facts.labels] == [("Normal", None), ("Pneumonia", None)]


def test_the_command_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published, out = publish_resnet50(tmp_path), tmp_path / "xrv.safetensors"
    assert run_command_line(["import", str(published), "-o", str(out), "--format", "torchxrayvision"]) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert f"{out}: resnet50, 512 px, 16 labels" in printed
    assert "no threshold for them: Lung Lesion, Enlarged Cardiomediastinum" in printed
