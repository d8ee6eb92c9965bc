"""Channel bookkeeping: adding, choosing and reordering the channels that flow between linear layers.

A layer's blobs follow its channels: BatchNorm's mean and variance, Scale's and Bias's vectors, PReLU's slopes. A
reader's weights have them on their input axis. Reordering the channels of a blob is exact when every reader's weights
are reordered with it; that is possible as long as the layers on the way keep channels apart and end in ungrouped
linear layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.ops import conv_geometry
from deeprebirth_caffe.passes.patterns import Facts, other_axes, strange
from deeprebirth_caffe.rewrite import Kind, Reason, Rewriter

Array = npt.NDArray[Any]


def has_channel_blobs(layer: Layer) -> bool:
    """Whether a layer that keeps channels apart has learned numbers for each of them."""
    return layer.traits.channel_blobs(layer.param)


def choose(layer: Layer, blobs: Sequence[Array], channels: Array) -> list[Array]:
    """The blobs of a layer with `has_channel_blobs` for some of its channels, in that order."""
    if layer.type == "BatchNorm":
        return [blobs[0][channels], blobs[1][channels], blobs[2]]
    return [blob[channels] for blob in blobs]


def join(layer: Layer, parts: Sequence[Sequence[Array]]) -> list[Array]:
    """The blobs of a layer that handles the channels of several such layers, one part after another."""
    if layer.type == "BatchNorm":
        # The parts' sums may be over different counts (the third blob): bring each to a count of 1.
        factors = [float(part[2].reshape(-1)[0]) for part in parts]
        weights = [0.0 if factor == 0 else 1.0 / factor for factor in factors]
        means, variances = (
            np.concatenate([part[which].reshape(-1) * weight for part, weight in zip(parts, weights, strict=True)])
            for which in (0, 1)
        )
        return [means, variances, np.ones(1, dtype=np.float32)]
    return [np.concatenate(columns) for columns in zip(*parts, strict=True)]


def readers_to_permute(facts: Facts, layer: Layer) -> list[Layer] | Reason:
    """The layers whose weights must follow when the channels of a layer's only top are reordered.

    Returns:
        Them, or the reason why the order cannot change.
    """
    found: dict[Layer, None] = {}
    waiting = [layer]
    while waiting:
        maker = waiting.pop()
        readers = facts.net.readers(maker)
        if not all(value.uses for value in facts.net.values_out(maker)):
            return Reason(f"the order of its channels would change, and {maker.tops[0]} is an output of the net")
        for reader, _ in readers:
            reason = strange(reader)
            if not reason and reader.type == "Convolution" and len(reader.bottoms) == 1:
                if conv_geometry(reader.param).group != 1:
                    reason = Reason(f"{reader.name} reads them in groups")
            elif not reason and reader.type == "InnerProduct" and reader.param.inner_product_param.axis == 1:
                pass
            elif not reason and _keeps_channels(reader):
                waiting.append(reader)
                if not has_channel_blobs(reader):
                    continue
            elif not reason:
                reason = Reason(f"{reader.name} ({reader.type}) reads them in that order")
            reason = reason or facts.fixed(reader)
            if reason:
                return Reason(f"the order of the Concat's channels would change, and {reason}")
            found[reader] = None
    return list(found)


def _keeps_channels(layer: Layer) -> bool:
    kind = layer.traits
    # What a fork's layer learned for each channel is not known to lie in blobs that can be reordered.
    apart = kind.channelwise and (kind.pointwise or not kind.learned or kind.channel_blobs(layer.param))
    return apart and len(layer.bottoms) == 1 and len(layer.tops) == 1 and not other_axes(layer)


def permute_readers(rewriter: Rewriter, readers: Sequence[Layer], order: Array) -> list[str]:
    """Reorders what readers expect: new channel j is what channel order[j] was. Their names change with it.

    Returns:
        The new names.
    """
    names = []
    for reader in readers:
        net: Net = rewriter.net
        blobs = net.weights[reader.name] if net.weights is not None and reader.name in net.weights else None
        twin = rewriter.derive(reader, Kind.EXACT)
        names.append(twin.name)
        if blobs is None:
            continue
        if has_channel_blobs(reader):
            rewriter.set_weights(twin, choose(reader, blobs, order))
        elif reader.type == "InnerProduct":
            transpose = reader.param.inner_product_param.transpose
            weight = blobs[0].T if transpose else blobs[0]
            each = weight.reshape(weight.shape[0], len(order), -1)[:, order].reshape(weight.shape)
            rewriter.set_weights(twin, [each.T if transpose else each, *blobs[1:]])
        else:
            rewriter.set_weights(twin, [blobs[0][:, order], *blobs[1:]])
    return names
