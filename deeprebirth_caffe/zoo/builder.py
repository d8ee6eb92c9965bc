"""A small builder of Caffe nets, with a method for each layer type.

A description serves two forms. A *training* net has learning-rate multipliers, Dropout, auxiliary
heads, losses and accuracies; a *deploy* net has none of these and ends in a Softmax called ``prob``. Fillers
stay in both, so that a deploy net without weights computes numbers (for timing and for checks).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from deeprebirth_caffe.proto import caffe_pb2 as pb

MAX = pb.PoolingParameter.MAX
AVE = pb.PoolingParameter.AVE


def xavier() -> pb.FillerParameter:
    """Uniform weights of variance 1 / fan-in (Glorot and Bengio 2010, in Caffe's reading)."""
    return pb.FillerParameter(type="xavier")


def msra() -> pb.FillerParameter:
    """Gaussian weights of variance 2 / fan-in (He et al. 2015): keeps the signal's size through ReLUs."""
    return pb.FillerParameter(type="msra")


def gaussian(std: float) -> pb.FillerParameter:
    """Gaussian weights of mean 0 and the given standard deviation."""
    return pb.FillerParameter(type="gaussian", std=std)


def constant(value: float) -> pb.FillerParameter:
    """A constant value."""
    return pb.FillerParameter(type="constant", value=value)


@dataclass(frozen=True)
class Defaults:
    """How the layers of a net start and learn, unless a call says otherwise.

    Attributes:
        conv: filler of convolution weights.
        dense: filler of hidden inner products' weights.
        classifier: filler of the last layer's weights.
        bias: the start of biases.
        lrn_alpha: LRN's alpha.
        bn_momentum: BatchNorm's moving_average_fraction, or None for Caffe's own (0.999).
        scale_decay: decay_mult of Scale layers.
    """

    conv: pb.FillerParameter = field(default_factory=xavier)
    dense: pb.FillerParameter = field(default_factory=xavier)
    classifier: pb.FillerParameter = field(default_factory=xavier)
    bias: float = 0.0
    lrn_alpha: float = 1e-4
    bn_momentum: float | None = None
    scale_decay: float = 1.0


class NetBuilder:
    """Collects the layers of a net in file order.

    Every method takes the layer's name first and the blob it reads second, and returns the blob it writes.

    Args:
        name: the net's name.
        training: True for the train_val form, False for the deploy form.
        defaults: fillers and multipliers.
    """

    def __init__(self, name: str, *, training: bool, defaults: Defaults | None = None) -> None:
        self.message = pb.NetParameter(name=name)
        self.training = training
        self.defaults = defaults or Defaults()

    def layer(self, name: str, kind: str, bottoms: Iterable[str], top: str | None = None) -> pb.LayerParameter:
        """Append a layer of type `kind`; its top is `top`, or the layer's name."""
        layer = self.message.layer.add()
        layer.name = name
        layer.type = kind
        layer.bottom.extend(bottoms)
        layer.top.append(name if top is None else top)
        return layer

    def _learn(self, layer: pb.LayerParameter, *rates: tuple[float, float]) -> None:
        """Give the parameter blobs of `layer` their (lr_mult, decay_mult); a deploy net learns nothing."""
        if self.training:
            for lr_mult, decay_mult in rates:
                layer.param.add(lr_mult=lr_mult, decay_mult=decay_mult)

    def input(self, shape: Sequence[int], name: str = "data") -> str:
        """An Input layer of the given N x C x H x W shape."""
        layer = self.layer(name, "Input", ())
        layer.input_param.shape.add(dim=shape)
        return name

    def conv(
        self,
        name: str,
        bottom: str,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        pad: int = 0,
        group: int = 1,
        bias_term: bool = True,
        filler: pb.FillerParameter | None = None,
        bias: float | None = None,
    ) -> str:
        """A Convolution; biases learn twice as fast and do not decay, as in Caffe's published nets."""
        layer = self.layer(name, "Convolution", [bottom])
        self._learn(layer, (1, 1), *([(2, 0)] if bias_term else []))
        param = layer.convolution_param
        param.num_output = channels
        if not bias_term:
            param.bias_term = False
        if pad:
            param.pad.append(pad)
        param.kernel_size.append(kernel)
        if group != 1:
            param.group = group
        if stride != 1:
            param.stride.append(stride)
        param.weight_filler.CopyFrom(filler or self.defaults.conv)
        if bias_term:
            param.bias_filler.CopyFrom(constant(self.defaults.bias if bias is None else bias))
        return name

    def dense(
        self,
        name: str,
        bottom: str,
        outputs: int,
        *,
        filler: pb.FillerParameter | None = None,
        bias: float | None = None,
    ) -> str:
        """An InnerProduct with biases."""
        layer = self.layer(name, "InnerProduct", [bottom])
        self._learn(layer, (1, 1), (2, 0))
        param = layer.inner_product_param
        param.num_output = outputs
        param.weight_filler.CopyFrom(filler or self.defaults.dense)
        param.bias_filler.CopyFrom(constant(self.defaults.bias if bias is None else bias))
        return name

    def relu(self, name: str, blob: str) -> str:
        """A ReLU in place."""
        self.layer(name, "ReLU", [blob], blob)
        return blob

    def pool(
        self,
        name: str,
        bottom: str,
        kernel: int,
        stride: int,
        *,
        pad: int = 0,
        method: pb.PoolingParameter.PoolMethod = MAX,
    ) -> str:
        """A Pooling layer with a square window."""
        layer = self.layer(name, "Pooling", [bottom])
        layer.pooling_param.pool = method
        layer.pooling_param.kernel_size = kernel
        layer.pooling_param.stride = stride
        if pad:
            layer.pooling_param.pad = pad
        return name

    def global_average(self, name: str, bottom: str) -> str:
        """Average pooling over the whole map, whatever its size."""
        layer = self.layer(name, "Pooling", [bottom])
        layer.pooling_param.pool = AVE
        layer.pooling_param.global_pooling = True
        return name

    def lrn(self, name: str, bottom: str) -> str:
        """Local response normalisation across five channels, with AlexNet's exponent."""
        layer = self.layer(name, "LRN", [bottom])
        layer.lrn_param.local_size = 5
        layer.lrn_param.alpha = self.defaults.lrn_alpha
        layer.lrn_param.beta = 0.75
        return name

    def bn_scale(self, blob: str, batch_norm: str, scale: str) -> str:
        """BatchNorm and then a Scale with bias, both in place.

        Statistics are the batch's in training and the stored ones otherwise, which is Caffe's default; a
        deploy net says so explicitly. They have lr_mult 0 because early Caffes do not add it themselves.
        """
        layer = self.layer(batch_norm, "BatchNorm", [blob], blob)
        if self.training:
            self._learn(layer, (0, 0), (0, 0), (0, 0))
            if self.defaults.bn_momentum is not None:
                layer.batch_norm_param.moving_average_fraction = self.defaults.bn_momentum
        else:
            layer.batch_norm_param.use_global_stats = True
        layer = self.layer(scale, "Scale", [blob], blob)
        self._learn(layer, (1, self.defaults.scale_decay), (1, self.defaults.scale_decay))
        layer.scale_param.bias_term = True
        return blob

    def dropout(self, name: str, blob: str, ratio: float) -> str:
        """Dropout in place; a deploy net has none."""
        if self.training:
            self.layer(name, "Dropout", [blob], blob).dropout_param.dropout_ratio = ratio
        return blob

    def concat(self, name: str, bottoms: Sequence[str]) -> str:
        """Join blobs along their channels."""
        self.layer(name, "Concat", bottoms)
        return name

    def add(self, name: str, bottoms: Sequence[str]) -> str:
        """Add blobs element by element."""
        self.layer(name, "Eltwise", bottoms)
        return name

    def loss(self, name: str, logits: str, *, top: str | None = None, weight: float | None = None) -> None:
        """SoftmaxWithLoss against the blob ``label``; training nets only."""
        if not self.training:
            return
        layer = self.layer(name, "SoftmaxWithLoss", [logits, "label"], top)
        if weight is not None:
            layer.loss_weight.append(weight)

    def accuracy(self, name: str, logits: str, top_k: int = 1) -> None:
        """Top-k accuracy in the TEST phase; training nets only."""
        if not self.training:
            return
        layer = self.layer(name, "Accuracy", [logits, "label"])
        layer.include.add(phase=pb.TEST)
        if top_k != 1:
            layer.accuracy_param.top_k = top_k

    def classify(self, logits: str, *, loss: str = "loss", top1: str = "accuracy", top5: str = "accuracy_top5") -> None:
        """End the net: loss and accuracies while training, a Softmax called ``prob`` at deploy."""
        if self.training:
            self.loss(loss, logits)
            self.accuracy(top1, logits)
            self.accuracy(top5, logits, 5)
        else:
            self.layer("prob", "Softmax", [logits])
