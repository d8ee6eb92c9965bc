"""Layer types of Caffe's older formats, and their names of today."""

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


def _v1_types() -> dict[int, str]:
    today = {name.upper(): name for name in _SPELLED}
    today["SOFTMAXLOSS"] = "SoftmaxWithLoss"
    return {value: today.get(name.replace("_", ""), "") for name, value in pb.V1LayerParameter.LayerType.items()}


V1_TYPES = _v1_types()
"""Today's type of each ``V1LayerParameter.LayerType``; NONE is the empty string."""


# fmt: off
_V0_NAMES = (
    "accuracy", "bnll", "concat", "conv", "data", "dropout", "euclidean_loss", "flatten", "hdf5_data",
    "hdf5_output", "im2col", "images", "infogain_loss", "innerproduct", "lrn", "multinomial_logistic_loss",
    "pool", "relu", "sigmoid", "softmax", "softmax_loss", "split", "tanh", "window_data",
)
# fmt: on
_V0_RENAMED = {"conv": "CONVOLUTION", "images": "IMAGE_DATA", "innerproduct": "INNER_PRODUCT", "pool": "POOLING"}
V0_TYPES = {name: pb.V1LayerParameter.LayerType.Value(_V0_RENAMED.get(name, name.upper())) for name in _V0_NAMES}
"""``V1LayerParameter.LayerType`` of each V0 type; V0 also had ``padding``."""


# fmt: off
_LATER = (
    "BatchNorm", "BatchReindex", "Bias", "BN", "Clip", "Crop", "ELU", "Embed", "Filter", "Input", "LSTM", "Log",
    "Normalize", "Parameter", "Permute", "PReLU", "Python", "RNN", "Reduction", "Reshape", "ROIPooling", "Scale",
    "SmoothL1Loss", "SPP", "Swish", "Tile", "Upsample",
)
# fmt: on
"""Types that Caffe's own V1 lacks: forks of that time added them to the enum under their own names."""


def fork_type(word: str) -> str:
    """Today's spelling of a V1 type that Caffe's V1 does not have: ``UPSAMPLE`` was called ``Upsample`` later."""
    flat = word.replace("_", "").upper()
    known = next((name for name in (*_SPELLED, *_LATER) if name.upper() == flat), None)
    return known or "".join(part.capitalize() for part in word.split("_"))


def v0_type(name: str) -> str:
    """Today's type for a V0 layer's type (``conv``, ``innerproduct``); unknown ones stay as they are."""
    return V1_TYPES[V0_TYPES[name]] if name in V0_TYPES else name
