"""V0, Caffe's form of 2013: all settings of a layer lie flat in ``layers { layer { ... } }``.

It becomes V1. A padding layer, which V0 had instead of ``pad``, goes into the convolution or pooling behind it.
"""

from __future__ import annotations

from typing import Any

from deeprebirth_caffe.formats.legacy import V0_TYPES
from deeprebirth_caffe.formats.upgrade.notes import Note, Upgrade, UpgradeError
from deeprebirth_caffe.proto import caffe_pb2 as pb

PADDING = "padding"
_ANY = ""
_WEIGHTS = {"conv": "convolution_param", "innerproduct": "inner_product_param"}
_WINDOWS = {"conv": "convolution_param", "pool": "pooling_param"}
_LRN = {"lrn": "lrn_param"}
_IMAGES = {"images": "image_data_param"}
_BOXES = {"window_data": "window_data_param"}
_TRANSFORM = {_ANY: "transform_param"}

RULES: dict[str, tuple[str, dict[str, str]]] = {
    "num_output": ("num_output", _WEIGHTS),
    "biasterm": ("bias_term", _WEIGHTS),
    "weight_filler": ("weight_filler", _WEIGHTS),
    "bias_filler": ("bias_filler", _WEIGHTS),
    "pad": ("pad", _WINDOWS),
    "kernelsize": ("kernel_size", _WINDOWS),
    "group": ("group", {"conv": "convolution_param"}),
    "stride": ("stride", _WINDOWS),
    "pool": ("pool", {"pool": "pooling_param"}),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", _LRN),
    "alpha": ("alpha", _LRN),
    "beta": ("beta", _LRN),
    "k": ("k", _LRN),
    "source": (
        "source",
        {
            "data": "data_param",
            "hdf5_data": "hdf5_data_param",
            "images": "image_data_param",
            "window_data": "window_data_param",
            "infogain_loss": "infogain_loss_param",
        },
    ),
    "scale": ("scale", _TRANSFORM),
    "meanfile": ("mean_file", _TRANSFORM),
    "batchsize": (
        "batch_size",
        {
            "data": "data_param",
            "hdf5_data": "hdf5_data_param",
            "images": "image_data_param",
            "window_data": "window_data_param",
        },
    ),
    "cropsize": ("crop_size", _TRANSFORM),
    "mirror": ("mirror", _TRANSFORM),
    "rand_skip": ("rand_skip", {"data": "data_param", "images": "image_data_param"}),
    "shuffle_images": ("shuffle", _IMAGES),
    "new_height": ("new_height", _IMAGES),
    "new_width": ("new_width", _IMAGES),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
    "det_fg_threshold": ("fg_threshold", _BOXES),
    "det_bg_threshold": ("bg_threshold", _BOXES),
    "det_fg_fraction": ("fg_fraction", _BOXES),
    "det_context_pad": ("context_pad", _BOXES),
    "det_crop_mode": ("crop_mode", _BOXES),
    "hdf5_output_param": ("hdf5_output_param", {"hdf5_output": ""}),
}
"""V0 field -> (V1 field, {V0 type: the message of V1 it lies in}); the type "" stands for every type."""

_PLAIN = ("name", "type", "blobs", "blobs_lr", "weight_decay")
_SILENT = ("new_num", "new_channels")
"""Fields of a type that no release had; Caffe passes over them without a word."""


def needs_upgrade(net: pb.NetParameter) -> bool:
    """Whether a net has a V0 layer."""
    return any(layer.HasField("layer") for layer in net.layers)


def upgrade(net: pb.NetParameter, report: Upgrade) -> None:
    """Turns a V0 net into a V1 net, in place.

    Raises:
        UpgradeError: an unknown type, a blob that nothing puts out, a padding layer that is not followed by a
            convolution or pooling.
    """
    layers, places = _merge_padding(net, report)
    new = pb.NetParameter()
    for name in ("name", "force_backward"):
        if net.HasField(name):
            setattr(new, name, getattr(net, name))
    new.input.extend(net.input)
    new.input_dim.extend(net.input_dim)
    for index, layer in zip(places, layers, strict=True):
        new.layers.append(_upgrade_layer(layer, index, report))
    lost = [field.name for field, _ in net.ListFields() if field.name in ("input_shape", "state", "debug_info")]
    if lost:
        report.notes.append(Note(f"the V0 form has no {' and no '.join(lost)} beside its layers; left out"))
    net.CopyFrom(new)
    report.places = list(places)


def _merge_padding(net: pb.NetParameter, report: Upgrade) -> tuple[list[pb.V1LayerParameter], list[int]]:
    """The layers without those of type padding, and their places."""
    last_top: dict[str, int | None] = dict.fromkeys(net.input)
    layers: list[pb.V1LayerParameter] = []
    places: list[int] = []
    merged: set[int] = set()
    for index, old in enumerate(net.layers):
        layer = pb.V1LayerParameter()
        layer.CopyFrom(old)
        name, kind = old.layer.name, old.layer.type
        if kind != PADDING:
            layers.append(layer)
            places.append(index)
        for position, blob in enumerate(old.bottom):
            if blob not in last_top:
                raise UpgradeError(
                    f'reads blob "{blob}", which no layer before it puts out; correct the name', index, name
                )
            source_at = last_top[blob]
            source = net.layers[source_at] if source_at is not None else None
            if source is None or source.layer.type != PADDING:
                continue
            if kind not in ("conv", "pool"):
                raise UpgradeError(
                    f'reads padding layer "{source.layer.name}", but only convolution and pooling can pad; '
                    f"take the padding layer out",
                    index,
                    name,
                )
            if len(old.bottom) != 1 or len(source.bottom) != 1 or len(source.top) != 1:
                raise UpgradeError(
                    f'it and padding layer "{source.layer.name}" must have one input each and the padding one '
                    "output; correct their bottoms and tops",
                    index,
                    name,
                )
            layer.layer.pad = source.layer.pad
            layer.bottom[position] = source.bottom[0]
            merged.add(source_at if source_at is not None else -1)
            report.notes.append(
                Note(f'padding layer "{source.layer.name}" goes into it (pad: {source.layer.pad})', index, name)
            )
        last_top.update(dict.fromkeys(old.top, index))
    for index, old in enumerate(net.layers):
        if old.layer.type == PADDING and index not in merged:
            report.notes.append(Note("a padding layer that nothing reads; left out", index, old.layer.name))
    return layers, places


def _upgrade_layer(old: pb.V1LayerParameter, index: int, report: Upgrade) -> pb.V1LayerParameter:
    new = pb.V1LayerParameter()
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    flat = old.layer
    outside = [field.name for field, _ in old.ListFields() if field.name not in ("bottom", "top", "layer")]
    if outside:
        report.notes.append(
            Note(
                f"beside 'layer' the V0 form has bottom and top alone; {', '.join(outside)} left out", index, flat.name
            )
        )
    if flat.HasField("name"):
        new.name = flat.name
    if flat.HasField("type"):
        if flat.type not in V0_TYPES:
            raise UpgradeError(f'the V0 form has no layer type "{flat.type}"; correct it', index, flat.name)
        _put(new, "type", V0_TYPES[flat.type])
    new.blobs.extend(flat.blobs)
    new.blobs_lr.extend(flat.blobs_lr)
    new.weight_decay.extend(flat.weight_decay)
    for field, value in flat.ListFields():
        if field.name in _PLAIN:
            continue
        if field.name in _SILENT:
            report.notes.append(Note(f"'{field.name}' means nothing to any layer; left out", index, flat.name))
            continue
        target, homes = RULES[field.name]
        home = homes.get(flat.type, homes.get(_ANY))
        if home is None:
            report.complete = False
            report.notes.append(
                Note(f"'{field.name}' means nothing to a layer of type \"{flat.type}\"; left out", index, flat.name)
            )
            continue
        _put(getattr(new, home) if home else new, target, value)
    return new


def _put(message: Any, name: str, value: Any) -> None:
    """Sets a field, or adds to it: V1 lets each axis of a window have a size of its own."""
    kept = getattr(message, name)
    if hasattr(kept, "append"):
        kept.append(value)
    elif hasattr(kept, "CopyFrom"):
        kept.CopyFrom(value)
    else:
        setattr(message, name, value)
