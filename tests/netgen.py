"""Whole valid nets out of random numbers: every layer type of Caffe 1.0, branches, in-place layers, losses.

A net grows layer by layer. Each type has a maker, which proposes a layer for blobs that are there (or for new inputs
that it asks for); a proposal that `ops` calls impossible is dropped, and another one is tried. So makers may be bold:
what they propose need not fit. Real Caffe then says whether what `ops` let through is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from google.protobuf import text_format

from deeprebirth_caffe import ops
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb

MAX_ELEMENTS = 20_000
TRIES = 12
ALONE = {"ArgMax", "Threshold", "Accuracy", "Filter", "Python"}
"""Types behind which nothing is put: Caffe can load it, but what they give is no input for much."""


@dataclass
class Sources:
    """Files for data layers; `records` is (path, shape, encoded) of databases."""

    records: Sequence[tuple[Path, Shape, bool]] = ()
    images: Path | None = None
    image_shape: Shape = (3, 6, 7)
    windows: Path | None = None
    hdf5: Path | None = None
    hdf5_shapes: dict[str, Shape] = field(default_factory=dict)
    mean: Path | None = None
    infogain: Path | None = None
    infogain_classes: int = 5
    python_module: str = ""
    folder: Path = Path()


@dataclass(eq=False)
class Blob:
    name: str
    shape: Shape
    readers: int = 0
    data: bool = False
    final: bool = False


@dataclass
class Made:
    """A generated net, and the record shapes of data layers that only its maker knows."""

    net: pb.NetParameter
    data: dict[str, ops.Datum]
    types: list[str]


class Grower:
    """One net that grows."""

    def __init__(self, random: Random, sources: Sources) -> None:
        self.random = random
        self.sources = sources
        self.net = pb.NetParameter(name="generated")
        self.blobs: list[Blob] = []
        self.data: dict[str, ops.Datum] = {}
        self.types: list[str] = []
        self.shared: dict[tuple[Shape, ...], str] = {}
        self.stored = 0

    # What makers ask.

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def pick(self, *choices: object) -> object:
        return self.random.choice(choices)

    def text(self, **fields: Sequence[object] | object) -> str:
        """Fields with one of several values each; None leaves the field out."""
        words = []
        for name, values in fields.items():
            value = self.random.choice(values) if isinstance(values, (list, tuple, range)) else values
            if value is not None:
                words.append(f"{name}: {value}")
        return " ".join(words)

    def blob(self, *ranks: int, test: Callable[[Shape], bool] = lambda shape: True) -> Blob:
        """A blob with one of some numbers of axes: one that is there, or a new input."""
        fitting = [b for b in self.blobs if not b.final and len(b.shape) in ranks and test(b.shape)]
        if fitting and self.chance(88):
            # Young blobs rather than old ones, or the net would be flat.
            return self.random.choice(fitting[-4:] if self.chance(70) else fitting)
        for _ in range(20):
            shape = self.shape(self.random.choice(ranks))
            if test(shape):
                return self.input(shape)
        return self.input(self.shape(ranks[0]))

    def shape(self, rank: int) -> Shape:
        high = {1: 6, 2: 8, 3: 7, 4: 10}.get(rank, 4)
        shape = tuple(self.random.randint(1, high) for _ in range(rank))
        return (shape[0], self.random.choice((1, 2, 3, 4, 6, 8)), *shape[2:]) if rank == 4 else shape

    def input(self, shape: Shape) -> Blob:
        """A new source of exactly that shape."""
        dims = "".join(f"dim: {dim} " for dim in shape)
        kind = self.random.choice(["Input", "DummyData", "Parameter" if shape else "Input"])
        body = {
            "Input": f"input_param {{ shape {{ {dims} }} }}",
            "DummyData": f"dummy_data_param {{ shape {{ {dims} }} }}",
            "Parameter": f"parameter_param {{ shape {{ {dims} }} }}",
        }[kind]
        made = self.add(kind, body, [], 1)
        assert made is not None, (kind, shape)
        return made[0]

    def exact(self, shape: Shape) -> Blob:
        """A blob of exactly this shape."""
        fitting = [b for b in self.blobs if b.shape == shape and not b.final]
        return self.random.choice(fitting) if fitting and self.chance(60) else self.input(shape)

    # Growing.

    def add(
        self,
        kind: str,
        body: str,
        bottoms: Sequence[Blob],
        tops: int = 1,
        *,
        in_place: bool = False,
        datum: ops.Datum | None = None,
        names: Sequence[str] = (),
    ) -> list[Blob] | None:
        """Adds a layer if it is possible; its new blobs, or None."""
        found = ops.op(kind)
        assert found is not None
        number = len(self.net.layer)
        message = text_format.Parse(body, pb.LayerParameter())
        message.name = f"{kind.lower()}{number}" if not self.chance(10) else f"part/{kind}_{number}"
        message.type = kind
        message.bottom.extend(b.name for b in bottoms)
        message.top.extend(names or [f"b{number}_{index}" for index in range(tops)])
        if in_place:
            message.top[0] = bottoms[0].name
        shapes = [b.shape for b in bottoms]
        try:
            made = found.shapes(message, shapes, datum=datum)
            params = found.params(message, shapes)
        except ops.UnknownShape as error:
            made, params = error.at_load or [(1,)] * tops, []
        except ops.ShapeError:
            return None
        if sum(map(ops.count, made)) > MAX_ELEMENTS or any(ops.count(p) > MAX_ELEMENTS for p in params):
            return None
        if not all(ops.count(top) for top in made):
            return None
        self._decorate(message, found, params, made)
        self.net.layer.append(message)
        self.types.append(kind)
        if datum is not None:
            self.data[message.name] = datum
        for b in bottoms:
            b.readers += 1
        if in_place:
            bottoms[0].readers = int(any(message.loss_weight))
            bottoms[0].shape = made[0]
            return [bottoms[0]]
        new = [Blob(n, tuple(s), final=kind in ALONE, data=not bottoms) for n, s in zip(message.top, made)]
        if new and any(message.loss_weight):
            new[0].readers += 1  # by Caffe itself: nothing may overwrite it
        self.blobs += new
        return new

    def _decorate(self, message: pb.LayerParameter, found: ops.Op, params: list[Shape], tops: list[Shape]) -> None:
        """Loss weights, shared parameters and multipliers, now and then."""
        if message.type == "BatchNorm" or found.custom:
            return
        if params and self.chance(25):
            key = tuple(params)
            share = self.chance(60)
            name = self.shared.setdefault(key, f"{message.name}_w") if share else ""
            for index in range(self.random.randint(1, len(params))):
                if name:  # Caffe wants the same multiplier everywhere
                    message.param.add(name=f"{name}{index}")
                else:
                    message.param.add(lr_mult=self.random.choice((0, 1, 2)))
        if found.loss and self.chance(30):
            message.loss_weight.extend([0.5, *[0] * (max(1, len(message.top)) - 1)])
        elif message.bottom and message.top and not found.loss and message.type not in ALONE and self.chance(6):
            message.loss_weight.extend([self.random.choice((0, 1, 0.25)), *[0] * (len(message.top) - 1)])

    def step(self, kind: str) -> bool:
        """Adds a layer of one type (and what it needs), if some proposal is possible."""
        for _ in range(TRIES):
            layers, blobs = len(self.net.layer), len(self.blobs)
            if MAKERS[kind](self, kind) is not None:
                return True
            # The inputs that it asked for go again.
            del self.net.layer[layers:], self.blobs[blobs:], self.types[layers:]
        return False


Maker = Callable[[Grower, str], object]


def _image(g: Grower) -> Blob:
    return g.blob(4)


def _window(g: Grower, deconv: bool = False) -> str:
    outputs = g.text(num_output=[2, 3, 4, 6], group=[None, None, None, 1, 2, 3], bias_term=[None, None, "false"])
    form = g.random.randrange(4)
    if form == 0:
        window = g.text(kernel_h=[1, 2, 3], kernel_w=[1, 3, 5], stride_h=[None, 1, 2], pad_h=[None, 0, 2])
        window += " stride_w: 2" if "stride_h" in window else ""
        window += " pad_w: 1" if "pad_h" in window else ""
    elif form == 1:
        window = "kernel_size: 3 kernel_size: 2 " + g.text(stride=[None, 1, 2], dilation=[None, 2])
    else:
        window = g.text(kernel_size=range(1, 6), stride=[None, 1, 2, 3], pad=[None, 0, 1, 2], dilation=[None, None, 2])
    return f"{outputs} {window} {g.text(axis=[None, None, None, None, 1, -3, 2], force_nd_im2col=[None, None, 'true'])}"


def _conv(g: Grower, kind: str) -> object:
    bottoms = [g.blob(4, 4, 4, 3, 5)]
    if g.chance(10):
        bottoms.append(g.exact(bottoms[0].shape))
    return g.add(kind, f"convolution_param {{ {_window(g)} }}", bottoms, len(bottoms))


def _im2col(g: Grower, kind: str) -> object:
    fields = g.text(kernel_size=[1, 2, 3], stride=[None, 2], pad=[None, 1], dilation=[None, 2], axis=[None, 1, 2])
    return g.add(kind, f"convolution_param {{ {fields} }}", [_image(g)])


def _pool(g: Grower, kind: str) -> object:
    pool = g.text(pool=["MAX", "AVE", "STOCHASTIC", None], round_mode=[None, None, "FLOOR", "CEIL"])
    if g.chance(15):
        return g.add(kind, f"pooling_param {{ {pool} global_pooling: true }}", [_image(g)])
    if g.chance(20):
        window = g.text(kernel_h=[1, 2, 3], kernel_w=[1, 2, 4], stride_h=[None, 1, 3], pad_h=[None, None, 1])
        window += " stride_w: 2" if "stride_h" in window else ""
        window += " pad_w: 0" if "pad_h" in window else ""
    else:
        window = g.text(kernel_size=range(1, 6), stride=[None, 1, 2, 3], pad=[None, None, 0, 1, 2])
    tops = 2 if g.chance(15) else 1
    return g.add(kind, f"pooling_param {{ {pool} {window} }}", [_image(g)], tops)


def _spp(g: Grower, kind: str) -> object:
    body = g.text(pyramid_height=[1, 2, 3], pool=[None, "AVE", "MAX"])
    return g.add(kind, f"spp_param {{ {body} }}", [_image(g)])


def _neuron(body: Callable[[Grower], str] = lambda g: "") -> Maker:
    def maker(g: Grower, kind: str) -> object:
        bottom = g.blob(4, 4, 2, 1, 3, 5)
        found = ops.op(kind)
        free = found is not None and found.in_place and not bottom.readers and not bottom.data
        return g.add(kind, body(g), [bottom], in_place=free and g.chance(70))

    return maker


def _split(g: Grower, kind: str) -> object:
    return g.add(kind, "", [g.blob(4, 2, 1)], g.random.randint(1, 3))


def _lrn(g: Grower, kind: str) -> object:
    body = g.text(local_size=[1, 3, 5], norm_region=[None, "WITHIN_CHANNEL", "ACROSS_CHANNELS"], alpha=[None, 0.1])
    return g.add(kind, f"lrn_param {{ {body} }}", [_image(g)])


def _scale(g: Grower, kind: str) -> object:
    name = "scale_param" if kind == "Scale" else "bias_param"
    bottom = g.blob(4, 4, 2, 3)
    bias = g.text(bias_term=[None, "true"]) if kind == "Scale" else ""
    axis = g.random.choice([0, 1, 1, 2, -1, -2])
    if g.chance(25):
        start = axis % len(bottom.shape)
        end = g.random.randint(start, len(bottom.shape))
        operand = g.exact(bottom.shape[start:end]) if end > start else g.exact((bottom.shape[start],))
        if operand is bottom:
            return None
        return g.add(kind, f"{name} {{ axis: {axis} {bias} }}", [bottom, operand])
    body = g.text(axis=axis, num_axes=[None, 1, 2, 0, -1])
    free = not bottom.readers and not bottom.data
    return g.add(kind, f"{name} {{ {body} {bias} }}", [bottom], in_place=free and g.chance(60))


def _batch_norm(g: Grower, kind: str) -> object:
    body = g.random.choice(["", "param { lr_mult: 0 } " * 3, "batch_norm_param { use_global_stats: true eps: 0.001 }"])
    bottom = g.blob(4, 4, 2, 3)
    return g.add(kind, body, [bottom], in_place=not bottom.readers and not bottom.data and g.chance(60))


def _mvn(g: Grower, kind: str) -> object:
    body = g.text(across_channels=[None, "true"], normalize_variance=[None, "false"])
    return g.add(kind, f"mvn_param {{ {body} }}", [g.blob(4, 4, 3, 2)])


def _inner(g: Grower, kind: str) -> object:
    body = g.text(num_output=range(1, 9), axis=[None, None, 0, 1, 2, -1], bias_term=[None, "false"])
    return g.add(kind, f"inner_product_param {{ {body} {g.text(transpose=[None, 'true'])} }}", [g.blob(4, 4, 2, 3)])


def _embed(g: Grower, kind: str) -> object:
    body = g.text(num_output=range(1, 6), input_dim=range(1, 9), bias_term=[None, "false"])
    return g.add(kind, f"embed_param {{ {body} }}", [g.blob(1, 2, 3)])


def _concat(g: Grower, kind: str) -> object:
    first = g.blob(4, 4, 2, 3)
    axis = g.random.choice([1, 1, 1, 0, 2, -1])
    if not -len(first.shape) <= axis < len(first.shape):
        return None
    place = axis % len(first.shape)
    rest = [b for b in g.blobs if not b.final and len(b.shape) == len(first.shape)]
    rest = [b for b in rest if all(x == y for i, (x, y) in enumerate(zip(b.shape, first.shape)) if i != place)]
    bottoms = [first, *(g.random.choice(rest) for _ in range(g.random.randint(0, 3)))]
    if len(bottoms) == 1 and g.chance(80):
        shape = list(first.shape)
        shape[place] = g.random.randint(1, 4)
        bottoms.append(g.input(tuple(shape)))
    body = f"axis: {axis}" if g.chance(70) or axis < 0 else f"concat_dim: {axis}"
    return g.add(kind, f"concat_param {{ {body} }}", bottoms)


def _slice(g: Grower, kind: str) -> object:
    axis = g.random.choice([None, 0, 1, 1, 2, -1])
    bottom = g.blob(4, 4, 2, 3, test=lambda shape: max(shape[1:], default=0) > 1)
    if not -len(bottom.shape) <= (axis or 0) < len(bottom.shape):
        return None
    size = bottom.shape[1 if axis is None else axis]
    tops = g.random.randint(1, 3)
    points = ""
    if g.chance(60) and size >= tops:
        points = " ".join(f"slice_point: {p}" for p in sorted(g.random.sample(range(1, size), tops - 1)))
    return g.add(kind, f"slice_param {{ {g.text(axis=axis)} {points} }}", [bottom], tops)


def _eltwise(g: Grower, kind: str) -> object:
    bottom = g.blob(4, 4, 2, 3)
    count = g.random.randint(2, 3)
    body = g.text(operation=["SUM", "PROD", "MAX", None])
    if g.chance(20):
        body = "coeff: 0.5 " * count
    return g.add(kind, f"eltwise_param {{ {body} }}", [bottom, *(g.exact(bottom.shape) for _ in range(count - 1))])


def _crop(g: Grower, kind: str) -> object:
    bottom = g.blob(4, 4, 3)
    axis = g.random.randrange(-1, len(bottom.shape))
    start = axis % len(bottom.shape)
    shape = [g.random.randint(1, size) if i >= start else size for i, size in enumerate(bottom.shape)]
    offset = g.text(offset=[None, 0, 1])
    return g.add(kind, f"crop_param {{ axis: {axis} {offset} }}", [bottom, g.exact(tuple(shape))])


def _silence(g: Grower, kind: str) -> object:
    return g.add(kind, "", [g.blob(1, 2, 3, 4) for _ in range(g.random.randint(1, 3))], 0)


def _batch_reindex(g: Grower, kind: str) -> object:
    return g.add(kind, "", [g.blob(4, 2, 3), g.exact((g.random.randint(1, 5),))])


def _filter(g: Grower, kind: str) -> object:
    first = g.blob(4, 2, 3)
    bottoms = [first]
    if g.chance(40):
        bottoms.append(g.blob(2, 3, 4, test=lambda shape: shape[0] == first.shape[0]))
    selector = g.exact((first.shape[0], *(1,) * g.random.randint(0, 2)))
    return g.add(kind, "", [*bottoms, selector], len(bottoms))


def _flatten(g: Grower, kind: str) -> object:
    return g.add(
        kind, f"flatten_param {{ {g.text(axis=[None, 0, 1, 2, -2], end_axis=[None, -1, 2, 3])} }}", [g.blob(4, 3)]
    )


def _reshape(g: Grower, kind: str) -> object:
    dims = g.random.choice([(0, -1), (0, 0, -1), (-1,), (0, -1, 1, 1), (0, -1, 0), (1, -1), (-1, 1), (0, 0, 0, -1), ()])
    body = "".join(f"dim: {dim} " for dim in dims)
    extra = g.text(axis=[None, None, 1, -1], num_axes=[None, None, 1, 2, 0])
    return g.add(kind, f"reshape_param {{ shape {{ {body} }} {extra} }}", [g.blob(4, 2, 3)])


def _tile(g: Grower, kind: str) -> object:
    return g.add(kind, f"tile_param {{ {g.text(axis=[None, 0, 1, -1], tiles=[1, 2, 3])} }}", [g.blob(4, 2, 3)])


def _reduction(g: Grower, kind: str) -> object:
    body = g.text(axis=[None, 0, 1, 2, -1], operation=[None, "SUM", "ASUM", "SUMSQ", "MEAN"])
    return g.add(kind, f"reduction_param {{ {body} }}", [g.blob(4, 2, 3)])


def _argmax(g: Grower, kind: str) -> object:
    body = g.text(top_k=[None, 1, 2], out_max_val=[None, "true"], axis=[None, None, 1, -1])
    return g.add(kind, f"argmax_param {{ {body} }}", [g.blob(4, 2, 3)])


def _labels(g: Grower, shape: Shape, axis: int) -> Blob:
    shape = (*shape[:axis], *shape[axis + 1 :])
    return g.exact(shape if g.chance(60) or len(shape) > 3 else (shape[0], 1, *shape[1:]))


def _axis(g: Grower, bottom: Blob) -> int:
    return g.random.choice([1, 1, 1, *range(1, len(bottom.shape)), -1])


def _class_loss(param: str) -> Maker:
    def maker(g: Grower, kind: str) -> object:
        bottom = g.blob(2, 2, 4)
        axis = _axis(g, bottom)
        label = _labels(g, bottom.shape, axis % len(bottom.shape))
        return g.add(kind, f"{param} {{ axis: {axis} }}", [bottom, label], g.random.randint(0, 1))

    return maker


def _infogain(g: Grower, kind: str) -> object:
    if g.chance(30) and g.sources.infogain:
        bottom = g.exact((g.random.randint(1, 4), g.sources.infogain_classes))
        body = f'infogain_loss_param {{ source: "{g.sources.infogain}" }}'
        return g.add(kind, body, [bottom, g.exact(bottom.shape[:1])], g.random.randint(0, 2))
    bottom = g.blob(2, 2, 4)
    axis = _axis(g, bottom) % len(bottom.shape)
    classes = bottom.shape[axis]
    if classes**2 > MAX_ELEMENTS:
        return None
    bottoms = [bottom, _labels(g, bottom.shape, axis), g.exact((classes, classes))]
    return g.add(kind, f"infogain_loss_param {{ axis: {axis} }}", bottoms, g.random.randint(0, 2))


def _pair_loss(g: Grower, kind: str) -> object:
    bottom = g.blob(2, 4, 3)
    other = g.exact(bottom.shape if g.chance(70) else (*bottom.shape, 1))
    return g.add(kind, "", [bottom, other], g.random.randint(0, 1))


def _item_loss(g: Grower, kind: str) -> object:
    bottom = g.blob(2, 2, 4)
    return g.add(kind, "", [bottom, g.exact(bottom.shape[:1])], g.random.randint(0, 1))


def _contrastive(g: Grower, kind: str) -> object:
    bottom = g.blob(2)
    return g.add(kind, "", [bottom, g.exact(bottom.shape), g.exact(bottom.shape[:1])], g.random.randint(0, 1))


def _accuracy(g: Grower, kind: str) -> object:
    bottom = g.blob(2, 2, 4, 3)
    axis = _axis(g, bottom)
    label = _labels(g, bottom.shape, axis % len(bottom.shape))
    body = g.text(axis=axis, top_k=[None, None, 2, 3], ignore_label=[None, 0])
    return g.add(kind, f"accuracy_param {{ {body} }}", [bottom, label], g.random.randint(1, 2))


def _recurrent(g: Grower, kind: str) -> object:
    x = g.blob(3, 3, 4)
    hidden = g.random.randint(1, 4)
    states = (2 if kind == "LSTM" else 1) if g.chance(40) else 0
    bottoms = [x, g.exact(x.shape[:2])]
    if g.chance(40):
        bottoms.append(g.exact((x.shape[1], *g.shape(g.random.randint(1, 2)))))
    bottoms += [g.input((1, x.shape[1], hidden)) for _ in range(states)]
    body = f"num_output: {hidden} {'expose_hidden: true' if states else ''}"
    return g.add(kind, f"recurrent_param {{ {body} }}", bottoms, 1 + states)


def _lstm_unit(g: Grower, kind: str) -> object:
    batch, hidden = g.random.randint(1, 4), g.random.randint(1, 4)
    bottoms = [g.exact((1, batch, hidden)), g.exact((1, batch, 4 * hidden)), g.exact((1, batch))]
    return g.add(kind, "", bottoms, 2)


def _input(g: Grower, kind: str) -> object:
    shapes = [g.shape(g.random.choice([1, 2, 3, 4, 4])) for _ in range(g.random.randint(1, 2))]
    body = " ".join("shape {" + "".join(f" dim: {dim}" for dim in shape) + " }" for shape in shapes)
    name = "input_param" if kind == "Input" else "dummy_data_param"
    if kind == "DummyData" and g.chance(25):
        body = (
            "num: 2 channels: 3 height: 5 width: 4" if g.chance(50) else "num: 1 num: 2 channels: 3 height: 4 width: 4"
        )
        return g.add(kind, f"{name} {{ {body} }}", [], 2)
    return g.add(kind, f"{name} {{ {body} }}", [], len(shapes) if len(shapes) > 1 else g.random.randint(1, 2))


def _parameter(g: Grower, kind: str) -> object:
    dims = "".join(f"dim: {dim} " for dim in g.shape(g.random.choice([1, 2, 4])))
    return g.add(kind, f"parameter_param {{ shape {{ {dims} }} }}", [])


def _memory_data(g: Grower, kind: str) -> object:
    body = g.text(batch_size=[1, 3], channels=[1, 3], height=[4, 5], width=[5, 6])
    return g.add(kind, f"memory_data_param {{ {body} }}", [], 2)


def _data(g: Grower, kind: str) -> object:
    if not g.sources.records:
        return None
    path, shape, encoded = g.random.choice(g.sources.records)
    transform = g.text(crop_size=[None, 3, 4], mirror=[None, "true"], scale=[None, 0.5], mean_value=[None, 9])
    if g.sources.mean and shape == g.sources.image_shape and "mean_value" not in transform and g.chance(30):
        transform += f' mean_file: "{g.sources.mean}"'
    elif encoded:
        transform += " " + str(g.pick("", "force_color: true", "force_gray: true"))
    body = f'data_param {{ source: "{path}" backend: LMDB batch_size: {g.random.randint(1, 4)} }}'
    return g.add(kind, f"{body} transform_param {{ {transform} }}", [], g.random.randint(1, 2), datum=shape)


def _image_data(g: Grower, kind: str) -> object:
    if not g.sources.images:
        return None
    size = str(g.pick("", "new_height: 5 new_width: 8", "is_color: false", "shuffle: true"))
    body = f'image_data_param {{ source: "{g.sources.images}" batch_size: {g.random.randint(1, 3)} {size} }}'
    crop = g.text(crop_size=[None, 4])
    return g.add(kind, f"{body} transform_param {{ {crop} }}", [], 2, datum=g.sources.image_shape)


def _window_data(g: Grower, kind: str) -> object:
    if not g.sources.windows:
        return None
    body = f'window_data_param {{ source: "{g.sources.windows}" batch_size: {g.pick(4, 8)} fg_fraction: 0.25 }}'
    crop = g.text(crop_size=[3, 5])
    return g.add(kind, f"{body} transform_param {{ {crop} }}", [], 2, datum=(3, 20, 30))


def _hdf5_data(g: Grower, kind: str) -> object:
    if not g.sources.hdf5 or any(b.name in g.sources.hdf5_shapes for b in g.blobs):
        return None  # the blobs' names are those of the file's data sets
    names = list(g.sources.hdf5_shapes)[: g.random.randint(1, len(g.sources.hdf5_shapes))]
    body = f'hdf5_data_param {{ source: "{g.sources.hdf5}" batch_size: {g.random.randint(1, 5)} }}'
    return g.add(kind, body, [], len(names), datum=dict(g.sources.hdf5_shapes), names=names)


def _hdf5_output(g: Grower, kind: str) -> object:
    first = g.blob(4)
    number = len(g.net.layer)
    body = f'hdf5_output_param {{ file_name: "{g.sources.folder / f"out{number}.h5"}" }}'
    return g.add(kind, body, [first, g.exact((first.shape[0], 1, 1, 1))], 0)


def _python(g: Grower, kind: str) -> object:
    body = f'python_param {{ module: "{g.sources.python_module}" layer: "Same" }}'
    return g.add(kind, body, [g.blob(2, 4)]) if g.sources.python_module else None


MAKERS: dict[str, Maker] = {
    **dict.fromkeys(("AbsVal", "BNLL", "ELU", "Sigmoid", "Swish", "TanH", "Threshold"), _neuron()),
    "Accuracy": _accuracy,
    "ArgMax": _argmax,
    "BatchNorm": _batch_norm,
    "BatchReindex": _batch_reindex,
    "Bias": _scale,
    "Clip": _neuron(lambda g: "clip_param { min: 0 max: 6 }"),
    "Concat": _concat,
    "ContrastiveLoss": _contrastive,
    "Convolution": _conv,
    "Crop": _crop,
    "Data": _data,
    "Deconvolution": _conv,
    "Dropout": _neuron(lambda g: f"dropout_param {{ {g.text(dropout_ratio=[None, 0.3])} }}"),
    "DummyData": _input,
    "Eltwise": _eltwise,
    "Embed": _embed,
    "EuclideanLoss": _pair_loss,
    "Exp": _neuron(lambda g: f"exp_param {{ {g.text(base=[None, 2], scale=[None, 3])} }}"),
    "Filter": _filter,
    "Flatten": _flatten,
    "HDF5Data": _hdf5_data,
    "HDF5Output": _hdf5_output,
    "HingeLoss": _item_loss,
    "Im2col": _im2col,
    "ImageData": _image_data,
    "InfogainLoss": _infogain,
    "InnerProduct": _inner,
    "Input": _input,
    "LRN": _lrn,
    "LSTM": _recurrent,
    "LSTMUnit": _lstm_unit,
    "Log": _neuron(lambda g: f"log_param {{ {g.text(base=[None, 10])} }}"),
    "MVN": _mvn,
    "MemoryData": _memory_data,
    "MultinomialLogisticLoss": _item_loss,
    "PReLU": _neuron(lambda g: f"prelu_param {{ {g.text(channel_shared=[None, 'true'])} }}"),
    "Parameter": _parameter,
    "Pooling": _pool,
    "Power": _neuron(lambda g: f"power_param {{ {g.text(power=[None, 2], scale=[None, 3])} }}"),
    "Python": _python,
    "RNN": _recurrent,
    "ReLU": _neuron(lambda g: f"relu_param {{ {g.text(negative_slope=[None, 0.1])} }}"),
    "Reduction": _reduction,
    "Reshape": _reshape,
    "SPP": _spp,
    "Scale": _scale,
    "SigmoidCrossEntropyLoss": _pair_loss,
    "Silence": _silence,
    "Slice": _slice,
    "Softmax": _neuron(lambda g: f"softmax_param {{ {g.text(axis=[None, -1])} }}"),
    "SoftmaxWithLoss": _class_loss("softmax_param"),
    "Split": _split,
    "Tile": _tile,
    "WindowData": _window_data,
}


def grow(random: Random, sources: Sources) -> Made:
    """A net of 5 to 25 layers, or a few more."""
    grower = Grower(random, sources)
    wanted = random.randint(5, 25)
    kinds = sorted(MAKERS)
    # Half of the layers are what nets are mostly made of, so that what is rare has something to stand on.
    common = ["Convolution", "ReLU", "Pooling", "InnerProduct", "Concat", "Eltwise", "BatchNorm", "Scale", "LRN"]
    while len(grower.net.layer) < wanted:
        grower.step(random.choice(common if random.randrange(100) < 35 else kinds))
    return Made(grower.net, grower.data, grower.types)
