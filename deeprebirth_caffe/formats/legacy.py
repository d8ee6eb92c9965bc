"""Names of layer types in Caffe's older formats, and what they are called today."""

from __future__ import annotations

from deeprebirth_caffe.proto import caffe_pb2 as pb

# fmt: off
_SPELLED = (
    "AbsVal", "Accuracy", "ArgMax", "BNLL", "Concat", "ContrastiveLoss", "Convolution", "Data",
    "Deconvolution", "Dropout", "DummyData", "EuclideanLoss", "Eltwise", "Exp", "Flatten",
    "HDF5Data", "HDF5Output", "HingeLoss", "Im2col", "ImageData", "InfogainLoss", "InnerProduct",
    "LRN", "MemoryData", "MultinomialLogisticLoss", "MVN", "Pooling", "Power", "ReLU", "Sigmoid",
    "SigmoidCrossEntropyLoss", "Silence", "Softmax", "Split", "Slice", "TanH", "WindowData",
    "Threshold",
)
# fmt: on
_V0_SHORT = {
    "conv": "Convolution",
    "pool": "Pooling",
    "images": "ImageData",
    "softmax_loss": "SoftmaxWithLoss",
}


def _v1_types() -> dict[int, str]:
    today = {name.upper(): name for name in _SPELLED}
    today["SOFTMAXLOSS"] = "SoftmaxWithLoss"
    return {value: today.get(name.replace("_", ""), "") for name, value in pb.V1LayerParameter.LayerType.items()}


V1_TYPES = _v1_types()
"""Today's type of each ``V1LayerParameter.LayerType``; NONE is the empty string."""


def v0_type(name: str) -> str:
    """Today's type for a V0 layer's type (``conv``, ``innerproduct``); unknown ones stay as they are."""
    if name in _V0_SHORT:
        return _V0_SHORT[name]
    flat = name.replace("_", "").upper()
    return next((today for today in _SPELLED if today.upper() == flat), name)
