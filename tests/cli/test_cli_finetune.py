"""`rebirth finetune`, in both engines."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsondocs
import numpy as np
import pytest
from cli_tools import Cli, complaint, listing
from closeness import assert_within, trained
from tiny import NET, SOLVER, TERMS, datum, make_tiny, write_lmdb

from deeprebirth_caffe.formats.solverstate import read_solverstate
from deeprebirth_caffe.ir import Net, Weights

pytest.importorskip("torch")
pytest.importorskip("lmdb")

ENGINES = ["torch", pytest.param("caffe", marks=pytest.mark.caffe)]


@pytest.fixture(autouse=True)
def _tiny(_folder: None) -> None:
    make_tiny(Path())


def log(path: str = "run.jsonl") -> list[dict[str, Any]]:
    """A log, held against its documentation."""
    found = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    for one in found:
        jsondocs.check(one, "finetune --log")
    return found


def finetune(cli: Cli, *more: object, engine: str = "torch") -> Any:
    """Runs the tiny solver."""
    return cli("finetune", "solver.prototxt", "--engine", engine, "--threads", 1, *more)


def same_weights(a: str, b: str) -> bool:
    """Whether two caffemodels hold the same numbers."""
    one, other = Weights.read(a), Weights.read(b)
    return list(one) == list(other) and all(
        np.array_equal(x, y) for name in one for x, y in zip(one[name], other[name], strict=True)
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_whole_run(cli: Cli, engine: str) -> None:
    result = finetune(cli, "--log", "run.jsonl", "--json", engine=engine)
    assert result.code == 0, result.err
    jsondocs.check(result.data, "finetune")
    found = result.data
    assert (found["engine"], found["iteration"], found["stopped"]) == (engine, 25, None)
    assert found["model"] == "snap/tiny_iter_25.caffemodel" and found["state"] == "snap/tiny_iter_25.solverstate"
    assert found["ledger"] == {"loaded": [], "left": ["fc1", "fc2"], "unused": []}
    assert found["test"]["accuracy"] >= 0.5 and found["test_iteration"] == 20
    names = {f"tiny_iter_{number}.{end}" for number in (10, 20, 25) for end in ("caffemodel", "solverstate")}
    assert names <= set(listing("snap"))
    assert all("resume" in name for name in set(listing("snap")) - names)
    lines = log()
    assert [one["iteration"] for one in lines] == list(range(25))
    assert [one["iteration"] for one in lines if "test" in one] == [0, 10, 20]
    assert lines[0]["lr"] == 0.05 and lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    said = result.err.splitlines()
    assert "no weights given: all 2 layers start from their fillers" in said
    assert any(re.fullmatch(r"iteration 5: loss [\d.]+, lr 0.05, [\d.]+ images/s, 0:\d\d left", line) for line in said)
    assert any(line.startswith("iteration 10, test: accuracy 0.") for line in said)
    assert "saved snap/tiny_iter_10.caffemodel and tiny_iter_10.solverstate" in said
    # The tests set the core type, so that the caffe program has the same.
    core = os.environ.get("OPENBLAS_CORETYPE")
    line = f"OpenBLAS kernels {core} (set by OPENBLAS_CORETYPE)"
    if engine == "caffe" and core:
        assert found["kernels"] == {"core": core, "chosen_by": "user", "openblas_picks": ""} and line in said
    else:
        assert found["kernels"] is None and line not in said


@pytest.mark.caffe
def test_the_engines_agree(cli: Cli) -> None:
    finetune(cli, "--max-iter", 1)
    for engine in ("torch", "caffe"):
        Path(f"{engine}.prototxt").write_text(SOLVER.replace("snap/tiny", f"{engine}/tiny"), encoding="utf-8")
        arguments = (f"{engine}.prototxt", "-w", "snap/tiny_iter_1.caffemodel", "--log", f"{engine}.jsonl")
        assert cli("finetune", *arguments, "--engine", engine, "--threads", 1).code == 0
    for mine, its in zip(log("torch.jsonl"), log("caffe.jsonl"), strict=True):
        assert_within("loss", its["loss"], mine["loss"], trained(25, TERMS))
        assert mine["lr"] == its["lr"] and mine["outputs"].keys() == its["outputs"].keys()
        assert mine.get("test", {}).keys() == its.get("test", {}).keys()
        for name, value in its.get("test", {}).items():
            assert_within(name, value, mine["test"][name], trained(25, TERMS))


@pytest.mark.parametrize("then", ENGINES)
@pytest.mark.parametrize("first", ENGINES)
def test_going_on_is_the_same_run(cli: Cli, first: str, then: str) -> None:
    assert finetune(cli, "--log", "whole.jsonl", engine=first).code == 0
    whole = Path("snap").rename("whole")
    assert finetune(cli, "--log", "run.jsonl", "--max-iter", 20, engine=first).code == 0
    # As if the run had been killed at iteration 17.
    with Path("run.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"iteration": 20, "lo')
    result = finetune(cli, "--log", "run.jsonl", "--resume", "snap/tiny_iter_10.solverstate", "--json", engine=then)
    assert result.code == 0, result.err
    jsondocs.check(result.data, "finetune")
    assert (result.data["start"], result.data["resumed"]) == (10, "snap/tiny_iter_10.solverstate")
    for mine, its in zip(log(), log("whole.jsonl"), strict=True):
        assert mine["iteration"] == its["iteration"]
        assert_within("loss", its["loss"], mine["loss"], trained(25, TERMS))
    if first == then == "torch":
        assert same_weights("snap/tiny_iter_25.caffemodel", str(whole / "tiny_iter_25.caffemodel"))


def test_weights_are_found_and_counted(cli: Cli) -> None:
    finetune(cli, "--max-iter", 1)
    Path("snap/tiny_iter_1.caffemodel").rename("init.caffemodel")
    said = finetune(cli, "--max-iter", 1, "--force").err.splitlines()
    assert "weights init.caffemodel (beside the solver): 2 layers loaded" in said
    Path("net.prototxt").write_text(NET.replace('"fc2"', '"fc3"'), encoding="utf-8")
    said = finetune(cli, "--max-iter", 1, "--force", "-w", "init.caffemodel").err.splitlines()
    assert "weights init.caffemodel (-w): 1 layer loaded" in said
    assert "left at their fillers: fc3" in said and "in the file and not used: fc2" in said
    Path("init.caffemodel").rename("named.caffemodel")
    Path("solver.prototxt").write_text(SOLVER + 'weights: "named.caffemodel"\n', encoding="utf-8")
    said = finetune(cli, "--max-iter", 1, "--force").err.splitlines()
    assert "weights named.caffemodel (the solver names them): 1 layer loaded" in said


def test_max_iter_takes_the_place_of_the_solvers(cli: Cli) -> None:
    text = SOLVER.replace('"fixed"', '"poly" power: 1').replace('snapshot_prefix: "snap/tiny" ', "")
    Path("solver.prototxt").write_text(text, encoding="utf-8")
    assert finetune(cli, "--max-iter", 4, "--log", "run.jsonl").code == 0
    # The policy "poly" reaches 0 at max_iter; without snapshot_prefix the solver lends its name.
    assert [one["lr"] for one in log()] == pytest.approx([0.05, 0.0375, 0.025, 0.0125])
    assert Path("solver_iter_4.caffemodel").is_file()


def test_started_elsewhere(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("models").mkdir()
    Path("solver.prototxt").rename("models/solver.prototxt")
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    result = cli("finetune", "../models/solver.prototxt", "--engine", "torch", "--threads", 1, "--max-iter", 2)
    assert result.code == 0, result.err
    top = Path("..").resolve()
    assert result.err.splitlines()[0] == f"paths in ../models/solver.prototxt start in {top}"
    assert (top / "snap" / "tiny_iter_2.caffemodel").is_file() and not listing()


def test_auto_says_which_engine(cli: Cli) -> None:
    result = cli("finetune", "solver.prototxt", "--max-iter", 1, "--threads", 1)
    first = result.err.splitlines()[0]
    small = "predicted faster on a net this small"
    said = rf"engine caffe: {small}: [\d.]+ k multiply-adds an iteration, \d+ layers"
    assert re.fullmatch(said, first) or first == f"engine torch: Caffe, {small}, is not installed"


@pytest.mark.caffe
def test_auto_takes_caffe_for_what_torch_does_not_run(cli: Cli) -> None:
    python = 'layer { name: "py" type: "Python" bottom: "fc1" top: "py" python_param { module: "m" layer: "L" } }\n'
    text = NET.replace(
        'name: "fc2" type: "InnerProduct" bottom: "fc1"', 'name: "fc2" type: "InnerProduct" bottom: "py"'
    )
    at = text.index('layer { name: "fc2"')
    Path("net.prototxt").write_text(text[:at] + python + text[at:], encoding="utf-8")
    result = cli("finetune", "solver.prototxt", "--max-iter", 2, "--threads", 1)
    assert result.err.splitlines()[0] == 'engine caffe: the embedded engine does not run layer "py" of type Python'
    said = complaint(finetune(cli), 1)
    assert said == 'the embedded engine cannot be used: it does not run layer "py" of type Python'


PYTHON_LAYER = """
import caffe
from factors import FACTORS

class Scaled(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = FACTORS[self.param_str]

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.factor * top[0].diff
"""


@pytest.mark.caffe
def test_python_layers(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their modules are found where the net's paths start, and on PYTHONPATH; they do what a layer of Caffe does."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "factors.py").write_text("FACTORS = {'two': 2.0}\n", encoding="utf-8")
    at = NET.index('layer { name: "fc2"')
    scaled, results = NET.replace('type: "InnerProduct" bottom: "fc1"', 'type: "InnerProduct" bottom: "py"'), []
    for kind in (
        'type: "Power" power_param { scale: 2 }',
        'type: "Python" python_param { module: "scaled" layer: "Scaled" param_str: "two" }',
    ):
        layer = f'layer {{ name: "py" {kind} bottom: "fc1" top: "py" }}\n'
        Path("net.prototxt").write_text(scaled[:at] + layer + scaled[at:], encoding="utf-8")
        if "Python" in kind:
            said = last_line(finetune(cli, "--max-iter", 12, "--force", engine="caffe"), 3)
            assert f'{Path.cwd()}/net.prototxt: layer "py" of type Python runs code in real Caffe' in said
            assert "REBIRTH_PYTHON_LAYERS" not in os.environ
            words = ("finetune", "solver.prototxt", "--engine", "caffe", "--python-layers", "--max-iter", 1, "--force")
            assert "Python module 'scaled' cannot be imported" in last_line(cli(*words), 1)
            assert "REBIRTH_PYTHON_LAYERS" not in os.environ
            monkeypatch.setenv("REBIRTH_PYTHON_LAYERS", "1")
            said = last_line(finetune(cli, "--max-iter", 12, "--force", engine="caffe"), 1)
            assert said.startswith(
                "Caffe, open_solver: layer 'py': its Python module 'scaled' cannot be imported (ModuleNotFoundError: "
                f"No module named 'scaled'); looked for in {Path.cwd()}"
            )
            Path("scaled.py").write_text(PYTHON_LAYER, encoding="utf-8")
            monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/nowhere:{tmp_path}/library:")
        trained = finetune(cli, "--max-iter", 12, "--force", "--json", engine="caffe")
        assert trained.code == 0, trained.err
        tested = cli(
            "test", "net.prototxt", "-w", trained.data["model"], "--engine", "caffe", "--iterations", "all", "--json"
        )
        assert tested.code == 0, tested.err
        monkeypatch.chdir(tmp_path)  # the paths start where the net is
        far = cli("test", "work/net.prototxt", "-w", f"work/{trained.data['model']}", "--engine", "caffe", "--json")
        assert far.code == 0, far.err
        monkeypatch.chdir("work")
        results.append((trained.data["loss"], trained.data["test"], tested.data["outputs"], far.data["outputs"]))
    assert results[0] == results[1]


# ------------------------------------------------------------ what is found before it starts


def replace(file: str, old: str, new: str) -> None:
    """Changes a text."""
    path = Path(file)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def last_line(result: Any, code: int) -> str:
    """The one error of a command that had something to say before."""
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert (result.code, result.out, len(errors)) == (code, "", 1) and "Traceback" not in result.err, result
    assert result.err.splitlines()[-1] == errors[0]
    return errors[0].removeprefix("error: ")


def spoil(what: str) -> None:
    """Breaks one thing."""
    if what == "a net for a solver":
        Path("net.prototxt").replace("solver.prototxt")
    elif what == "no net":
        Path("net.prototxt").unlink()
    elif what == "unsound":
        replace(
            "net.prototxt", 'bottom: "fc2" bottom: "label" top: "loss"', 'bottom: "fc9" bottom: "label" top: "loss"'
        )
    elif what == "no max_iter":
        replace("solver.prototxt", "max_iter: 25", "")
    elif what == "no source":
        Path("train_lmdb/data.mdb").unlink()
        Path("train_lmdb/lock.mdb").unlink()
        Path("train_lmdb").rmdir()
    elif what == "empty source":
        for name in ("data.mdb", "lock.mdb"):
            Path("test_lmdb", name).unlink()
        write_lmdb(Path("test_lmdb"), [])
    elif what == "truncated source":
        data = Path("train_lmdb/data.mdb")
        data.write_bytes(data.read_bytes()[:9000])
    elif what == "no database":
        Path("train_lmdb/data.mdb").write_bytes(b"something else" * 1000)
    elif what == "no batch size":
        replace("net.prototxt", "batch_size: 8", "")
    elif what == "a label too high":
        random = np.random.default_rng(0)
        for name in ("data.mdb", "lock.mdb"):
            Path("train_lmdb", name).unlink()
        records = [datum(index % 4, random) for index in range(8)]
        records[6].label = 4
        write_lmdb(Path("train_lmdb"), [one.SerializeToString() for one in records])
    elif what == "a file in the way":
        Path("snap").write_text("", encoding="utf-8")
    else:
        raise AssertionError(what)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("a net for a solver", "solver.prototxt: this is a net; finetune wants a solver"),
        ("no net", "solver.prototxt: net names net.prototxt, which is not there"),
        ("unsound", 'layer "loss" reads blob "fc9", which no layer produces'),
        ("no max_iter", "max_iter is 0: nothing to train"),
        ("no source", 'layer "data" (Data): train_lmdb: '),
        ("empty source", 'layer "data" (Data): test_lmdb: this LMDB is empty'),
        ("truncated source", 'layer "data" (Data): train_lmdb: truncated'),
        ("no database", 'layer "data" (Data): train_lmdb: '),
        ("no batch size", 'layer "data" (Data): batch_size must be given and positive'),
        ("a label too high", 'record 00000006 has label 4, and "loss" knows 4 classes, 0 to 3'),
        ("a file in the way", "snap"),
    ],
)
def test_what_is_wrong_is_said_before_it_starts(cli: Cli, engine: str, what: str, said: str) -> None:
    spoil(what)
    result = finetune(cli, "--json", engine=engine)
    error = last_line(result, 1)
    assert said in error
    assert ("; paths start in /" in error) == (what == "no source")
    assert not any(line.startswith("training:") for line in result.err.splitlines())
    assert "snap" not in listing() or what == "a file in the way"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"fixed"', '"cosine"', 'solver.prototxt: unknown lr_policy "cosine"; there is fixed,'),
        ('"fixed"', '"step"', 'solver.prototxt: lr_policy "step" needs a stepsize above 0'),
        ("display", 'type: "Muon" display', 'solver.prototxt: unknown solver type "Muon"; there is AdaDelta,'),
        ("display", 'type: "RMSProp" display', "solver.prototxt: solver type RMSProp takes no momentum"),
    ],
)
def test_a_wrong_solver_is_named_as_it_was_typed(cli: Cli, engine: str, old: str, new: str, said: str) -> None:
    replace("solver.prototxt", old, new)
    result = finetune(cli, "--max-iter", 3, engine=engine)  # so that a copy of the solver would be run
    assert last_line(result, 1).startswith(said)
    assert "training:" not in result.err and "snap" not in listing()


@pytest.mark.parametrize("engine", ENGINES)
def test_hdf5_snapshots_without_h5py(cli: Cli, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    replace("solver.prototxt", "display", "snapshot_format: HDF5 display")
    monkeypatch.setitem(sys.modules, "h5py", None)
    result = finetune(cli, "--max-iter", 3, engine=engine)
    said = last_line(result, 1)
    assert said.startswith("solver.prototxt: HDF5 files need h5py: pip install '")
    assert "training:" not in result.err and "snap" not in listing()


def test_names_that_hdf5_cannot_hold(cli: Cli) -> None:
    replace("solver.prototxt", "display", "snapshot_format: HDF5 display")
    replace("net.prototxt", 'name: "fc1"', 'name: "fc/1"')
    said = last_line(finetune(cli, "--max-iter", 3), 1)
    assert said.startswith("solver.prototxt: Caffe cannot keep layer 'fc/1' in HDF5")


def test_a_pipe_is_read_once_only(cli: Cli) -> None:
    os.mkfifo("pipe")
    for command in (("finetune", "pipe"), ("test", "pipe", "-w", "net.prototxt")):
        said = "pipe: this is a pipe or a device, and it is read more than once; save it as a file"
        assert complaint(cli(*command), 1) == said


def test_one_is_no_plural(cli: Cli) -> None:
    at = NET.index('layer { name: "relu1"'), NET.index('layer { name: "accuracy"')
    text = (NET[: at[0]] + NET[at[1] :]).replace('bottom: "fc2"', 'bottom: "fc1"')
    Path("net.prototxt").write_text(text, encoding="utf-8")
    said = finetune(cli, "--max-iter", 1).err.splitlines()
    assert "no weights given: 1 layer starts from its fillers" in said


@pytest.mark.parametrize(
    ("iterations", "words"),
    [
        (20, r"20 of 20 iterations, train loss [\d.e-]+, test accuracy [\d.]+, [\d.]+ images/s"),
        (13, r"13 of 13 iterations, train loss [\d.e-]+ \(test at iteration 10: accuracy [\d.]+\), [\d.]+ images/s"),
    ],
)
def test_the_last_line_says_what_was_tested_when(cli: Cli, iterations: int, words: str) -> None:
    assert re.fullmatch(f"torch: {words}", finetune(cli, "--max-iter", iterations).out.splitlines()[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_going_back_says_what_is_written_again(cli: Cli, engine: str) -> None:
    finetune(cli)
    assert Path("snap/tiny_iter_20.solverstate.resume").is_file()
    result = finetune(cli, "--resume", "snap/tiny_iter_10.solverstate", engine=engine)
    assert result.code == 0, result.err
    again = "snap/tiny_iter_20.solverstate, snap/tiny_iter_25.solverstate"
    assert f"snapshots after iteration 10 of this run will be written again: {again}" in result.err.splitlines()
    # What says where the data of the embedded engine were belongs to its own snapshots alone.
    assert Path("snap/tiny_iter_10.solverstate.resume").is_file()
    assert Path("snap/tiny_iter_20.solverstate.resume").is_file() == (engine == "torch")
    for name in ("tiny_iter_20.solverstate", "tiny_iter_25.solverstate"):
        Path("snap", name).unlink()
    assert "written again" not in finetune(cli, "--resume", "snap/tiny_iter_10.solverstate").err


def test_what_does_not_belong_together(cli: Cli) -> None:
    finetune(cli, "--max-iter", 12)
    state, model = "snap/tiny_iter_10.solverstate", "snap/tiny_iter_10.caffemodel"
    for more, code, said in (
        (("--resume", model), 1, "these are weights, not a solverstate"),
        (("-w", state), 1, "tiny_iter_10.solverstate: "),
        (("--resume", state, "-w", model), 2, "-w and --resume exclude each other"),
        (("--resume", state, "--max-iter", 10), 1, "10 iterations done, and max_iter is 10; raise it (--max-iter)"),
        ((), 1, "snap/tiny_iter_10.caffemodel (and 1 more): an older run's snapshot, which this run would write over"),
        (("--device", "cuda", "--force"), 1, "CUDA"),
        (("--max-iter", 0), 2, "0 is not in the range"),
        (("--engine", "caffe", "--precision", "bf16"), 2, "--precision is the embedded engine's"),
        (("--log", "solver.prototxt", "--force"), 1, "solver.prototxt: this command reads solver.prototxt"),
    ):
        before = {name: Path("snap", name).read_bytes() for name in listing("snap")}
        if "cuda" in more:
            torch = pytest.importorskip("torch")
            if torch.cuda.is_available():
                continue
        assert said in last_line(finetune(cli, *more), code)
        assert {name: Path("snap", name).read_bytes() for name in listing("snap")} == before
    Path(model).unlink()
    assert "its weights are missing" in last_line(finetune(cli, "--resume", state), 1)


def test_a_state_of_another_net(cli: Cli) -> None:
    finetune(cli, "--max-iter", 10)
    replace("net.prototxt", "num_output: 8", "num_output: 9")
    said = last_line(finetune(cli, "--resume", "snap/tiny_iter_10.solverstate"), 1)
    assert "array 0 of its history is 8x64 where this net has 9x64" in said
    replace("net.prototxt", "num_output: 9", "num_output: 8")
    replace("solver.prototxt", "base_lr", 'type: "Adam" base_lr')
    said = last_line(finetune(cli, "--resume", "snap/tiny_iter_10.solverstate"), 1)
    assert "holds 4 arrays where a Adam solver of this net has 8" in said


def test_weights_of_another_net(cli: Cli) -> None:
    finetune(cli, "--max-iter", 1)
    replace("net.prototxt", "num_output: 8", "num_output: 9")
    said = last_line(finetune(cli, "-w", "snap/tiny_iter_1.caffemodel", "--force"), 1)
    assert "fc1 wants 9x64 + 9 and the file has 8x64 + 8" in said


def test_force_leaves_no_snapshot_of_an_older_run(cli: Cli) -> None:
    finetune(cli)
    others = ("tiny_iter_9.caffemodel.h5", "tiny_iter_x.caffemodel", "tiny2_iter_9.caffemodel")
    for name in others:
        Path("snap", name).touch()
    before = listing("snap")
    for iteration in (10, 20):
        said = last_line(finetune(cli, "--max-iter", 5, "--force", "-w", f"snap/tiny_iter_{iteration}.caffemodel"), 1)
        assert f"this command reads snap/tiny_iter_{iteration}.caffemodel, and would replace or remove it" in said
    assert listing("snap") == before
    # Without --force all stays, and that is said, where nothing would be written over.
    said = finetune(cli, "--max-iter", 5).err
    assert "snapshots of an older run stay there: snap/tiny_iter_10.caffemodel" in said
    assert set(before) < set(listing("snap"))
    assert (
        "removed, for they are an older run's: snap/tiny_iter_10.caffemodel"
        in finetune(cli, "--max-iter", 6, "--force").err
    )
    made = ["tiny_iter_6.caffemodel", "tiny_iter_6.solverstate", "tiny_iter_6.solverstate.resume"]
    assert listing("snap") == sorted([*made, *others[1:]])


def test_weights_beside_a_solver_that_a_manifest_does_not_list(cli: Cli) -> None:
    finetune(cli, "--max-iter", 1)
    Path("snap/tiny_iter_1.caffemodel").rename("init.caffemodel")
    outputs = {"directory": ".", "net": "net.prototxt", "solver": "solver.prototxt", "manifest": "manifest.json"}
    for more, started in (({}, False), ({"weights": "init.caffemodel"}, True)):
        text = json.dumps({"rebirth": "0", "outputs": {**outputs, **more}})
        Path("manifest.json").write_text(text, encoding="utf-8")
        said = finetune(cli, "--max-iter", 1, "--force").err
        assert ("init.caffemodel (beside the solver)" in said) is started


# ------------------------------------------------------------ what happens while it runs


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_explodes(cli: Cli, engine: str) -> None:
    finetune(cli, "--max-iter", 10, engine=engine)
    good = {name: Path("snap", name).read_bytes() for name in listing("snap")}
    replace("solver.prototxt", "base_lr: 0.05", "base_lr: 1e30")
    result = finetune(cli, "--resume", "snap/tiny_iter_10.solverstate", "--log", "run.jsonl", engine=engine)
    said = last_line(result, 1)
    assert re.match(r"iteration 1\d: the (loss is no number|weights of layer)", said)
    assert "lower base_lr (1e+30 now) in solver.prototxt" in said and "tiny_iter_10.solverstate" in said
    assert {name: Path("snap", name).read_bytes() for name in listing("snap")} == good
    log()


def test_weights_that_explode_at_the_end_are_not_saved(cli: Cli) -> None:
    replace("solver.prototxt", "base_lr: 0.05", "base_lr: 1e38")
    replace("net.prototxt", 'bottom: "data" top: "fc1"', 'bottom: "data" top: "fc1" param { lr_mult: 1000 }')
    said = last_line(finetune(cli, "--max-iter", 1), 1)
    assert "NaN or infinite" in said and not [name for name in listing("snap") if name.endswith(("model", "state"))]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_record_that_is_broken_far_behind(cli: Cli, engine: str) -> None:
    random = np.random.default_rng(0)
    for name in ("data.mdb", "lock.mdb"):
        Path("train_lmdb", name).unlink()
    records = [datum(index % 4, random).SerializeToString() for index in range(40)]
    records[30] = datum(1, random).SerializeToString()[:20]
    write_lmdb(Path("train_lmdb"), records)
    said = last_line(finetune(cli, engine=engine), 1)
    assert said.startswith('layer "data": train_lmdb: record 00000030 is damaged')
    assert "snap" not in listing()


def start(*more: object, engine: str = "torch", max_iter: int = 10**6) -> subprocess.Popen[bytes]:
    """A long run as a process of its own, whose log has begun when this returns."""
    command = [sys.executable, "-m", "deeprebirth_caffe.cli", "finetune", "solver.prototxt", "--engine", engine]
    command += ["--threads", "1", "--max-iter", str(max_iter), "--log", "run.jsonl", *map(str, more)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(6000):
        if Path("run.jsonl").exists() and Path("run.jsonl").stat().st_size > 3000:
            return process
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    raise AssertionError("it does not start")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(cli: Cli, engine: str, number: int, code: int) -> None:
    process = start("--json", engine=engine)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    found = json.loads(out)
    jsondocs.check(found, "finetune")
    assert found["stopped"] == signal.Signals(number).name
    last = err.decode().splitlines()[-1]
    assert last.startswith(f"stopped by {found['stopped']} after {found['iteration']} iterations; go on with: rebirth ")
    words = shlex.split(last.partition("go on with: rebirth ")[2])
    assert words[:4] == ["finetune", "solver.prototxt", "--resume", found["state"]]
    assert read_solverstate(found["state"]).iteration == found["iteration"]
    words[words.index("--max-iter") + 1] = str(found["iteration"] + 3)
    result = cli(*words)
    assert result.code == 0, result.err
    assert [one["iteration"] for one in log()] == list(range(found["iteration"] + 3))


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from deeprebirth_caffe.cli import main
from deeprebirth_caffe.engines.torch import solver
from deeprebirth_caffe.engines.torch.layers.base import made_types

made_types()
torch.set_num_threads(1)
random = random.Random(5)

def latest():
    states = sorted(Path("snap").glob("*.solverstate"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return states[-1] if states else None

def grown():
    global size
    before, size = size, os.stat("run.jsonl").st_size if os.path.exists("run.jsonl") else 0
    return size > before

size = 0

def run(end):
    state = latest()
    more = ["--resume", str(state)] if state else []
    sys.stdout = sys.stderr = open(os.devnull, "w")
    main(["finetune", "solver.prototxt", "--engine", "torch", "--log", "run.jsonl", "--max-iter", str(end), *more])

for kill in range(20):
    child = os.fork()
    if not child:
        run(100000)
        os._exit(0)
    began = time.monotonic()
    while time.monotonic() - began < 20 and not grown():
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(latest(), flush=True)
state = latest()
done = int(state.stem.rpartition("_")[2]) if state else 0
print(done + 7)
run(done + 7)
"""


def test_kill_9_at_any_moment(cli: Cli) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *states, end = done.stdout.split()
    numbers = [0 if state == "None" else int(Path(state).stem.rpartition("_")[2]) for state in states]
    # Nothing that was saved is ever lost, and everything there is whole.
    assert len(numbers) == 20 and numbers == sorted(numbers) and numbers[-1] > 0
    for path in Path("snap").glob("*.solverstate"):
        assert Weights.read(read_solverstate(path).learned_net).finite("fc1")
    assert [one["iteration"] for one in log()] == list(range(int(end)))
    # It is the run that it would have been without a kill, to the bit.
    Path("snap").rename("killed")
    assert finetune(cli, "--max-iter", end, "--log", "whole.jsonl").code == 0
    assert same_weights(f"killed/tiny_iter_{end}.caffemodel", f"snap/tiny_iter_{end}.caffemodel")
    assert [one["loss"] for one in log()] == [one["loss"] for one in log("whole.jsonl")]


def test_what_a_killed_run_left_goes(cli: Cli) -> None:
    Path("snap").mkdir()
    for name in (".tiny_iter_9.caffemodel.0a1b2c3d.tmp", ".other_iter_9.caffemodel.0a1b2c3d.tmp"):
        Path("snap", name).write_bytes(b"half")
    assert finetune(cli, "--max-iter", 1).code == 0
    assert [name for name in listing("snap") if name.startswith(".")] == [".other_iter_9.caffemodel.0a1b2c3d.tmp"]


@pytest.mark.parametrize("engine", ENGINES)
def test_snapshots_in_hdf5(cli: Cli, engine: str) -> None:
    pytest.importorskip("h5py")
    replace("solver.prototxt", "display: 5", "display: 5 snapshot_format: HDF5")
    result = finetune(cli, "--max-iter", 12, "--json", engine=engine)
    assert result.code == 0, result.err
    assert result.data["state"] == "snap/tiny_iter_12.solverstate.h5"
    result = finetune(cli, "--resume", "snap/tiny_iter_10.solverstate.h5", "--max-iter", 14, "--json", engine=engine)
    assert result.code == 0 and result.data["model"] == "snap/tiny_iter_14.caffemodel.h5"


FULL = """
import resource
from deeprebirth_caffe.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
main(["finetune", "solver.prototxt", "--engine", "torch", "--threads", "1", "--log", "run.jsonl"])
"""


def test_no_room_for_snapshots(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    replace("net.prototxt", "num_output: 8", "num_output: 800")
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert [line[:28] for line in lines if line.startswith("no snapshot")] == [
        "no snapshot at iteration 10:",
        "no snapshot at iteration 20:",
    ]
    assert lines[-1].startswith("error: iteration 25 is not saved: ") and "File too large" in lines[-1]
    assert listing("snap") == [] and len(log()) == 25
    # A disk that is full before it starts is no disk to start on.
    usage = type("usage", (), {"total": 10**6, "used": 10**6, "free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "snap: a snapshot needs 2 MiB and 0 MiB are free; make room" in last_line(finetune(cli, "--force"), 1)


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="there is no /dev/full here")
def test_a_log_on_a_full_disk(cli: Cli) -> None:
    result = finetune(cli, "--max-iter", 3, "--log", "/dev/full")
    said = last_line(result, 1)
    assert "--log /dev/full: cannot write it: No space left on device" in said
    assert Path("snap/tiny_iter_3.solverstate").is_file()


@pytest.mark.parametrize("engine", ENGINES)
def test_data_where_we_are_and_a_solver_elsewhere(cli: Cli, engine: str) -> None:
    """As `rebirth test` finds it: what a net names is looked for on its own, wherever the solver lies."""
    Path("zoo").mkdir()
    for name in ("net.prototxt", "solver.prototxt"):
        Path(name).rename(Path("zoo", name))
    more = ("--engine", engine, "--threads", 1, "--max-iter", 11)
    result = cli("finetune", "zoo/solver.prototxt", *more)
    assert result.code == 0, result.err
    assert "start in the working directory" in result.err and "start in the zoo" not in result.err
    assert "tiny_iter_11.caffemodel" in listing("zoo/snap") and not Path("snap").exists()
    assert cli("finetune", "zoo/solver.prototxt", *more).code == 1, "an older run's snapshots are found there too"
    state = "zoo/snap/tiny_iter_10.solverstate"
    assert cli("finetune", "zoo/solver.prototxt", *more, "--resume", state).code == 0


def test_what_a_changed_net_would_go_on_with_at_random(cli: Cli) -> None:
    finetune(cli, "--max-iter", 12)
    text = Path("net.prototxt").read_text(encoding="utf-8")
    name = next(layer.name for layer in Net.read("net.prototxt").layers if layer.op is not None and layer.op.tensor)
    Path("net.prototxt").write_text(text.replace(f'name: "{name}"', 'name: "renamed"'), encoding="utf-8")
    result = finetune(cli, "--resume", "snap/tiny_iter_10.solverstate", "--max-iter", 20)
    said = result.err.splitlines()[-1]
    assert (
        result.code == 1
        and "has nothing for 1 layer of the training net (renamed)" in said
        and "-w snap/tiny_iter_10.caffemodel" in said
    )


def test_weights_of_a_run_that_was_ended_while_it_saved(cli: Cli) -> None:
    finetune(cli, "--max-iter", 12)
    for path in Path("snap").glob("*.solverstate*"):
        path.unlink()
    result = finetune(cli, "--max-iter", 12)
    said = result.err.splitlines()[-1]
    assert (
        result.code == 1
        and "tiny_iter_10.caffemodel: weights of an older run without their solverstate" in said
        and "--force" in said
    )
    assert finetune(cli, "--max-iter", 12, "--force").code == 0
