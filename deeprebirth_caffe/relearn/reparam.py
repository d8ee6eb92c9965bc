"""`convert --reparam`: rebirth layers that learn as several, and what their BatchNorms start from.

Without data a BatchNorm starts at mean 0 and variance 1: in TEST the net computes what it would without, and while it
learns the batch's own statistics take over at once. With data they are measured: the net runs over it, and what each
part's convolution puts out gives its BatchNorm's mean and variance. Since Scale undoes exactly these, one pass over the
data does for all layers, and learning starts from the same function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deeprebirth_caffe.engines.choose import choose
from deeprebirth_caffe.inputs.feeding import through
from deeprebirth_caffe.ir import Layer, Net, View
from deeprebirth_caffe.ir.subnet import ruleless
from deeprebirth_caffe.numerics.spread import Spread
from deeprebirth_caffe.options.shared import CalibrationOptions
from deeprebirth_caffe.passes.relearn.reparametrize import Reparametrize, statistics, unscaled
from deeprebirth_caffe.relearn.calibration import calibration_inputs, len_of
from deeprebirth_caffe.rewrite import Kind, Rewriter, free_name
from deeprebirth_caffe.rewrite.pipeline import Outcome, run


@dataclass(frozen=True)
class _Branch:
    """One part: a convolution and what stands behind it in a blob of its own."""

    conv: Layer
    norm: Layer
    scale: Layer


@dataclass(frozen=True)
class _Block:
    """The parts of one layer, the main one first, and the sum behind them, if there are others."""

    branches: tuple[_Branch, ...]
    join: Layer | None

    @property
    def top(self) -> str:
        """What the layer put out as one."""
        return (self.join or self.branches[0].conv).tops[0]


def learn_wide(
    path: Path,
    rewriter: Rewriter,
    parts: tuple[str, ...],
    seed: int,
    calibrate: CalibrationOptions | None,
    notes: list[str],
) -> Outcome:
    """Gives every rebirth layer of a conversion its parts.

    Args:
        path: of the net that is converted, for where its own paths start.
        rewriter: of the conversion; the rebirth layers have their first weights.
        parts: as `Reparametrize` takes them.
        seed: likewise.
        calibrate: data to measure statistics on.
        notes: takes what people should know.

    Raises:
        RebirthError: the data cannot be read, or no engine runs the net.
    """
    names = frozenset(layer.name for layer, kind in rewriter.made.items() if kind is Kind.RELEARN)
    outcome = run(rewriter, [Reparametrize(layers=names, parts=parts, seed=seed)])
    blocks = [_block(rewriter.net, one.applied.rebirth) for one in outcome.rewrites]
    if not blocks:
        notes.append("reparam: there is no rebirth convolution to give parts to")
    elif rewriter.net.weights is not None:
        if calibrate is not None:
            _measure(path, rewriter, blocks, calibrate, notes)
        else:
            notes.append(
                "reparam: the statistics of the new BatchNorms are made up, so that learning starts elsewhere than "
                "TEST; --calibrate measures them"
            )
    return outcome


def _block(net: Net, names: Sequence[str]) -> _Block:
    layers = [next(layer for layer in net.layers if layer.name == name) for name in names]
    branches = [_Branch(*layers[index : index + 3]) for index in range(0, len(layers) - 2, 3)]
    return _Block(tuple(branches), layers[-1] if layers[-1].type == "Eltwise" else None)


def _measure(
    path: Path, rewriter: Rewriter, blocks: Sequence[_Block], options: CalibrationOptions, notes: list[str]
) -> None:
    """Sets the statistics of all blocks that are alive in TEST, and what undoes them."""
    net = rewriter.net
    view = net.view("TEST")
    alive = set(view.layers)
    blocks = [block for block in blocks if block.branches[0].conv in alive]
    read = {branch.conv.name: _own_blob(net, block, branch) for block in blocks for branch in block.branches}
    spreads: dict[str, Spread] = {}
    images = 0
    assert net.weights is not None
    said: list[str] = []
    bare = _bare(net, view, blocks, read)
    batches = calibration_inputs(path, net, options, said)
    engine = choose(options.engine, [view]).engine
    for batch, found in through(engine, bare, bare.view("TEST"), batches, list(read.values())):
        for blob, array in found.items():
            spreads.setdefault(blob, Spread(array.shape[1])).add(array)
        images += len_of(batch)
    # A refit on the same data has said it already.
    notes += [note for note in said if note not in notes]
    notes.append(f"reparam: BatchNorm measured on {images} images of {options.source}")
    for block in blocks:
        for branch in block.branches:
            _set_statistics(rewriter, branch, spreads[read[branch.conv.name]], branch is block.branches[0], notes)


def _set_statistics(rewriter: Rewriter, branch: _Branch, spread: Spread, main: bool, notes: list[str]) -> None:
    mean, variance = spread.mean, spread.variance
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        notes.append(f"{branch.conv.name}: it puts out NaN or infinite numbers on the calibration data, not measured")
        return
    rewriter.set_weights(branch.norm, statistics(mean, variance))
    if main:
        weights = rewriter.net.weights
        assert weights is not None
        rewriter.set_weights(branch.scale, unscaled(mean, variance, weights[branch.scale.name][1]))


def _own_blob(net: Net, block: _Block, branch: _Branch) -> str:
    """A name for what a part's convolution puts out that nobody else has."""
    if block.join is not None:
        return branch.conv.tops[0]
    return free_name(branch.conv.name, {*net.header.input, *(top for layer in net.layers for top in layer.tops)})


def _bare(net: Net, view: View, blocks: Sequence[_Block], read: dict[str, str]) -> Net:
    """The net in which only the main parts are heard, and every convolution of a part keeps a blob of its own."""
    others = [branch for block in blocks for branch in block.branches[1:]]
    left = {one.name for branch in others for one in (branch.norm, branch.scale)}
    left |= {block.join.name for block in blocks if block.join is not None}
    # By layer, what it reads (None: what it did) and writes. What follows may overwrite the block's blob.
    blobs: dict[str, tuple[str | None, str]] = {name: (None, blob) for name, blob in read.items()}
    for block in blocks:
        main = block.branches[0]
        blobs[main.norm.name] = read[main.conv.name], block.top
        blobs[main.scale.name] = block.top, block.top
    kept = [ruleless(layer) for layer in view.layers if layer.name not in left]
    for layer in kept:
        if layer.name in blobs:
            bottom, layer.param.top[0] = blobs[layer.name]
            if bottom is not None:
                layer.param.bottom[0] = bottom
    return Net(net.header, kept, weights=net.weights)
