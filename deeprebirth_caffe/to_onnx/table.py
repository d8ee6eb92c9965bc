"""The translator of each layer type, and the reasons for types without a translator."""

from __future__ import annotations

from collections.abc import Callable

from deeprebirth_caffe.to_onnx import dense, norm, pointwise, recurrent, shaping, windows
from deeprebirth_caffe.to_onnx.graph import Site

Translator = Callable[[Site], list[str]]
"""Adds a layer's nodes and names the tensors that are its tops."""

TRANSLATORS: dict[str, Translator] = {
    "AbsVal": pointwise.plain("Abs"),
    "ArgMax": shaping.argmax,
    "BNLL": pointwise.plain("Softplus"),
    "BatchNorm": norm.batch_norm,
    "BatchReindex": dense.batch_reindex,
    "Bias": norm.bias,
    "Clip": pointwise.clip,
    "Concat": shaping.concat,
    "Convolution": windows.convolution,
    "Crop": shaping.crop,
    "Deconvolution": windows.deconvolution,
    "Dropout": shaping.same,
    "ELU": pointwise.elu,
    "Eltwise": pointwise.eltwise,
    "Embed": dense.embed,
    "Exp": pointwise.exp,
    "Flatten": shaping.reshape,
    "InnerProduct": dense.inner_product,
    "LRN": norm.lrn,
    "LSTM": recurrent.lstm,
    "LSTMUnit": recurrent.lstm_unit,
    "Log": pointwise.log,
    "MVN": norm.mvn,
    "PReLU": pointwise.prelu,
    "Parameter": dense.parameter,
    "Pooling": windows.pooling,
    "Power": pointwise.power,
    "RNN": recurrent.rnn,
    "ReLU": pointwise.relu,
    "Reduction": shaping.reduction,
    "Reshape": shaping.reshape,
    "SPP": windows.spp,
    "Scale": norm.scale,
    "Sigmoid": pointwise.plain("Sigmoid"),
    "Silence": shaping.nothing,
    "Slice": shaping.slice_,
    "Softmax": norm.softmax,
    "Split": shaping.same,
    "Swish": pointwise.swish,
    "TanH": pointwise.plain("Tanh"),
    "Threshold": pointwise.threshold,
    "Tile": shaping.tile,
}

REASONS = {
    "Filter": "how many items it lets through depends on the data",
    "HDF5Output": "it writes a file; take it out",
    "Im2col": "ONNX has no operator for it; a Convolution holds one already",
    "Python": "what it computes is in Python code, not in the net",
}


def why_not(kind: str, loss: bool) -> str:
    """The reason why a layer type has no translator."""
    if loss:
        return "it is for training; `rebirth deploy` takes it out"
    return REASONS.get(kind, "Caffe 1.0 does not have this type, so nothing here knows what it computes")
