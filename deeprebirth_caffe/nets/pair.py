"""A training net and a test net in two files, joined to one net of two phases and taken apart again.

What a pass does to the joint net holds in both files: the layers they share keep common names and common weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from deeprebirth_caffe.formats.prototxt import LayerSource, SolverSource
from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb


@dataclass(frozen=True)
class Pair:
    """The two files.

    Attributes:
        train, test: their paths.
        net: the joint net; layers that both files have stand there as the training net has them.
        nets: the nets as they were read, training net first.
        twins: of a layer's text in the training net, its text in the test net.
    """

    train: Path
    test: Path
    net: Net
    nets: tuple[Net, Net]
    twins: Mapping[LayerSource, LayerSource]

    def texts(self, net: Net) -> dict[str, str]:
        """The two files, by name, of what passes made of the joint net."""
        train, test = self.nets
        assert train.source is not None and test.source is not None
        return {
            self.train.name: train.source.render(net.header, self._alive(net, "TRAIN", {}), net.cut),
            self.test.name: test.source.render(test.header, self._alive(net, "TEST", self.twins)),
        }

    def _alive(
        self, net: Net, phase: str, twins: Mapping[LayerSource, LayerSource]
    ) -> list[tuple[pb.LayerParameter, LayerSource | None]]:
        """The layers of one phase, without the rules that joining gave them."""
        found: list[tuple[pb.LayerParameter, LayerSource | None]] = []
        for layer in net.view(phase).layers:
            param, source = pb.LayerParameter(), layer.source
            param.CopyFrom(layer.param)
            if source is None or not source.message.include:
                param.ClearField("include")
            twin = twins.get(source.origin) if source is not None else None
            if source is not None and twin is not None:
                twin = twin.without(set(source.origin.unknown) - set(source.unknown))
                # A layer that no pass changed is the other file's own.
                param = twin.origin.message if source.says(param) else param
                source = twin
            found.append((param, source))
        return found


def find_pair(solver: SolverSource, where: Path, net: Path) -> tuple[Path, Path] | None:
    """The training net and the test net that a solver names, where the net that is converted is one of the two.

    Args:
        solver: it.
        where: its path; the other net is looked for from the working directory, beside the solver, beside the net.
        net: the net that is converted.
    """
    message = solver.message
    tests = set(message.test_net)
    if not message.HasField("train_net") or len(tests) != 1 or message.test_net_param:
        return None
    names = (message.train_net, tests.pop())
    if len({Path(name).name for name in names}) < 2 or net.name not in {Path(name).name for name in names}:
        return None
    found = [net if Path(name).name == net.name else _look(name, where, net) for name in names]
    return (found[0], found[1]) if found[0] is not None and found[1] is not None else None


def _look(name: str, solver: Path, net: Path) -> Path | None:
    places = (Path(name), solver.parent / Path(name).name, net.parent / Path(name).name)
    return next((place for place in places if place.is_file()), None)


def join(train: Path, test: Path, weights: Path | None, shapes: Mapping[str, Shape]) -> Pair | str:
    """Joins two files, or says why they cannot be joined.

    Raises:
        RebirthError: one of them cannot be read.
    """
    nets = load_net(train, weights, shapes), load_net(test, None, shapes)
    for net, path, phase in zip(nets, (train, test), ("TRAIN", "TEST"), strict=True):
        if net.header.input or phase in net.absent or len(net.view(phase).layers) < len(net.layers):
            return f"{path} holds more or less than {phase}"
    keys = [[_key(layer) for layer in net.layers] for net in nets]
    layers: list[Layer] = []
    twins: dict[LayerSource, LayerSource] = {}
    for word, a, b, c, d in SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        if word == "equal":
            for mine, other in zip(nets[0].layers[a:b], nets[1].layers[c:d], strict=True):
                assert mine.source is not None and other.source is not None
                twins[mine.source] = other.source
                layers.append(mine)
            continue
        layers += _ruled(nets[0].layers[a:b], pb.TRAIN)
        layers += _ruled(nets[1].layers[c:d], pb.TEST)
    net = Net(nets[0].header, layers, nets[0].source, nets[0].weights)
    net.data = {**nets[1].data, **nets[0].data}
    return Pair(train, test, net.copy(), nets, twins)


def _ruled(layers: Iterable[Layer], phase: pb.Phase) -> list[Layer]:
    """Layers of one file alone, for its phase."""
    found = list(layers)
    for layer in found:
        if not layer.param.include and not layer.param.exclude:
            layer.param.include.add().phase = phase
    return found


def _key(layer: Layer) -> tuple[Any, ...]:
    """What two layers must have in common to be one: all that says what they compute."""
    twin = pb.LayerParameter()
    twin.CopyFrom(layer.param)
    twin.ClearField("propagate_down")
    for spec in twin.param:
        spec.ClearField("lr_mult")
        spec.ClearField("decay_mult")
    while twin.param and not twin.param[-1].ListFields():
        del twin.param[-1]
    for field, value in twin.ListFields():
        if field.message_type is not None and field.name.endswith("_param"):
            for inner in field.message_type.fields:
                if inner.message_type is not None and inner.message_type.name == "FillerParameter":
                    value.ClearField(inner.name)
            if not value.ListFields():
                twin.ClearField(field.name)
    extra = layer.source.extra if layer.source is not None else {}
    return twin.SerializeToString(deterministic=True), tuple(sorted(extra.items()))
