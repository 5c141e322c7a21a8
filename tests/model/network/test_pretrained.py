"""`--init` finds weights before anything else happens, says where they come from, and puts them in."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from cxrbatch.errors import EngineError, UsageError
from cxrbatch.model.network.checkpoint import Checkpoint, save_checkpoint
from cxrbatch.model.network.network import ChestNetwork
from cxrbatch.model.network.pretrained import find_init, initialise
from cxrbatch.records import Gray8, InputSpec
from tests.factories.model import Original, one_network

LABELS = ("A", "B", "C")


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """A resnet18 over colours with the head of ImageNet's 1000 classes, under torchvision's names."""
    torch.manual_seed(1)
    return Original("resnet18").network.state_dict()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


def publish(monkeypatch: pytest.MonkeyPatch, url: str) -> str:
    """Let torchvision's weights of a resnet18 lie at `url`; return it."""
    monkeypatch.setattr(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value, "url", url)
    return url


def save_hashed(tensors: dict[str, Tensor], folder: Path) -> Path:
    """Save weights as torchvision does, the first digits of their SHA-256 in the name."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "unnamed")
    digits = hashlib.sha256((folder / "unnamed").read_bytes()).hexdigest()[:8]
    return (folder / "unnamed").rename(folder / f"resnet18-{digits}.pth")


def small(mean: float = 0.5, n_labels: int = 3) -> ChestNetwork:
    return ChestNetwork("resnet18", n_labels, spec=InputSpec(64, mean=mean))


def assert_has(network: ChestNetwork, tensors: dict[str, Tensor]) -> None:
    held = network.features.state_dict()
    names = set(held) - {"conv1.weight", "bn1.running_mean"}
    assert all(torch.equal(held[name], tensors[name]) for name in names)
    # Random kernels sum to something else under another scaling; by hand, for one place of one kernel.
    std = torch.tensor([0.229, 0.224, 0.225])
    by_hand = (tensors["conv1.weight"][5, :, 3, 3] / std * 0.25).sum()
    torch.testing.assert_close(held["conv1.weight"][5, 0, 3, 3], by_hand)


def test_none_leaves_a_network_as_it_was_built() -> None:
    network = small()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert initialise(network, find_init("none", "resnet18"), seed=0) == "Weights start from random weights."
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_imagenet_comes_from_the_hub_cache(
    tensors: dict[str, Tensor], hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_hashed(tensors, hub)
    publish(monkeypatch, f"https://models.invalid/{path.name}")
    network = small()
    told = initialise(network, find_init("imagenet", "resnet18"), seed=0)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert told == (
        f"Weights start from torchvision's ImageNet weights: {path.name}, SHA-256 {sha256}; the head is random."
    )
    assert_has(network, tensors)


def test_imagenet_is_downloaded_into_the_hub_cache(
    tensors: dict[str, Tensor], hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = save_hashed(tensors, tmp_path / "server")
    publish(monkeypatch, server.as_uri())
    network = small()
    initialise(network, find_init("imagenet", "resnet18"), seed=0)
    assert_has(network, tensors)
    assert [path.name for path in hub.iterdir()] == [server.name]
    assert (hub / server.name).read_bytes() == server.read_bytes()


def test_offline_says_what_to_bring_and_where_to(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = publish(monkeypatch, (tmp_path / "unplugged" / "resnet18-0123abcd.pth").as_uri())
    with pytest.raises(UsageError) as told:
        find_init("imagenet", "resnet18")
    assert f"Bring {url} to {hub / 'resnet18-0123abcd.pth'}, or choose --init none." in str(told.value)
    assert list(hub.iterdir()) == []


def test_a_download_of_other_bytes_is_not_kept(
    tensors: dict[str, Tensor], hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = save_hashed(tensors, tmp_path / "server")
    publish(monkeypatch, server.rename(server.with_name("resnet18-0123abcd.pth")).as_uri())
    with pytest.raises(UsageError, match=r"the download failed .*invalid hash value"):
        find_init("imagenet", "resnet18")
    assert list(hub.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_refused(
    tensors: dict[str, Tensor], hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_hashed(tensors, hub).rename(hub / "resnet18-0123abcd.pth")
    publish(monkeypatch, f"https://models.invalid/{path.name}")
    with pytest.raises(
        EngineError, match=r"resnet18-0123abcd\.pth: damaged: its SHA-256 is [0-9a-f]{64}\. Bring https"
    ):
        find_init("imagenet", "resnet18")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_state_dict_of_torchvision_is_taken(tensors: dict[str, Tensor], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mine{suffix}"
    if suffix == ".pth":
        torch.save(tensors, path)
    else:
        safetensors.torch.save_file(tensors, path)
    network = small()
    told = initialise(network, find_init(str(path), "resnet18"), seed=0)
    assert told.startswith(f"Weights start from weights of a file: {path.name}, SHA-256 ")
    assert_has(network, tensors)


def test_inception_comes_without_its_auxiliary_head(tmp_path: Path) -> None:
    tensors = Original("inception_v3").network.state_dict()
    assert "AuxLogits.fc.weight" in tensors
    torch.save(tensors, tmp_path / "inception.pth")
    network = ChestNetwork("inception_v3", 2, spec=InputSpec(75))
    initialise(network, find_init(str(tmp_path / "inception.pth"), "inception_v3"), seed=0)
    assert torch.equal(
        network.features.state_dict()["Mixed_7c.branch1x1.conv.weight"], tensors["Mixed_7c.branch1x1.conv.weight"]
    )


def test_the_head_depends_on_the_seed_alone(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "mine.pth")
    init = find_init(str(tmp_path / "mine.pth"), "resnet18")
    heads = []
    for seed in (3, 3, 4):
        network = small()
        initialise(network, init, seed=seed, labels=LABELS)
        heads.append(network.head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_checkpoint_of_ours_goes_on_with_its_head(
    checkpoint: Checkpoint, checkpoint_file: Path, noise: Gray8
) -> None:
    init = find_init(str(checkpoint_file), "resnet18")
    # Another spread of the input: the weights are adapted to it.
    network = ChestNetwork("resnet18", 3, spec=InputSpec(64, mean=0.4, std=0.1), output_stride=16).eval()
    assert initialise(network, init, seed=0, labels=LABELS).endswith(", with its head.")
    pixels = torch.from_numpy(noise)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels).logits, checkpoint.network(pixels).logits, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_for_other_labels_leaves_its_head_behind(checkpoint: Checkpoint, checkpoint_file: Path) -> None:
    init = find_init(str(checkpoint_file), "resnet18")
    network = small(mean=0.4)
    assert initialise(network, init, seed=0, labels=("B", "A", "C")).endswith("; the head is random.")
    assert not torch.equal(network.head.weight, one_network(checkpoint).head.weight)
    layer = network.features.state_dict()["layer4.1.conv2.weight"]
    assert torch.equal(layer, one_network(checkpoint).features.state_dict()["layer4.1.conv2.weight"])


def test_a_checkpoint_of_another_architecture_is_refused(checkpoint_file: Path) -> None:
    with pytest.raises(UsageError, match=r"is a resnet18, not a resnet50\. Add --architecture resnet18"):
        find_init(str(checkpoint_file), "resnet50")


def test_a_file_says_which_architecture_it_holds(checkpoint_file: Path) -> None:
    assert find_init(str(checkpoint_file), from_scratch="vgg16_bn").architecture == "resnet18"
    assert find_init("none", from_scratch="vgg16_bn").architecture == "vgg16_bn"
    assert find_init("none").architecture == "resnet50"


def test_a_damaged_checkpoint_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    facts = replace(checkpoint.facts, labels=checkpoint.facts.labels[:2])
    save_checkpoint(tmp_path / "odd.safetensors", Checkpoint(checkpoint.network, facts))
    with pytest.raises(EngineError, match="weights do not fit its own description"):
        find_init(str(tmp_path / "odd.safetensors"), "resnet18")


def test_grey_weights_of_unknown_scaling_are_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    grey = tensors | {"conv1.weight": tensors["conv1.weight"][:, :1].clone()}
    torch.save(grey, tmp_path / "grey.pth")
    with pytest.raises(UsageError, match=r"takes 1 channel\(s\), not 3, and nothing says how .*: cxrbatch import"):
        find_init(str(tmp_path / "grey.pth"), "resnet18")


def test_an_unknown_architecture_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="architecture vgg99: unknown"):
        find_init(str(tmp_path / "none.pth"), "vgg99")
