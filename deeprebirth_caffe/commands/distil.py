"""`rebirth distil`: a plain Caffe net, with its solver and start, in which a converted net learns from the original."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from deeprebirth_caffe.collector import uncollected
from deeprebirth_caffe.formats.outputs import MANIFEST, Place
from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.formats.solver import read_solver
from deeprebirth_caffe.inputs.feeding import picture_input, preprocessing_for
from deeprebirth_caffe.inputs.pictures import find_pictures
from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.conversion import Opened, Pair, open_conversion
from deeprebirth_caffe.nets.manifest import Left, read_earlier
from deeprebirth_caffe.nets.rewriting import INIT, SOLVER
from deeprebirth_caffe.nets.solver import WEIGHT_DECAY
from deeprebirth_caffe.options.distil import DistilOptions
from deeprebirth_caffe.options.fields import record
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.relearn.calibration import listed
from deeprebirth_caffe.relearn.distilling import Distilling, distilling_net
from deeprebirth_caffe.results import Signed
from deeprebirth_caffe.wording import json_bytes

NET = "distil.prototxt"
IMAGES = "images.txt"
"""The list of pictures without labels."""
PICTURES_AT_ONCE = 32
"""The batch of those, where nobody says another."""
PREFIX = "distil"
"""Of the snapshots."""

FALLS_AT = 2 / 3
"""The part of the iterations after which the learning rate falls to a tenth."""

DISPLAY = 100
SNAPSHOT = 1000


@dataclass(frozen=True, kw_only=True)
class DistilSource:
    """What a distillation was made from.

    Attributes:
        directory: what `rebirth convert` wrote.
        net: the converted net.
        weights: its start.
        teacher: the original net.
        teacher_weights: its weights.
    """

    directory: Path
    net: Path
    weights: Path
    teacher: Path
    teacher_weights: Path


@dataclass(frozen=True, kw_only=True)
class DistilOutputs:
    """What `rebirth distil` wrote, all in one directory.

    Attributes:
        directory: path.
        net: file in it.
        solver: file in it.
        weights: file in it: the start of both nets.
        manifest: file in it: this object.
    """

    directory: Path
    net: str = NET
    solver: str = SOLVER
    weights: str = INIT
    manifest: str = MANIFEST


@dataclass(frozen=True, kw_only=True)
class DistilRecord:
    """How `rebirth distil` was told to work.

    Attributes:
        max_iter: `--max-iter`.
        batch: `--batch`.
        base_lr: `--base-lr`.
        calibrate: `--calibrate`.
    """

    max_iter: int
    batch: int | None
    base_lr: float
    calibrate: str | None


@dataclass(frozen=True, kw_only=True)
class ComparedBlock:
    """A block that is compared with the original's.

    Attributes:
        loss: the layer and blob of the EuclideanLoss.
        student: the converted net's blob.
        teacher: the original's.
        layers: the rebirth layers that put it out; none for what the net puts out in the end.
        weight: of the loss: 1 / (C x H x W).
    """

    loss: str
    student: str
    teacher: str
    layers: Sequence[str]
    weight: float


@dataclass(frozen=True, kw_only=True)
class Distilled(Signed):
    """What `rebirth distil` did.

    Attributes:
        source: what it was made from.
        outputs: what it wrote, all in one directory.
        options: how it was told to work.
        blocks: what is compared, in the order of the net.
        left: rebirth layers behind which nothing is compared.
        notes: for people.
    """

    source: DistilSource
    outputs: DistilOutputs
    options: DistilRecord
    blocks: Sequence[ComparedBlock]
    left: Sequence[Left]
    notes: Sequence[str]


@uncollected
def distil(options: DistilOptions) -> Distilled:
    """Writes distil.prototxt, solver.prototxt, init.caffemodel and manifest.json.

    Args:
        options: what to do.

    Raises:
        RebirthError: bad input, or the output directory is not empty; nothing is written.
        UsageError: a batch is given, and the net has no data layer to set it in; nothing is written.
        RefusedError: the original cannot teach in one net with the converted one; nothing is written.
    """
    out = options.out if options.out is not None else options.directory / PREFIX
    files = (NET, SOLVER, INIT, MANIFEST, *([IMAGES] if options.images is not None else []))
    place = Place(out, options.force, (NET, SOLVER, INIT, MANIFEST, IMAGES))
    opened = open_conversion(options.directory, options.weights, options.teacher, options.teacher_weights)
    lent = (options.directory / SOLVER, options.directory / MANIFEST)
    place.check((opened.found.net, opened.start, opened.pair.path, opened.teacher_weights, *lent))
    pair, listed, notes = opened.pair, "", place.notes(files)
    if options.images is not None:
        pair, listed, said = _on_pictures(options, pair, options.images, out / IMAGES)
        notes.append(said)
    batch = None if options.images is not None else options.batch
    made = distilling_net(pair, read_earlier(opened.found.net).reparam, batch)
    manifest = _manifest(options, opened, made, out, notes)
    net, weights = made.net, made.net.weights
    assert weights is not None
    place.publish(
        {
            NET: format_message(net.message()),
            SOLVER: _solver(options, out),
            INIT: lambda file: save_weights(file, net, weights),
            **({IMAGES: listed} if listed else {}),
            MANIFEST: json_bytes(manifest),
        }
    )
    return manifest


def _on_pictures(options: DistilOptions, pair: Pair, images: str, listing: Path) -> tuple[Pair, str, str]:
    """Nets of which the converted one reads pictures of a list, which need no labels, in place of what it reads.

    Args:
        options: how pictures are prepared, and how many are read at a time.
        pair: the nets.
        images: where pictures are.
        listing: where the list will be.

    Returns:
        The nets, the list, and for people how pictures are prepared.
    """
    student = pair.student
    target = picture_input(pair.path, student.view("TEST"))
    prepared = preprocessing_for(options.pictures, pair.path, pair.teacher, target)
    files = find_pictures(listed(images))
    assert target.shape is not None, "picture_input looks at it"
    reader = Layer(prepared.data_layer(target.name, str(listing), options.batch or PICTURES_AT_ONCE))
    header = pb.NetParameter()
    header.CopyFrom(student.header)
    for name in ("input", "input_shape", "input_dim"):
        header.ClearField(name)
    twin = student.copy()
    layers = [reader, *(layer for layer in twin.layers if not layer.fed)]
    net = Net(header, layers, weights=twin.weights)
    net.data[reader] = target.shape[1:]
    text = "".join(f"{path.absolute()} 0\n" for path in files)
    return replace(pair, student=net), text, f"{prepared.said}; {len(files)} of them, without labels"


def _solver(options: DistilOptions, out: Path) -> str:
    """The text of the solver: when it tests is lent from that of the converted net, how it learns is its own."""
    message = pb.SolverParameter(
        type="Adam",
        base_lr=options.base_lr,
        momentum=0.9,
        momentum2=0.999,
        weight_decay=WEIGHT_DECAY,
        lr_policy="step",
        gamma=0.1,
        stepsize=max(1, round(options.max_iter * FALLS_AT)),
        max_iter=options.max_iter,
        display=DISPLAY,
        snapshot=SNAPSHOT,
        solver_mode="CPU",
    )
    lent = options.directory / SOLVER
    if lent.is_file():
        own = read_solver(lent).message
        for name in ("test_interval", "iter_size", "random_seed", "solver_mode", "device_id"):
            if own.HasField(name):
                setattr(message, name, getattr(own, name))
        if own.HasField("train_state"):
            message.train_state.CopyFrom(own.train_state)
        # Other test nets would be nets without a teacher.
        message.test_iter.extend(own.test_iter[:1])
        message.test_state.extend(own.test_state[:1])
    message.net = os.path.join(out, NET)
    message.snapshot_prefix = os.path.join(out, PREFIX)
    note = "# Teaches the converted net what the original puts out. Paths are looked up from where caffe is started.\n"
    return note + format_message(message)


def _manifest(options: DistilOptions, opened: Opened, made: Distilling, out: Path, notes: Sequence[str]) -> Distilled:
    return Distilled(
        source=DistilSource(
            directory=options.directory,
            net=opened.found.net,
            weights=opened.start,
            teacher=opened.pair.path,
            teacher_weights=opened.teacher_weights,
        ),
        outputs=DistilOutputs(directory=out),
        options=DistilRecord(**record(options)),
        blocks=[
            ComparedBlock(
                loss=block.loss,
                student=block.student,
                teacher=block.teacher,
                layers=block.layers,
                weight=block.weight,
            )
            for block in made.blocks
        ],
        left=[Left(layer=name, reason=reason) for name, reason in made.left.items()],
        notes=notes,
    )
