"""Random numbers for a net that was only loaded, so that its layers work on real ones when they are timed."""

from __future__ import annotations

import math

import torch

from deeprebirth_caffe.engines.torch.net import TorchNet


def fill(net: TorchNet, seed: int = 0) -> list[str]:
    """Gives inputs normal random values, and layers whose blobs are all zero random weights.

    Labels become 0, for losses take no other random value, and a BatchNorm's empty statistics mean 0, variance 1.

    Returns:
        The layers whose weights were filled.
    """
    random = torch.Generator().manual_seed(seed)
    labels = {
        bottom
        for layer in net.view.layers
        if layer.op is not None and (layer.op.loss or layer.op.metric)
        for bottom in layer.bottoms[1:]
    }
    fed = {}
    for name in net.inputs:
        shape = net.shape_of(name)
        fed[name] = torch.zeros(shape) if name in labels else torch.randn(shape, generator=random)
    net.feed(fed)
    filled = []
    with torch.no_grad():
        for layer in net.view.layers:
            blobs = net.blobs_of.get(layer.name, [])
            if not blobs or any(bool(blob.any()) for blob in blobs):
                continue
            filled.append(layer.name)
            if layer.type == "BatchNorm":
                # Zeros would divide by sqrt(eps): a few such layers in a row overflow.
                blobs[1].fill_(1.0)
                blobs[2].fill_(1.0)
            else:
                weight = blobs[0]
                fan_in = max(1, weight.numel() // max(1, weight.shape[0] if weight.dim() else 1))
                weight.copy_(torch.randn(weight.shape, generator=random) * math.sqrt(2.0 / fan_in))
    return filled
