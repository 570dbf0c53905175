"""Weights to start from: found on this machine or named with the address to fetch them from, never fetched."""

import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgekd import models
from edgekd.errors import IntegrityError, MissingTool, RecipeError
from edgekd.models import catalogue, published
from edgekd.models.checkpoint import load_checkpoint, load_weights

RESNET18 = "resnet18-f37072fd.pth"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def build(name: str, classes: int = 5, seed: int = 0, side: int = 64) -> torch.nn.Module:
    return models.build(name, classes=classes, size=(side, side), generator=torch.Generator().manual_seed(seed))


def inner(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A state under the names of the package."""
    return {key.removeprefix("network."): value for key, value in network.state_dict().items()}


def test_addresses_are_those_of_torchvision() -> None:
    from torchvision.models import get_model_weights

    for name in catalogue.architectures("torchvision"):
        expected = {weights.name: weights.url for weights in get_model_weights(name)}
        assert published.urls(name) == {**expected, "DEFAULT": get_model_weights(name).DEFAULT.url}


def test_absent_weights_say_where_they_would_be_and_how_to_fetch_them(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        published.find("torchvision:resnet18", "IMAGENET1K_V1", None, (tmp_path / "root",), (tmp_path / "hub",))
    text = str(caught.value)
    for place in (
        tmp_path / "root" / RESNET18,
        tmp_path / "root" / "pretrained" / RESNET18,
        tmp_path / "hub" / RESNET18,
    ):
        assert f"    {place}\n" in text
    fetch = (
        f"curl -L --create-dirs -o {tmp_path}/root/pretrained/{RESNET18} https://download.pytorch.org/models/{RESNET18}"
    )
    assert caught.value.hint == fetch and caught.value.exit_code == 2


def test_a_wrong_name_says_the_nearest() -> None:
    with pytest.raises(RecipeError, match="IMAGENET1K_V9") as caught:
        published.check("torchvision:resnet50", "IMAGENET1K_V9")
    assert "IMAGENET1K_V" in caught.value.hint and caught.value.where == "teacher.weights"
    published.check("torchvision:resnet50", "IMAGENET1K_V2")
    published.check("torchvision:resnet50", "my/weights.pt")  # a file: looked for when it is used


def test_named_weights_must_be_what_their_name_says(tmp_path: Path) -> None:
    (tmp_path / RESNET18).write_bytes(b"cut short")
    with pytest.raises(IntegrityError, match=r"cut short or changed[\s\S]*f37072fd"):
        published.find("torchvision:resnet18", "DEFAULT", None, (), (tmp_path,))


def test_places_of_named_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "HASH", published.re.compile("never"))
    for folder in ("hub", "recipe", "root/pretrained"):  # each goes before those earlier in this list
        place = tmp_path / folder / RESNET18
        if folder != "recipe":
            place.parent.mkdir(parents=True)
            place.write_bytes(b"w")
            found = published.find(
                "torchvision:resnet18", "DEFAULT", tmp_path / "recipe", (tmp_path / "root",), (tmp_path / "hub",)
            )
            assert found == place


def test_tags_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingTool):
        monkeypatch.setattr(catalogue.util, "find_spec", lambda name: None)
        catalogue.architectures.cache_clear()
        published.find("timm:resnet18", "a1_in1k", None, (), (tmp_path,))
    monkeypatch.setattr(catalogue, "architectures", lambda package, where="model": ("resnet18",))
    with pytest.raises(
        RecipeError, match=r"https://huggingface\.co/timm/resnet18\.a1_in1k/resolve/main/model\.safetensors"
    ):
        published.find("timm:resnet18", "a1_in1k", None, (tmp_path,), (tmp_path / "hub",))
    cached = tmp_path / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "0a1b" / "model.safetensors"
    own = tmp_path / "resnet18.a1_in1k.safetensors"
    for place in (cached, own):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"w")
        assert published.find("timm:resnet18", "a1_in1k", None, (tmp_path,), (tmp_path / "hub",)) == place


def test_a_network_of_ours_takes_files_alone(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'IMAGENET1K_V1' not found"):
        published.find("resnet8", "IMAGENET1K_V1", None, (tmp_path,), ())
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "w.pt").write_bytes(b"w")
    assert published.find("resnet8", "w.pt", None, (tmp_path,), ()) == tmp_path / "pretrained" / "w.pt"


@pytest.mark.parametrize("name", ["resnet8", "torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1"])
def test_a_classifier_of_other_classes_stays_fresh(name: str, tmp_path: Path) -> None:
    source = build(name, classes=9)
    torch.save(inner(source), tmp_path / "w.pt")
    network, fresh = build(name, seed=1), build(name, seed=1)
    assert load_weights(network, tmp_path / "w.pt", name) is False
    theirs, own = source.state_dict(), fresh.state_dict()
    head = next(path for path, module in network.named_modules() if module is network.classifier)
    for key, value in network.state_dict().items():
        assert torch.equal(value, own[key] if key.startswith(f"{head}.") else theirs[key]), key
    same = build(name, classes=9, seed=1)
    assert load_weights(same, tmp_path / "w.pt", name) is True
    assert all(torch.equal(value, theirs[key]) for key, value in same.state_dict().items())
    with pytest.raises(RecipeError, match="other shape"):  # a checkpoint to import must fit to the last key
        load_checkpoint(network, tmp_path / "w.pt", name)


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path: Path) -> None:
    torch.save(inner(build("torchvision:resnet18")), tmp_path / "w.pt")
    network, fresh = build("torchvision:shufflenet_v2_x0_5"), build("torchvision:shufflenet_v2_x0_5")
    with pytest.raises(
        RecipeError, match=r"teacher.weights: w.pt does not fit torchvision:shufflenet_v2_x0_5: missing"
    ):
        load_weights(network, tmp_path / "w.pt", "torchvision:shufflenet_v2_x0_5")
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in network.state_dict().items())


def test_auxiliary_heads_of_published_weights_are_left_out(tmp_path: Path) -> None:
    from torchvision.models import googlenet

    state = googlenet(num_classes=1000, aux_logits=True, init_weights=False).state_dict()
    assert any(key.startswith("aux1.") for key in state)
    save_file(state, tmp_path / "w.safetensors")
    network = build("torchvision:googlenet")
    assert load_weights(network, tmp_path / "w.safetensors", "torchvision:googlenet") is False
    assert torch.equal(network.state_dict()["network.conv1.conv.weight"], state["conv1.conv.weight"])


def test_densenets_published_before_its_layers_were_renamed(tmp_path: Path) -> None:
    network = build("torchvision:densenet121")
    parts = {f"{kind}{n}.": f"{kind}.{n}." for kind in ("norm", "conv") for n in (1, 2)}
    old = {}
    for key, value in inner(network).items():
        start, layer, rest = key.partition(".denselayer")
        number, _, name = rest.partition(".")
        renamed = next((name.replace(new, was, 1) for new, was in parts.items() if name.startswith(new)), name)
        old[f"{start}{layer}{number}.{renamed}" if layer else key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "w.pt")
    other = build("torchvision:densenet121", seed=1)
    assert load_weights(other, tmp_path / "w.pt", "torchvision:densenet121") is True
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in other.state_dict().items())
