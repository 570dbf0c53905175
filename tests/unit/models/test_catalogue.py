"""Names of other packages' networks, known without importing the packages."""

import subprocess
import sys

import pytest

from edgekd import models
from edgekd.errors import MissingTool, RecipeError
from edgekd.models import catalogue


def test_every_classification_network_of_torchvision_and_no_other() -> None:
    from torchvision import models as theirs

    assert set(catalogue.architectures("torchvision")) == set(theirs.list_models(module=theirs))


def test_every_network_of_timm_and_no_other() -> None:
    timm = pytest.importorskip("timm", reason="needs timm: pip install 'edgekd[timm]'")
    assert set(catalogue.architectures("timm")) == set(timm.list_models(include_tags=False))


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        (
            "torchvision:mobilenet_v3_smal",
            "no classification network 'mobilenet_v3_smal'",
            "'torchvision:mobilenet_v3_small'",
        ),
        ("torchvision:fcn_resnet50", "no classification network", "did you mean"),
        ("torchvision:", "no classification network ''", "torchvision:resnet18"),
        ("keras:resnet50", "unknown name 'keras:resnet50'", "edgekd models"),
        ("resnte20", "unknown name 'resnte20'", "'resnet20'"),
        ("resnet18.a1_in1k", "unknown name", ""),
    ],
)
def test_a_wrong_name(name, said, hint) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        models.check(name, "student.model")
    assert caught.value.where == "student.model" and hint in caught.value.hint


def test_a_package_that_is_not_installed(monkeypatch) -> None:
    monkeypatch.setattr(catalogue.util, "find_spec", lambda name: None)
    catalogue.architectures.cache_clear()
    with pytest.raises(MissingTool) as caught:
        models.check("timm:resnet18", "teacher.model")
    assert caught.value.exit_code == 5 and caught.value.hint == "pip install 'edgekd[timm]'"
    assert ("timm:<name>", "networks of timm; not installed: pip install 'edgekd[timm]'") in catalogue.describe()


def test_checking_imports_neither_torch_nor_the_package() -> None:
    code = (
        "import sys; from edgekd import models; from edgekd.models import published;"
        "models.check('torchvision:resnet18'); published.check('torchvision:resnet18', 'IMAGENET1K_V1');"
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
