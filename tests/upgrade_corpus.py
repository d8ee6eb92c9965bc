"""Nets and solvers in Caffe's old forms, made from the descriptors so that no type and no field is missing.

``python tests/upgrade_corpus.py`` prints what is covered.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, product
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from deeprebirth_caffe.formats.legacy import V0_TYPES, V1_TYPES
from deeprebirth_caffe.formats.prototxt.fields import is_repeated
from deeprebirth_caffe.formats.upgrade import v0
from deeprebirth_caffe.proto import caffe_pb2 as pb

V1 = pb.V1LayerParameter
V1_FIELDS = [field.name for field in V1.DESCRIPTOR.fields if field.name != "layer"]
V0_FIELDS = [field.name for field in pb.V0LayerParameter.DESCRIPTOR.fields]
HOMES = {V1.DATA: "data_param", V1.IMAGE_DATA: "image_data_param", V1.WINDOW_DATA: "window_data_param"}
MOVED = {"scale": 0.5, "mean_file": "mean", "crop_size": 7, "mirror": True}
REPEATS = 2


def _scalar(field: FieldDescriptor, number: int) -> Any:
    """A value that is not the field's default; floats are exact in any spelling."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return b"\x00\xff" if field.type == FieldDescriptor.TYPE_BYTES else f'{field.name} "{number}"\n\'\\'
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return not field.default_value
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        values = [value.number for value in field.enum_type.values]
        return values[number % len(values)]
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return number + 0.125
    return number % 1000 + 1


def fill(message: Message, only: list[str] | None = None, numbers: Iterator[int] | None = None) -> Any:
    """Sets fields of a message (all, or those named), all of their fields inside; repeated ones twice."""
    numbers = numbers or count(1)
    for field in message.DESCRIPTOR.fields:
        if only is not None and field.name not in only:
            continue
        if field.message_type is not None:
            if is_repeated(field):
                for _ in range(REPEATS):
                    fill(getattr(message, field.name).add(), None, numbers)
            else:
                getattr(message, field.name).SetInParent()
                fill(getattr(message, field.name), None, numbers)
        elif is_repeated(field):
            getattr(message, field.name).extend(_scalar(field, next(numbers)) for _ in range(REPEATS))
        else:
            setattr(message, field.name, _scalar(field, next(numbers)))
    return message


def _header(net: pb.NetParameter, inputs: int = 1, dims: int = 4, shapes: int = 0) -> pb.NetParameter:
    net.name = "old"
    net.input.extend(f"in{number}" for number in range(inputs))
    net.input_dim.extend(range(1, dims + 1))
    for number in range(shapes):
        net.input_shape.add().dim.extend(range(1, number + 3))
    net.force_backward = True
    return net


def v1_nets() -> dict[str, pb.NetParameter]:
    """V1 nets: every type with every field, every type and field alone, and what depends on neighbours."""
    nets: dict[str, pb.NetParameter] = {}
    full = nets["all_fields"] = _header(pb.NetParameter())
    alone = nets["types_alone"] = pb.NetParameter(debug_info=True)
    for name, number in V1.LayerType.items():
        fill(full.layers.add(), V1_FIELDS).type = number
        alone.layers.add(name=name.lower(), type=number)
    fields = nets["fields_alone"] = fill(pb.NetParameter(), ["name", "state", "debug_info", "force_backward"])
    for name in V1_FIELDS:
        fill(fields.layers.add(), [name])
    fields.layers.add()
    for (number, home), (field, value) in product(HOMES.items(), MOVED.items()):
        net = nets[f"{home}_{field}"] = pb.NetParameter()
        setattr(getattr(net.layers.add(name="a", type=number), home), field, value)
        both = net.layers.add(name="b", type=number)
        setattr(getattr(both, home), field, value)
        fill(both, ["transform_param"])
        # Neighbours of the three types come out with empty messages; others do not.
        net.layers.add(name="c", type=V1.DATA, top=["c"])
        net.layers.add(name="d", type=V1.RELU).data_param.scale = 3
    kept = nets["transform_untouched"] = pb.NetParameter()
    for number, home in HOMES.items():
        getattr(kept.layers.add(type=number), home).source = "x"
    kept.layers.add(type=V1.HDF5_DATA).data_param.mirror = True
    params = nets["params"] = pb.NetParameter()
    for sizes in product(range(3), repeat=4):
        layer = params.layers.add(name="-".join(map(str, sizes)), type=V1.CONVOLUTION)
        layer.param.extend(f"p{number}" for number in range(sizes[0]))
        layer.blob_share_mode.extend((V1.PERMISSIVE, V1.STRICT)[: sizes[1]])
        layer.blobs_lr.extend((1, 2)[: sizes[2]])
        layer.weight_decay.extend((0.5, 0)[: sizes[3]])
    for name, sizes in {"dims": (2, 8, 0), "spare": (1, 9, 0), "shapes": (2, 0, 2), "both": (2, 4, 3)}.items():
        net = nets[f"input_{name}"] = _header(pb.NetParameter(), *sizes)
        net.layers.add(name="a", type=V1.RELU, bottom=["in0"], top=["a"])
    bare = nets["input_bare"] = _header(pb.NetParameter(), 1, 0)
    bare.layers.add(name="a", type=V1.RELU, bottom=["in0"], top=["a"])
    return nets


def v0_nets() -> dict[str, pb.NetParameter]:
    """V0 nets: every type with all of its fields, every type with every field alone, padding, leftovers."""
    nets: dict[str, pb.NetParameter] = {}
    own = nets["own_fields"] = _header(pb.NetParameter())
    for kind in V0_TYPES:
        names = ["name", "blobs", "blobs_lr", "weight_decay"]
        names += [name for name, (_, homes) in v0.RULES.items() if kind in homes or "" in homes]
        layer = own.layers.add(bottom=["in0"], top=[f"{kind} out"])
        fill(layer.layer, names).type = kind
    pairs = nets["pairs"] = pb.NetParameter()
    for kind, name in product(V0_TYPES, V0_FIELDS):
        fill(pairs.layers.add().layer, [name]).type = kind
    for name in V0_FIELDS:
        if name != "type":
            fill(pairs.layers.add().layer, [name])
    pools = nets["pool_methods"] = pb.NetParameter()
    for method in pb.V0LayerParameter.PoolMethod.values():
        pools.layers.add().layer.CopyFrom(pb.V0LayerParameter(type="pool", pool=method))
    leftovers = nets["leftovers"] = fill(_header(pb.NetParameter(), 2, 8, 2), ["state", "debug_info"])
    fill(leftovers.layers.add().layer, V0_FIELDS).type = "conv"
    fill(leftovers.layers.add(), [name for name in V1_FIELDS if name not in ("bottom", "top")])
    mixed = fill(leftovers.layers.add(), [name for name in V1_FIELDS if name not in ("bottom", "top")])
    mixed.layer.type = "relu"
    leftovers.layers.add(bottom=["in1"], top=["x"])
    padding = nets["padding"] = _header(pb.NetParameter())
    for name, kind, bottom, top in (
        ("pad1", "padding", "in0", "p1"),
        ("conv1", "conv", "p1", "c1"),
        ("relu1", "relu", "c1", "c1"),
        ("pad2", "padding", "c1", "p1"),
        ("pool2", "pool", "p1", "c2"),
        ("conv2", "conv", "p1", "p1"),
        ("conv3", "conv", "p1", "c3"),
        ("unread", "padding", "c3", "p4"),
    ):
        layer = padding.layers.add(bottom=[bottom], top=[top])
        layer.layer.name, layer.layer.type = name, kind
        if kind == "padding":
            layer.layer.pad = len(padding.layers)
    padding.layers[5].layer.pad = 3
    return nets


def today_nets() -> dict[str, pb.NetParameter]:
    """Nets in today's form that still have something old."""
    nets: dict[str, pb.NetParameter] = {}
    norms = nets["batchnorm"] = pb.NetParameter()
    for size in range(5):
        for kind in ("BatchNorm", "Scale"):
            layer = norms.layer.add(name=f"{kind}{size}", type=kind)
            for number in range(size):
                fill(layer.param.add(), [["name"], ["lr_mult"], ["decay_mult", "share_mode"]][number % 3])
    for name, sizes in {"dims": (2, 8, 0), "shapes": (1, 0, 1), "bare": (1, 0, 0)}.items():
        net = nets[f"input_{name}"] = _header(pb.NetParameter(), *sizes)
        net.layer.add(name="a", type="ReLU", bottom=["in0"], top=["a"])
    only = nets["input_only"] = _header(pb.NetParameter())
    only.ClearField("name")
    legacy = nets["transform"] = pb.NetParameter()
    legacy.layer.add(name="d", type="Data").data_param.scale = 3
    plain = nets["plain"] = pb.NetParameter(name="x")
    plain.layer.add(name="a", type="ReLU")
    return nets


def refused_nets() -> dict[str, tuple[pb.NetParameter, str]]:
    """Nets on which Caffe aborts, each with words of the reason."""

    def v0(*layers: tuple[str, list[str], list[str]]) -> pb.NetParameter:
        net = _header(pb.NetParameter())
        for kind, bottom, top in layers:
            net.layers.add(bottom=bottom, top=top).layer.type = kind
        return net

    both = pb.NetParameter()
    both.layers.add(name="a", type=V1.RELU)
    both.layer.add(name="b", type="ReLU")
    return {
        "unknown_type": (v0(("reshape", [], [])), 'no layer type "reshape"'),
        "unknown_blob": (v0(("relu", ["nothing"], ["a"])), 'blob "nothing"'),
        "pad_relu": (v0(("padding", ["in0"], ["a"]), ("relu", ["a"], ["a"])), "only convolution and pooling"),
        "pad_pad": (v0(("padding", ["in0"], ["a"]), ("padding", ["a"], ["b"])), "only convolution and pooling"),
        "two_bottoms": (v0(("padding", ["in0"], ["a"]), ("conv", ["a", "in0"], ["b"])), "one input each"),
        "pad_two_in": (v0(("padding", ["in0", "in0"], ["a"]), ("conv", ["a"], ["b"])), "one input each"),
        "pad_two_out": (v0(("padding", ["in0"], ["a", "b"]), ("conv", ["a"], ["c"])), "one input each"),
        "both_forms": (both, "both 'layer' and 'layers'"),
    }


def solvers() -> dict[str, pb.SolverParameter]:
    """A solver with every field for each old type, and those that have none."""
    made: dict[str, pb.SolverParameter] = {}
    fields = [
        field.name
        for field in pb.SolverParameter.DESCRIPTOR.fields
        if field.name != "type" and not field.name.endswith("net_param")
    ]
    for name, number in pb.SolverParameter.SolverType.items():
        solver = made[name.lower()] = fill(pb.SolverParameter(), fields)
        solver.solver_type = number
    inner = made["inner_nets"] = pb.SolverParameter(solver_type=pb.SolverParameter.ADAM)
    for param in (inner.net_param, inner.train_net_param, inner.test_net_param.add()):
        fill(param, ["name", "input", "input_dim", "input_shape", "force_backward", "state", "debug_info"])
        param.layers.add(name="a", type=V1.RELU, blobs_lr=[1])
    made["today"] = pb.SolverParameter(type="Adam", base_lr=0.5)
    made["untyped"] = pb.SolverParameter(base_lr=0.5)
    return made


def refused_solver() -> pb.SolverParameter:
    """A solver that says its type twice."""
    return pb.SolverParameter(type="Adam", solver_type=pb.SolverParameter.ADAM)


def as_v1(net: pb.NetParameter) -> pb.NetParameter:
    """A net of today's form as people wrote it in 2014; its types must have been there then."""
    numbers = {name: number for number, name in V1_TYPES.items()}
    old = pb.NetParameter(name=net.name)
    for layer in net.layer:
        if layer.type == "Input":
            old.input.extend(layer.top)
            for shape in layer.input_param.shape:
                old.input_dim.extend(shape.dim)
            continue
        v1 = old.layers.add(name=layer.name, type=numbers[layer.type])
        for field, value in layer.ListFields():
            if field.name == "param":
                v1.blobs_lr.extend(param.lr_mult for param in value)
                v1.weight_decay.extend(param.decay_mult for param in value)
            elif field.name not in ("name", "type"):
                getattr(v1, field.name).MergeFrom(value)
    return old


# ---------------------------------------------------------------- coverage


def reachable(descriptor: Any, without: tuple[str, ...] = ()) -> set[str]:
    """``Message.field`` of all fields of a message type and the types inside it."""
    found: set[str] = set()
    todo = [descriptor]
    while todo:
        kind = todo.pop()
        for field in kind.fields:
            key = f"{kind.name}.{field.name}"
            if key in found or key in without:
                continue
            found.add(key)
            if field.message_type is not None:
                todo.append(field.message_type)
    return found


def used(message: Message) -> set[str]:
    """``Message.field`` of all fields that are set in a message."""
    found: set[str] = set()
    for field, value in message.ListFields():
        found.add(f"{message.DESCRIPTOR.name}.{field.name}")
        if field.message_type is not None:
            for item in value if is_repeated(field) else (value,):
                found |= used(item)
    return found


def coverage() -> dict[str, tuple[set[str], set[str]]]:
    """By name of a group: what the corpus has, and all there is."""
    old_nets = [*v1_nets().values(), *v0_nets().values()]
    fields = set().union(*map(used, old_nets))
    v1 = [layer for net in v1_nets().values() for layer in net.layers]
    v0_layers = [layer.layer for net in v0_nets().values() for layer in net.layers]
    header = ("NetParameter.layer", "NetParameter.layers")
    solver_fields = set().union(*map(used, solvers().values()))
    return {
        "V1 layer types": ({V1.LayerType.Name(layer.type) for layer in v1}, set(V1.LayerType.keys())),
        "V0 layer types": (
            {layer.type for layer in v0_layers if layer.HasField("type")},
            {*V0_TYPES, v0.PADDING},
        ),
        "V1 fields, nested ones too": (fields, reachable(V1.DESCRIPTOR, ("V1LayerParameter.layer",))),
        "V0 fields, nested ones too": (fields, reachable(pb.V0LayerParameter.DESCRIPTOR)),
        "V0 type x field": (
            {
                f"{kind} x {field.name}"
                for layer in v0_layers
                for field, _ in layer.ListFields()
                if (kind := layer.type)
            },
            {f"{kind} x {name}" for kind, name in product(V0_TYPES, V0_FIELDS)},
        ),
        "V0 pooling methods": (
            {pb.V0LayerParameter.PoolMethod.Name(layer.pool) for layer in v0_layers if layer.HasField("pool")},
            set(pb.V0LayerParameter.PoolMethod.keys()),
        ),
        "net fields": (fields, reachable(pb.NetParameter.DESCRIPTOR, header)),
        "solver fields (type cannot stand beside solver_type)": (
            solver_fields | {"NetParameter.layer"},
            reachable(pb.SolverParameter.DESCRIPTOR, ("NetParameter.layer", "NetParameter.layers")),
        ),
        "solver types": (
            {pb.SolverParameter.SolverType.Name(solver.solver_type) for solver in solvers().values()},
            set(pb.SolverParameter.SolverType.keys()),
        ),
    }


def coverage_lines() -> list[str]:
    """The coverage in words."""
    lines = []
    for name, (have, want) in coverage().items():
        missing = sorted(want - have)
        tail = f"; missing: {', '.join(missing)}" if missing else ""
        lines.append(f"{name}: {len(want) - len(missing)} of {len(want)}{tail}")
    return lines


if __name__ == "__main__":
    print("\n".join(coverage_lines()))
