"""What the tests of ir, rewrite and passes share: texts of layers, random weights, running passes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.nets.exactness import EXACT
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.passes.exact.strip_training import StripTraining
from deeprebirth_caffe.passes.relearn.merge_branches import MergeBranches
from deeprebirth_caffe.passes.relearn.pool_to_stride import PoolToStride
from deeprebirth_caffe.passes.relearn.prune_batchnorm import PruneBatchNorm
from deeprebirth_caffe.passes.relearn.remove_lrn import RemoveLrn
from deeprebirth_caffe.passes.relearn.reparametrize import Reparametrize
from deeprebirth_caffe.passes.relearn.tucker import Tucker
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import AnyPass, Pass, Rewriter
from deeprebirth_caffe.rewrite.pipeline import Outcome, run

PASSES: dict[str, type[AnyPass]] = {
    one.name: one
    for one in (
        *EXACT,
        PruneBatchNorm,
        MergeBranches,
        RemoveLrn,
        PoolToStride,
        Reparametrize,
        Tucker,
        StripTraining,
    )
}

REPEATS = ("resnet101", "resnet152", "vgg16", "caffenet")
"""Large nets of the zoo that repeat the layers of others: ResNet-50's blocks, AlexNet's layers."""

Names = str | Iterable[str]


def layer(kind: str, name: str, bottoms: Names = (), tops: Names | None = None, fields: str = "") -> str:
    """One line of prototxt; the top is called like the layer unless it is said otherwise."""
    reads = [bottoms] if isinstance(bottoms, str) else list(bottoms)
    writes = [name] if tops is None else [tops] if isinstance(tops, str) else list(tops)
    blobs = "".join([*(f' bottom: "{blob}"' for blob in reads), *(f' top: "{blob}"' for blob in writes)])
    return f'layer {{ name: "{name}" type: "{kind}"{blobs}{" " if fields else ""}{fields} }}\n'


def data(*shape: int, name: str = "data") -> str:
    """An Input layer of one blob."""
    dims = " ".join(f"dim: {dim}" for dim in shape)
    return layer("Input", name, (), name, f"input_param {{ shape {{ {dims} }} }}")


def conv(name: str, bottom: str, out: int = 4, kernel: int = 3, fields: str = "", rest: str = "") -> str:
    """A convolution; `fields` go into its convolution_param, `rest` beside it."""
    own = f"num_output: {out} kernel_size: {kernel}{' ' if fields else ''}{fields}"
    return layer("Convolution", name, bottom, name, f"convolution_param {{ {own} }}{' ' if rest else ''}{rest}")


def relu(name: str, blob: str, top: str | None = None, rest: str = "") -> str:
    """A ReLU, in place unless it has a top."""
    return layer("ReLU", name, blob, top or blob, rest)


def pool(name: str, bottom: str, kernel: int = 2, stride: int = 2, fields: str = "", rest: str = "") -> str:
    """A pooling layer."""
    own = f"kernel_size: {kernel} stride: {stride}{' ' if fields else ''}{fields}"
    return layer("Pooling", name, bottom, name, f"pooling_param {{ {own} }}{' ' if rest else ''}{rest}")


def fc(name: str, bottom: str, out: int = 5, fields: str = "", rest: str = "") -> str:
    """An InnerProduct."""
    own = f"num_output: {out}{' ' if fields else ''}{fields}"
    return layer("InnerProduct", name, bottom, name, f"inner_product_param {{ {own} }}{' ' if rest else ''}{rest}")


def parse(text: str, *, weights: bool = False, datum: Shape | None = None, seed: int = 0) -> Net:
    """The net of a text.

    Args:
        text: prototxt.
        weights: whether it gets random ones.
        datum: the shape of one record of all its data layers.
        seed: of the weights.
    """
    net = Net.parse(text, "net.prototxt")
    if datum is not None:
        for one in net.layers:
            if one.op is not None and one.op.data and one.type != "Input":
                net.data[one] = datum
    if weights:
        net.weights = random_weights(net, seed)
    return net


class Watched(Rewriter):
    """A Rewriter that sees what passes change behind its back."""

    def __init__(self, net: Net) -> None:
        super().__init__(net)
        self._changed: set[Layer] = set()
        self._before = self._said()

    def _said(self) -> dict[Layer, bytes]:
        return {layer: layer.param.SerializeToString(deterministic=True) for layer in self.net.layers}

    def change(self, layer: Layer) -> pb.LayerParameter:
        self._changed.add(layer)
        return super().change(layer)

    def commit(self) -> None:
        super().commit()
        said = self._said()
        wrong = [
            one.name for one, text in self._before.items() if one not in self._changed and said.get(one, text) != text
        ]
        assert not wrong, "only the Rewriter may change a net"
        self._before = said
        self._changed.clear()


def rewrite(net: Net, passes: AnyPass | Sequence[AnyPass]) -> Outcome:
    """Runs passes over a net, in place."""
    return run(Watched(net), [passes] if isinstance(passes, Pass) else passes)


def reasons(text: str | Net, one: AnyPass, *, weights: bool = False) -> dict[str, str]:
    """What a pass leaves alone, by layer, and why."""
    net = text if isinstance(text, Net) else parse(text, weights=weights)
    return {refusal.layer: refusal.reason for refusal in rewrite(net, one).refusals}


def names(net: Net) -> list[str]:
    """The layers' names, in order."""
    return [one.name for one in net.layers]


def by_name(net: Net, name: str) -> Layer:
    """The one layer of that name."""
    (found,) = net.layer_named(name)
    return found


def without_switches(net: pb.NetParameter) -> None:
    """Puts an ELU, whose slope has no step, for each ReLU, and averages for maxima.

    A value within a rounding of 0 opens its ReLU in one engine alone, and of two pixels that all but tie either may be
    picked; such a switch turns all gradients below it, and so what is learned, by far more than a rounding.
    """
    for layer in net.layer:
        if layer.type == "ReLU":
            layer.type = "ELU"
        elif layer.type == "Pooling":
            layer.pooling_param.pool = pb.PoolingParameter.AVE
