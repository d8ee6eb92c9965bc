"""`import deeprebirth_caffe as rebirth`: what programs may use."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import api_docs
import pytest

import deeprebirth_caffe as rebirth
from deeprebirth_caffe import zoo
from deeprebirth_caffe.options.fields import leaves

ROOT = Path(__file__).parents[2]


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A net and its weights where the examples look for them."""
    monkeypatch.chdir(tmp_path)
    zoo.write("googlenet28", tmp_path / "googlenet28")
    (tmp_path / "googlenet28.caffemodel").write_bytes((ROOT / "examples" / "googlenet28.caffemodel").read_bytes())
    return Path("googlenet28/train_val.prototxt")


def test_the_reference_is_up_to_date() -> None:
    text = api_docs.PAGE.read_text(encoding="utf-8")
    assert text == api_docs.written(text), "python scripts/api_docs.py brings docs/api.md up to date"


def test_the_example_runs(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", api_docs.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    exec(compile(code[1], "docs/api.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "there is no option max_iterations; did you mean max_iter?"
    assert "<svg" in Path("merged.html").read_text()


def test_every_function_has_the_options_of_its_command() -> None:
    functions = {name for name in rebirth.__all__ if inspect.isfunction(getattr(rebirth, name))}
    assert functions - {"load", "read_solver"} == api_docs.OPTIONS.keys()
    for name, model in api_docs.OPTIONS.items():
        needed = {leaf.option.name for leaf in leaves(model) if leaf.option.needed and not leaf.lent}
        parameters = inspect.signature(getattr(rebirth, name)).parameters
        assert needed <= parameters.keys(), name


def test_the_command_line_starts_without_it() -> None:
    code = "import sys, deeprebirth_caffe.cli; print('deeprebirth_caffe.api' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_importing_it_starts_no_engine() -> None:
    code = "import sys, deeprebirth_caffe as r; r.convert; print({'torch', 'onnx', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"maxiter": 3}, "there is no option maxiter; did you mean max_iter?"),
        ({"max_iter": 0}, "max_iter: 0 is not in the range from 1 to 2147483647"),
        ({"max_iter": "3"}, "max_iter: 'str' object cannot be interpreted as an integer"),
        ({"base_lr": float("inf")}, "base_lr: inf is out of range"),
        ({"bn": "keep"}, "bn: 'keep' is none of fold, prune"),
        ({"paper": 1}, "paper: 1 is neither True nor False"),
        ({"weights": "gone"}, "weights: gone does not exist"),
        ({"weights": "googlenet28"}, "weights: googlenet28 is a directory"),
        ({"input_shapes": {}}, "there is no option input_shapes; did you mean input_shape?"),
        ({"reduce": ["conv2=2"]}, "reduce: 'conv2=2' is not a ratio above 0 and at most 1, nor PATTERN=ratio"),
    ],
)
def test_options_that_are_wrong(net: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(rebirth.UsageError) as raised:
        rebirth.convert(net, **options)
    assert str(raised.value) == said


def test_options_have_their_meaning_of_the_command_line(net: Path) -> None:
    manifest = rebirth.convert(
        net, reduce=[("", 0.25)], input_shape={"data": (1, 28, 28)}, no_branch=True, dry_run=True, kernel="receptive"
    )
    assert {rewrite.pass_ for rewrite in manifest.rewrites} == {"pool-to-stride", "remove-lrn"}
    assert not Path("googlenet28/train_val-rebirth").exists()


def test_names_that_are_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tensor'"):
        _ = rebirth.tensor
    assert set(rebirth.__all__) <= set(dir(rebirth))
    assert "torch" not in sys.modules or rebirth.__version__
