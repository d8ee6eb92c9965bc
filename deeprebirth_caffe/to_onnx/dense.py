"""InnerProduct, Embed, BatchReindex."""

from __future__ import annotations

from math import prod

from onnx import TensorProto

from deeprebirth_caffe.to_onnx.graph import Site, Tensor


def inner_product(site: Site) -> list[str]:
    """Gemm on the input, flattened from the axis on."""
    p = site.param.inner_product_param
    axis = site.axis(p.axis)
    inputs = prod(site.dim(index) for index in range(axis, len(site.x.shape)))
    rows = prod(site.x.shape[:axis]), prod(site.x.other[:axis])
    flat = site.reshape(site.x.name, site.x, (rows[0], inputs), (rows[1], inputs))
    terms = [site.weight(0)] + ([site.weight(1)] if p.bias_term else [])
    name = site.op("Gemm", flat, *terms, transB=int(not p.transpose))
    product = Tensor(name, (rows[0], p.num_output), (rows[1], p.num_output))
    return [site.reshape(name, product, *site.tops[0])]


def embed(site: Site) -> list[str]:
    """Rows of a table, by index."""
    # Caffe truncates the index to an integer, as this Cast does.
    name = site.op("Gather", site.weight(0), _whole(site, site.x.name), axis=0)
    return [site.op("Add", name, site.weight(1)) if site.param.embed_param.bias_term else name]


def batch_reindex(site: Site) -> list[str]:
    """Items of the batch, by index."""
    return [site.op("Gather", site.x.name, _whole(site, site.ins[1].name), axis=0)]


def _whole(site: Site, name: str) -> str:
    return site.op("Cast", name, to=TensorProto.INT64)


def parameter(site: Site) -> list[str]:
    """A learned array as a blob."""
    return [site.op("Identity", site.weight(0))]
