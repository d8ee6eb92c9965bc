"""One engine goes on where the other stopped, from the files that both write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from closeness import assert_within, between
from nvcaffe import raw_model, raw_state
from solvers import HISTORIES, NET, TERMS, assert_as_far, caffe_train, snapshot_arrays, write_net, write_state

from deeprebirth_caffe.engines.base import Trainer
from deeprebirth_caffe.engines.caffe.engine import CaffeEngine
from deeprebirth_caffe.engines.caffe.locate import CaffeInstall
from deeprebirth_caffe.engines.torch.engine import TorchEngine
from deeprebirth_caffe.formats.solverstate import read_solverstate

FORMATS = ("BINARYPROTO", "HDF5")


def _solver(kind: str, form: str, extra: str = "") -> str:
    momentum = "" if kind in ("AdaGrad", "RMSProp") else "momentum: 0.9"
    return (
        f'net: "net.prototxt" type: "{kind}" base_lr: 0.02 {momentum} lr_policy: "multistep" gamma: 0.5 stepvalue: 2 '
        f"stepvalue: 4 max_iter: 6 weight_decay: 0.01 iter_size: 3 solver_mode: CPU snapshot_format: {form} "
        f'snapshot_prefix: "PREFIX" {extra}\n'
    )


@contextmanager
def _trainer(
    name: str, install: CaffeInstall, folder: Path, solver: str, resume: Path | None = None
) -> Iterator[Trainer]:
    engine = TorchEngine(seed=1) if name == "torch" else CaffeEngine(install, threads=1)
    with engine.trainer(folder / solver, resume=resume, root=folder) as trainer:
        yield trainer


def _write(folder: Path, kind: str, form: str, extra: str = "") -> Path:
    """Net, a solver for each engine and for who goes on, and a snapshot to begin with."""
    write_net(folder, records=6)
    for prefix in ("caffe", "torch", "next"):
        (folder / f"{prefix}.prototxt").write_text(_solver(kind, form, extra).replace("PREFIX", prefix))
    return write_state(folder, 0, kind, hdf5=form == "HDF5")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", HISTORIES)
@pytest.mark.parametrize("first", ["caffe", "torch"])
def test_the_other_engine_goes_on(
    first: str, kind: str, form: str, caffe_install: CaffeInstall, tmp_path: Path
) -> None:
    """Three iterations in one engine, two in the other: losses, rates, weights and history as without the break.

    The data layer then stands in the middle of its file, and lr_policy "multistep" between two steps.
    """
    second = "torch" if first == "caffe" else "caffe"
    begin = _write(tmp_path, kind, form)
    end = ".h5" if form == "HDF5" else ""
    with _trainer(first, caffe_install, tmp_path, f"{first}.prototxt", begin) as trainer:
        for _ in range(3):
            trainer.step()
        trainer.snapshot()
        wanted = [trainer.step() for _ in range(2)]
        trainer.snapshot()
    with _trainer(
        second, caffe_install, tmp_path, "next.prototxt", tmp_path / f"{first}_iter_3.solverstate{end}"
    ) as trainer:
        assert trainer.iteration == 3
        assert not trainer.notes
        steps = [trainer.step() for _ in range(2)]
        trainer.snapshot()
    assert [(one.iteration, one.lr) for one in steps] == [(one.iteration, one.lr) for one in wanted]
    # Two iterations of three batches.
    assert_within("losses", [one.loss for one in wanted], [one.loss for one in steps], between(6 * TERMS))
    mine = snapshot_arrays(tmp_path, "next", 5, end)
    theirs = snapshot_arrays(tmp_path, first, 5, end)
    assert_as_far(mine, theirs, 6)
    states = [read_solverstate(tmp_path / f"{name}_iter_5.solverstate{end}") for name in ("next", first)]
    assert states[0].current_step == states[1].current_step == 2


@pytest.mark.parametrize("form", FORMATS)
def test_a_snapshot_saved_anew_by_caffe_is_the_same(form: str, caffe_install: CaffeInstall, tmp_path: Path) -> None:
    """Other bytes, the same contents; the state of our data goes, and the data is found again by counting."""
    begin = _write(tmp_path, "Nesterov", form)
    end = ".h5" if form == "HDF5" else ""
    with _trainer("torch", caffe_install, tmp_path, "torch.prototxt", begin) as trainer:
        trainer.step()
        saved = trainer.snapshot()
        wanted = trainer.step().loss
    before = saved.model.read_bytes()
    with _trainer("caffe", caffe_install, tmp_path, "torch.prototxt", saved.state) as trainer:
        assert trainer.snapshot() == saved
    assert saved.model.read_bytes() != before
    assert not (tmp_path / f"torch_iter_1.solverstate{end}.resume").exists()
    with _trainer("torch", caffe_install, tmp_path, "torch.prototxt", saved.state) as trainer:
        assert not trainer.notes
        assert trainer.step().loss == wanted


@pytest.mark.parametrize("form", FORMATS)
def test_the_caffe_program_goes_on(form: str, caffe_install: CaffeInstall, tmp_path: Path) -> None:
    """`caffe train --snapshot` takes our snapshot as its own, and we take what it leaves."""
    begin = _write(tmp_path, "Adam", form)
    end = ".h5" if form == "HDF5" else ""
    with _trainer("torch", caffe_install, tmp_path, "torch.prototxt", begin) as trainer:
        # Two iterations of three batches: the file of three begins anew, as Caffe's data layer does when it starts.
        for _ in range(2):
            trainer.step()
        trainer.snapshot()
    caffe_train(caffe_install, tmp_path, "next.prototxt", "--snapshot", f"torch_iter_2.solverstate{end}")
    with _trainer(
        "torch", caffe_install, tmp_path, "torch.prototxt", tmp_path / f"torch_iter_2.solverstate{end}"
    ) as one:
        for _ in range(4):
            one.step()
        one.snapshot()
    mine, caffes = snapshot_arrays(tmp_path, "torch", 6, end), snapshot_arrays(tmp_path, "next", 6, end)
    assert_as_far(mine, caffes, 12)
    with _trainer(
        "torch", caffe_install, tmp_path, "torch.prototxt", tmp_path / f"next_iter_6.solverstate{end}"
    ) as one:
        assert one.iteration == 6


@pytest.mark.parametrize("first", ["caffe", "torch"])
def test_test_nets_go_on_too(first: str, caffe_install: CaffeInstall, tmp_path: Path) -> None:
    """The test net's data is moved by the tests that were run; scores agree, one element or many."""
    second = "torch" if first == "caffe" else "caffe"
    begin = _write(tmp_path, "SGD", "BINARYPROTO", "test_iter: 2 test_interval: 2")
    (tmp_path / "net.prototxt").write_text(
        NET + 'layer { name: "prob" type: "Softmax" bottom: "three" top: "prob" include { phase: TEST } }\n'
        'layer { name: "top" type: "Accuracy" bottom: "three" bottom: "label" top: "top" include { phase: TEST } }\n'
    )
    with _trainer(first, caffe_install, tmp_path, f"{first}.prototxt", begin) as trainer:
        assert trainer.tests == 1
        for iteration in range(3):
            if iteration % 2 == 0:
                trainer.test()
            trainer.step()
        trainer.snapshot()
        wanted = trainer.test()
    with _trainer(
        second, caffe_install, tmp_path, "next.prototxt", tmp_path / f"{first}_iter_3.solverstate"
    ) as trainer:
        found = trainer.test()
    assert list(found) == list(wanted) == ["loss", "prob", "top"]
    for name, score in wanted.items():
        assert_within(name, score, found[name], between(TERMS))
    assert isinstance(found["prob"], tuple)


def test_what_caffe_leaves_random_is_said(caffe_install: CaffeInstall, tmp_path: Path) -> None:
    """Only what the net has: here dropout in training and no more."""
    begin = _write(tmp_path, "SGD", "BINARYPROTO")
    drop = 'layer { name: "drop" type: "Dropout" bottom: "one" top: "one" }\n'
    (tmp_path / "net.prototxt").write_text(NET.replace('layer { name: "two"', drop + 'layer { name: "two"'))
    with _trainer("caffe", caffe_install, tmp_path, "caffe.prototxt", begin) as trainer:
        trainer.step()
        trainer.snapshot()
    with _trainer("torch", caffe_install, tmp_path, "torch.prototxt", tmp_path / "caffe_iter_1.solverstate") as trainer:
        (note,) = trainer.notes
    assert note.endswith("goes on differently than it would have without the break: dropout")


def test_caffe_itself_cannot_keep_slashes_in_hdf5(caffe_install: CaffeInstall, tmp_path: Path) -> None:
    """Why we refuse such a solver before it starts: Caffe works until its first snapshot, and aborts."""
    _write(tmp_path, "SGD", "HDF5", "snapshot: 1")
    (tmp_path / "net.prototxt").write_text(NET.replace('name: "one"', 'name: "in/one"'))
    with pytest.raises(AssertionError, match=r"HDF5|H5Gcreate|layer_data_hid"):
        caffe_train(caffe_install, tmp_path, "caffe.prototxt")


@pytest.mark.parametrize("engine", ["caffe", "torch"])
def test_weights_in_hdf5_start_a_training(engine: str, caffe_install: CaffeInstall, tmp_path: Path) -> None:
    """Those that either engine left, shared parameters included: the same first loss."""
    begin = _write(tmp_path, "SGD", "HDF5")
    with _trainer(engine, caffe_install, tmp_path, f"{engine}.prototxt", begin) as trainer:
        model = trainer.snapshot().model
        wanted = trainer.step().loss
    for name in ("caffe", "torch"):
        made = TorchEngine(seed=9) if name == "torch" else CaffeEngine(caffe_install, threads=1)
        with made.trainer(tmp_path / "next.prototxt", weights=[model], root=tmp_path) as trainer:
            assert_within(f"loss in {name}", wanted, trainer.step().loss, between(3 * TERMS))


@pytest.mark.parametrize("name", ["caffe", "torch"])
def test_a_snapshot_of_nvcaffe_is_gone_on_from(name: str, caffe_install: CaffeInstall, tmp_path: Path) -> None:
    """A state and its weights as raw data say what the same in plain Caffe's form says."""
    begin = _write(tmp_path, "SGD", "BINARYPROTO")
    losses = []
    for raw in (False, True):
        if raw:
            for path, change in ((begin, raw_state), (begin.with_suffix(".caffemodel"), raw_model)):
                path.write_bytes(change(path.read_bytes(), "<f8"))
        with _trainer(name, caffe_install, tmp_path, "next.prototxt", begin) as trainer:
            losses.append([trainer.step().loss for _ in range(2)])
    assert losses[0] == losses[1]
