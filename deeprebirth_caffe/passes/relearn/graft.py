"""Carrying out a branch merge: the new messages, their cost, their first weights.

`merge_branches` decides who takes in whom; this file knows how it is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer, Weights
from deeprebirth_caffe.numerics.inherit import centred, dense, strongest, through
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.passes.channels import choose, has_channel_blobs, join, permute_readers
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.relearn.inception import Branch, Module
from deeprebirth_caffe.passes.relearn.start import Start, set_filler
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Applied, Kind, Reason, Rewriter

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Grown:
    """A host and all branches it will be, itself among them, in the order of the Concat's bottoms."""

    host: Branch
    parts: tuple[Branch, ...]

    @property
    def added(self) -> int:
        """How many output channels the host gains."""
        return self.channels - self.host.channels

    @property
    def channels(self) -> int:
        """How many it has then."""
        return sum(part.channels for part in self.parts)

    @property
    def guests(self) -> tuple[Branch, ...]:
        return tuple(part for part in self.parts if part is not self.host)

    @property
    def bias(self) -> bool:
        """Whether the new convolution needs a bias: one of its parts has one."""
        return any(part.tail.param.convolution_param.bias_term for part in self.parts)


@dataclass(frozen=True)
class Shrunk:
    """A reducer that keeps some of its channels.

    Attributes:
        reducer: the 1x1 convolution.
        between: the layers from there to the convolution that reads it.
        branch: whose last convolution that is.
        keep: how many channels stay.
    """

    reducer: Layer
    between: tuple[Layer, ...]
    branch: Branch
    keep: int


@dataclass(frozen=True)
class Graft:
    """Everything about one module's merge.

    Attributes:
        module: where.
        grown: the hosts.
        shrunk: the reducers.
        order: which old channel each new channel of the Concat is.
        readers: whose weights must follow when that order is a new one.
        macs_before, macs_after: of all convolutions involved.
    """

    module: Module
    grown: tuple[Grown, ...]
    shrunk: tuple[Shrunk, ...]
    order: npt.NDArray[np.int64]
    readers: tuple[Layer, ...]
    macs_before: int
    macs_after: int

    @classmethod
    def plan(
        cls,
        facts: Facts,
        module: Module,
        grown: tuple[Grown, ...],
        shrunk: tuple[Shrunk, ...],
        order: npt.NDArray[np.int64],
        readers: tuple[Layer, ...],
    ) -> Graft:
        """Adds the costs."""
        convs = {conv for branch in module.branches for conv in branch.convs} | {one.reducer for one in shrunk}
        before = sum(facts.macs(conv) or 0 for conv in convs)
        gone = {conv for one in grown for guest in one.guests for conv in guest.convs}
        after = 0
        for conv in convs - gone:
            shapes = facts.shapes_in(conv)
            assert not isinstance(shapes, Reason), "a module's shapes are known"
            after += facts.macs(conv, new_param(conv, grown, shrunk), new_bottom(conv, shapes[0], shrunk)) or 0
        return cls(module, grown, shrunk, order, readers, before, after)

    @property
    def touches(self) -> frozenset[Layer]:
        """Layers outside the module that change with it."""
        return frozenset(self.readers) | {layer for one in self.shrunk for layer in (one.reducer, *one.between)}


def new_param(conv: Layer, grown: Sequence[Grown], shrunk: Sequence[Shrunk]) -> pb.LayerParameter:
    """A convolution's message after the merge."""
    param = pb.LayerParameter()
    param.CopyFrom(conv.param)
    own = param.convolution_param
    for one in grown:
        if one.host.tail is conv:
            own.num_output = one.channels
            if one.bias and not own.bias_term:
                own.bias_term = True
    for less in shrunk:
        if less.reducer is conv:
            own.num_output = less.keep
    return param


def new_bottom(conv: Layer, bottom: Shape, shrunk: Sequence[Shrunk]) -> Shape:
    """The shape that a convolution reads after the merge."""
    for less in shrunk:
        if less.branch.tail is conv:
            return (bottom[0], less.keep, *bottom[2:])
    return bottom


def apply_graft(graft: Graft, rewriter: Rewriter, start: Start) -> Applied:
    """Carries a merge out."""
    done = Applied(macs_before=graft.macs_before, macs_after=graft.macs_after)
    weights = rewriter.net.weights
    # All new arrays are made from the old ones before the first name changes.
    kept = {one: _kept_channels(one, weights) for one in graft.shrunk}
    arrays = _new_arrays(graft, kept, weights) if weights is not None else {}
    for one in graft.grown:
        for guest in one.guests:
            for layer in guest.layers:
                done.removed.append(layer.name)
                rewriter.remove(layer)
    changed = [one.host.tail for one in graft.grown] + [one.reducer for one in graft.shrunk]
    changed += [one.branch.tail for one in graft.shrunk]
    origins = {one.host.tail: [guest.tail for guest in one.guests] for one in graft.grown}
    for conv in dict.fromkeys(changed):
        param = new_param(conv, graft.grown, graft.shrunk)
        if conv not in rewriter.made:
            done.removed.append(conv.name)
        twin = rewriter.derive(conv, Kind.RELEARN, origins.get(conv, []))
        twin.param.convolution_param.CopyFrom(param.convolution_param)
        set_filler(twin)
        done.rebirth.append(twin.name)
        if conv in arrays:
            start.set(rewriter, twin, [array.shape for array in arrays[conv]], arrays[conv])
        elif weights is not None:
            weights.drop(twin.name)
    for layer in _blob_followers(graft):
        twin = rewriter.derive(layer, Kind.RELEARN)
        done.rebirth.append(twin.name)
        if layer in arrays:
            rewriter.set_weights(twin, arrays[layer])
        elif weights is not None:
            weights.drop(twin.name)
    gone = {guest.position for one in graft.grown for guest in one.guests}
    concat = graft.module.concat
    rewriter.set_bottoms(concat, [name for index, name in enumerate(concat.bottoms) if index not in gone])
    if graft.readers:
        names = permute_readers(rewriter, graft.readers, graft.order)
        done.notes.append(f"{concat.name}: channels in a new order, and with them the weights of {', '.join(names)}")
    for less in graft.shrunk:
        channels = less.reducer.param.convolution_param.num_output
        done.notes.append(f"{less.reducer.name}: {channels} to {less.keep} channels")
    return done


def _blob_followers(graft: Graft) -> list[Layer]:
    """The layers behind hosts and reducers whose blobs have an entry a channel."""
    behind = [layer for one in graft.grown for layer in one.host.suffix]
    behind += [layer for one in graft.shrunk for layer in one.between]
    return [layer for layer in behind if has_channel_blobs(layer)]


def _kept_channels(one: Shrunk, weights: Weights | None) -> Array:
    names = (one.reducer.name, one.branch.tail.name)
    if weights is None or any(name not in weights for name in names):
        return np.arange(one.keep)
    return strongest(weights[names[0]][0], weights[names[1]][0], one.keep)


def _new_arrays(graft: Graft, kept: dict[Shrunk, Array], weights: Weights) -> dict[Layer, list[Array]]:
    """The inherited arrays of every layer that changes, where the weights have what is needed."""
    arrays: dict[Layer, list[Array]] = {}
    for less in graft.shrunk:
        if less.reducer.name in weights:
            arrays[less.reducer] = [blob[kept[less]] for blob in weights[less.reducer.name]]
        for layer in less.between:
            if has_channel_blobs(layer) and layer.name in weights:
                arrays[layer] = choose(layer, weights[layer.name], kept[less])
    for one in graft.grown:
        less_in = next((less for less in graft.shrunk if less.branch is one.host), None)
        needed = [*one.host.convs, *(part.tail for part in one.parts)]
        if all(conv.name in weights for conv in needed):
            path = _path_matrix(one.host, arrays, weights)
            arrays[one.host.tail] = _grown_arrays(one, kept[less_in] if less_in else None, path, weights)
        for index, layer in enumerate(one.host.suffix):
            followers = [part.suffix[index] for part in one.parts]
            if has_channel_blobs(layer) and all(follower.name in weights for follower in followers):
                arrays[layer] = join(layer, [weights[follower.name] for follower in followers])
    for less in graft.shrunk:
        tail = less.branch.tail
        if tail not in arrays and tail.name in weights and all(one.host.tail is not tail for one in graft.grown):
            blobs = weights[tail.name]
            arrays[tail] = [blobs[0][:, kept[less]], *blobs[1:]]
    return arrays


def _path_matrix(host: Branch, arrays: dict[Layer, list[Array]], weights: Weights) -> Array | None:
    """The linear part of the way from the fork to a host's last convolution, on its centre taps.

    Returns:
        (channels the host reads, channels of the fork), or None where the host reads the fork itself.
    """
    total: Array | None = None
    for conv in host.convs[:-1]:
        weight = arrays[conv][0] if conv in arrays else weights[conv.name][0]
        weight = dense(np.asarray(weight, dtype=np.float64), conv.param.convolution_param.group)
        middle = (slice(None), slice(None), *(size // 2 for size in weight.shape[2:]))
        centre = weight[middle]
        total = centre if total is None else centre @ total
    return total


def _grown_arrays(one: Grown, kept: Array | None, path: Array | None, weights: Weights) -> list[Array]:
    """A host's weight and bias: its own rows and its guests', over the input channels that stay."""
    rows, biases = [], []
    kernel = one.host.geometry.kernel
    for part in one.parts:
        blobs = weights[part.tail.name]
        if part is one.host:
            rows.append(blobs[0] if kept is None else blobs[0][:, kept])
        else:
            guest = blobs[0]
            if path is not None:
                taps = np.moveaxis(guest, 1, -1)
                fitted = through(taps.reshape(-1, taps.shape[-1]), path)
                guest = np.moveaxis(fitted.reshape(*taps.shape[:-1], -1), -1, 1)
            elif kept is not None:
                guest = guest[:, kept]
            rows.append(centred(guest, kernel))
        biases.append(blobs[1] if len(blobs) > 1 else np.full(part.channels, 0.0))
    result = [np.concatenate(rows)]
    if one.bias:
        result.append(np.concatenate(biases))
    return result
