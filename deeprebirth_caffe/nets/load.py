"""Reading a net with its weights and the shapes of its data, checked before any work starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.formats.caffemodel import matches_shape
from deeprebirth_caffe.formats.records import datum_shape
from deeprebirth_caffe.ir import Layer, Net, NetState, View, Weights, WeightsError, param_shapes
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.wording import counted

ALL_OF_A_TEACHER = "a teacher needs all its weights"
"""Why `need_weights` refuses those of a teacher."""
MAX_SPELLED = 12
MAX_NAMED = 3
"""How many layers an error names before it only counts them."""


def load_net(path: str | Path, weights: str | Path | None = None, shapes: Mapping[str, Shape] | None = None) -> Net:
    """Reads a prototxt and, where given, the weights for it.

    Args:
        path: of the prototxt.
        weights: of a .caffemodel.
        shapes: (C, H, W) by blob, for data layers that do not say it themselves (`--input-shape`).

    Raises:
        RebirthError: a file cannot be read, the net is not sound, or the weights are another net's.
        UsageError: `shapes` names a blob that the net does not have.
    """
    net = Net.read(path)
    if weights is not None:
        net.weights = Weights.read(weights, [layer.param for layer in net.layers])
        _reorder(net, net.weights)
    _find_data_shapes(net, Path(path).parent, dict(shapes or {}))
    _ = net.views
    if net.weights is not None:
        check_weights(net, net.weights)
    return net


def _reorder(net: Net, weights: Weights) -> None:
    """Puts the five blobs of NVCaffe 0.15's BatchNorm, scale and bias first, in the order of all later ones."""
    for layer in net.layers:
        if layer.type == "BatchNorm" and layer.name in weights:
            blobs = weights[layer.name]
            if len(blobs) == 5 and blobs[4].size == 1 < blobs[2].size:
                weights.set(layer.name, [blobs[index] for index in (2, 3, 4, 0, 1)])


def upgrade_notes(net: Net) -> list[str]:
    """For people: what a net was read from that is not a whole net in today's form, and what that left out."""
    source = net.source
    notes = [f"this file has no {phase}: {reason}" for phase, reason in net.absent.items()]
    if source is None or not source.forms:
        return notes
    form = "V0" if "V0" in source.forms else "V1"
    return [f"{source.name}: in Caffe's old form {form}; read, and written, in today's", *source.notes, *notes]


def both_phases(net: Net, path: Path) -> str:
    """What to say of a net of one phase where both are needed."""
    missing = next(iter(net.absent))
    return (
        f"{path} has no {missing}, and a schedule trains and tests; put the layers of the other file that are for "
        f"{missing} alone into this one, with `include {{ phase: {missing} }}`"
    )


def _find_data_shapes(net: Net, folder: Path, shapes: dict[str, Shape]) -> None:
    """Fills `net.data`: what the user says, else the first record of the source, else crop_size and channels."""
    known = {top for layer in net.layers for top in layer.tops} | set(net.header.input)
    given = {top for layer in net.layers if layer.fed for top in layer.tops}
    for name in shapes:
        if name not in known:
            raise UsageError(f'--input-shape names blob "{name}", which no layer of this net puts out')
        if name not in given | set(net.header.input):
            raise UsageError(f'--input-shape names blob "{name}", which is no input of this net')
    if net.header.input and any(name in shapes for name in net.header.input):
        _set_header_shapes(net, shapes)
    for layer in net.layers:
        if not layer.fed:
            continue
        said = next((shapes[top] for top in layer.tops if top in shapes), None)
        if layer.type == "Input":
            if said is not None:
                _set_input_shape(layer, shapes)
            continue
        found = said or _from_source(layer, folder) or _from_transform(net, layer)
        if found is not None:
            net.data[layer] = found


def _set_header_shapes(net: Net, shapes: Mapping[str, Shape]) -> None:
    header = net.header
    for index, name in enumerate(header.input):
        if name in shapes:
            if index < len(header.input_shape):
                header.input_shape[index].dim[1:] = shapes[name]
            elif len(header.input_dim) >= 4 * (index + 1):
                header.input_dim[4 * index + 1 : 4 * index + 4] = shapes[name]
            elif len(header.input_shape) == index:
                header.input_shape.add().dim.extend((1, *shapes[name]))


def _set_input_shape(layer: Layer, shapes: Mapping[str, Shape]) -> None:
    param = layer.param.input_param
    for index, top in enumerate(layer.tops):
        if top in shapes:
            while len(param.shape) <= index:
                param.shape.add().dim.append(1)
            batch = param.shape[index].dim[0] if param.shape[index].dim else 1
            del param.shape[index].dim[:]
            param.shape[index].dim.extend((batch, *shapes[top]))


def _from_source(layer: Layer, folder: Path) -> Shape | None:
    """(C, H, W) of the first record of a data layer's source, where it is there and can be read."""
    param = layer.param
    if layer.type == "Data":
        return datum_shape(param.data_param.source, pb.DataParameter.DB.Name(param.data_param.backend), folder)
    if layer.type == "ImageData":
        images = param.image_data_param
        return datum_shape(images.source, "IMAGES", folder, image_root=images.root_folder)
    return None


def _from_transform(net: Net, layer: Layer) -> Shape | None:
    """crop_size for height and width; channels from the weights or fillers that follow, or the mean values."""
    transform = layer.param.transform_param
    size = (transform.crop_size, transform.crop_size)
    if layer.type == "ImageData" and layer.param.image_data_param.new_height:
        size = (layer.param.image_data_param.new_height, layer.param.image_data_param.new_width)
    if not size[0]:
        return None
    channels = _channels(net, layer)
    return (channels, *size) if channels else None


def _channels(net: Net, layer: Layer) -> int:
    transform = layer.param.transform_param
    if len(transform.mean_value) > 1:
        return len(transform.mean_value)
    if transform.force_gray:
        return 1
    if transform.force_color or layer.type == "WindowData":
        return 3
    if layer.type == "ImageData":
        return 3 if layer.param.image_data_param.is_color else 1
    for other in net.layers:
        if other.type == "Convolution" and layer.tops[0] in other.bottoms and net.weights and other.name in net.weights:
            group = other.param.convolution_param.group
            return int(net.weights[other.name][0].shape[1]) * group
    return 0


def check_weights(net: Net, weights: Weights, views: Iterable[View] | None = None) -> None:
    """Refuses weights that do not fit, see `check_fit`, and those that hold numbers that are none.

    Raises:
        WeightsError: a number is not finite, or they do not fit.
    """
    check_fit(net, weights, views)
    for name in weights:
        if not weights.finite(name):
            path = weights.path or "the weights"
            raise WeightsError(f"{path}: layer {name} holds NaN or infinite numbers; these weights have diverged")


def check_fit(net: Net, weights: Weights, views: Iterable[View] | None = None) -> None:
    """Refuses weights that Caffe would not load into the net in one of its states, and those of another net.

    Args:
        net: what they are for.
        weights: as they were read.
        views: of the net, those that count; None for all.

    Raises:
        WeightsError: a blob has another shape than the net wants in a state, no layer is found by its name, or two
            layers of one name want weights.
    """
    path = weights.path or "the weights"
    wrong: dict[str, str] = {}
    found = wanted = False
    wants = list(_wants(net.views if views is None else views))
    states = Counter(want.layer.name for want in wants)
    for want in wants:
        name = want.layer.name
        wanted |= want.something
        if name not in weights:
            continue
        found = True
        have = [tuple(blob.shape) for blob in weights[name]]
        if want.again and want.something:
            raise WeightsError(
                f'{want.layer.where}: two layers that learn are called "{name}"; Caffe finds weights by name, and '
                f"would load those of {path} into the first alone; rename one of them"
            )
        if not want.again and want.shapes is not None and not _loads(have, want.shapes, weights.legacy(name)):
            where = f" in {want.state}" if states[name] > 1 else ""
            wrong.setdefault(name, f"{name} wants {_spell(want.shapes)}{where} and the file has {_spell(have)}")
    if wanted and not found:
        raise WeightsError(f"{path}: none of its {len(weights)} layers has a name of this net; another net's weights?")
    if wrong:
        more = f" (and {len(wrong) - MAX_NAMED} more)" if len(wrong) > MAX_NAMED else ""
        raise WeightsError(
            f"{path}: the shapes of {counted(len(wrong), 'layer')} differ: "
            f"{'; '.join(list(wrong.values())[:MAX_NAMED])}{more}; are these the weights of another net?"
        )


def layers_without_weights(net: Net) -> list[str]:
    """The layers that want weights and find none by their name: Caffe would leave them at random without a word."""
    return [] if net.weights is None else unnamed_layers(net.views, net.weights)


def unnamed_layers(views: Iterable[View], weights: Weights) -> list[str]:
    """The layers of some views that want weights and are not in a file of weights, by name."""
    missing = (want.layer.name for want in _wants(views) if want.something and want.layer.name not in weights)
    return list(dict.fromkeys(missing))


def need_weights(net: Net, path: Path, weights: Path, names: Collection[str], why: str) -> None:
    """Refuses weights that leave layers at random which count.

    Args:
        net: with its weights.
        path: of the net.
        weights: of their file.
        names: of the layers that count.
        why: what to say about it.

    Raises:
        WeightsError: it names the first such layer, and how many more there are.
    """
    missing = [name for name in layers_without_weights(net) if name in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{weights}: has nothing for layer {missing[0]} of {path}{more}; {why}")


@dataclass(frozen=True)
class _Want:
    """What Caffe would allocate for a layer.

    Attributes:
        layer: the layer.
        shapes: of its learned blobs; None where they are not known.
        state: in which this is so.
        again: whether a layer of the same name stands before it.
    """

    layer: Layer
    shapes: tuple[Shape, ...] | None
    state: NetState
    again: bool

    @property
    def something(self) -> bool:
        """Whether the layer wants weights, as far as that is known."""
        return bool(self.shapes) or (self.shapes is None and self.layer.traits.tensor)


def _wants(views: Iterable[View]) -> Iterator[_Want]:
    """What the layers of each state want; where two states want the same of a layer, the first stands for both."""
    said: set[tuple[Layer, tuple[Shape, ...] | None]] = set()
    for view in views:
        names: set[str] = set()
        for layer in view.layers:
            shapes = param_shapes(view, layer) if not layer.unknown else None
            if (layer, shapes) not in said:
                said.add((layer, shapes))
                yield _Want(layer, shapes, view.state, layer.name in names)
            names.add(layer.name)


def _loads(have: Sequence[Shape], want: Sequence[Shape], legacy: Sequence[bool]) -> bool:
    """Caffe's rule: as many blobs, each of the shape that the layer wants."""
    return len(have) == len(want) and all(
        matches_shape(mine, its, old) for mine, its, old in zip(have, want, legacy, strict=True)
    )


def _spell(shapes: Sequence[Shape]) -> str:
    some = " + ".join("x".join(map(str, shape)) for shape in shapes[:MAX_SPELLED])
    return (some or "nothing") + (f" and {len(shapes) - MAX_SPELLED} more" if len(shapes) > MAX_SPELLED else "")
