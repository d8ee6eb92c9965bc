"""Net: a whole file, all its phases and stages at once.

The file's layers are kept once; a `View` is the def-use graph of those alive in one NetState. A rewrite changes the
layers (through `rewrite.Rewriter`, which alone may) and the views are built again when next asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from deeprebirth_caffe.collector import uncollected
from deeprebirth_caffe.formats.prototxt import NetSource, format_message, parse_net, read_net
from deeprebirth_caffe.ir.errors import AbsentStateError, NetError
from deeprebirth_caffe.ir.graph import Layer, Value, View
from deeprebirth_caffe.ir.sizes import OtherSizes
from deeprebirth_caffe.ir.stages import assign_stages
from deeprebirth_caffe.ir.state import NetState, included, states_of
from deeprebirth_caffe.ir.weights import Weights
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb


class Net:
    """Ordered layers, views by NetState, and (maybe) weights.

    Attributes:
        header: the net's fields (name, input, …), without layers.
        layers: all layers of the file in order, of all phases; only the Rewriter gives others.
        weights: the learned arrays, or None if only the structure is known.
        data: (C, H, W) of a record of each data layer, if known.
        cut: the header's unknown fields that a rewrite removed.
        fixed_size: whether images always have the size in the file, as the user says.
    """

    def __init__(
        self,
        header: pb.NetParameter,
        layers: Iterable[Layer],
        source: NetSource | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.header = header
        self._layers = tuple(layers)
        self.source = source
        self.weights = weights
        self.data: dict[Layer, Shape] = {}
        self.cut: frozenset[str] = frozenset()
        self.fixed_size = False
        self._views: tuple[View, ...] | None = None
        self._other_sizes: OtherSizes | None = None
        self._absent: dict[str, str] = {}

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self._layers

    @classmethod
    @uncollected
    def read(cls, path: str | Path, weights: Weights | None = None) -> Net:
        """Reads a prototxt.

        Raises:
            PrototxtError: the text cannot be parsed.
            NetError: a layer breaks a rule that holds whatever the phase.
        """
        return cls.from_source(read_net(path), weights)

    @classmethod
    def parse(cls, text: str, name: str = "<text>", weights: Weights | None = None) -> Net:
        """As `read`, from text."""
        return cls.from_source(parse_net(text, name), weights)

    @classmethod
    def from_source(cls, source: NetSource, weights: Weights | None = None) -> Net:
        """A net whose layers keep their text."""
        layers = [Layer(_copy(layer.message), layer) for layer in source.layers]
        if not layers and not {"max_iter", "lr_policy", "base_lr"}.isdisjoint(source.unknown):
            raise NetError(f"{source.name}: this is a solver, not a net; give the net that it names")
        if not layers:
            raise NetError(f"{source.name}: there is no layer in this file; is it a net?")
        for layer in layers:
            _check_layer(layer)
        header = pb.NetParameter()
        header.CopyFrom(source.header)
        if not header.input_shape and not header.input_dim:  # Caffe drops inputs without a shape
            produced = {top for layer in layers for index, top in enumerate(layer.tops) if not layer.in_place(index)}
            header.input[:] = [name for name in header.input if name not in produced]
        net = cls(header, layers, source, weights)
        assign_stages(net.layers)
        return net

    def copy(self) -> Net:
        """A deep copy of the structure; arrays and texts are shared."""
        header = pb.NetParameter()
        header.CopyFrom(self.header)
        twins = {layer: _twin(layer) for layer in self.layers}
        net = Net(header, twins.values(), self.source, self.weights.copy() if self.weights else None)
        net.cut = self.cut
        net.fixed_size = self.fixed_size
        net.data = {twins[layer]: shape for layer, shape in self.data.items() if layer in twins}
        return net

    @property
    def trains(self) -> bool:
        """Whether this net learns: it has a loss, or it has data layers and a layer for a single phase."""
        if any(layer.loss for layer in self.layers):
            return True
        ruled = any(layer.param.include or layer.param.exclude for layer in self.layers)
        # A layer without inputs gives data, whatever its type, but for those that are fed or learned.
        return ruled and any(
            layer.tops and not layer.bottoms and layer.type != "Input" and not layer.traits.learned
            for layer in self.layers
        )

    @property
    def learns(self) -> bool:
        """Whether a solver can train the file: it has data, a loss, and the phase TRAIN."""
        return any(layer.loss for layer in self.layers) and "TRAIN" not in self.absent

    @property
    def views(self) -> tuple[View, ...]:
        """A view for each state that the file tells apart; a net that does not learn has only TEST.

        A file may hold a single phase: for example, only TRAIN has a data layer.

        Raises:
            NetError: no state gives a sound net, or a state that the file has does not.
        """
        if self._views is None:
            self._views = tuple(self._build_views())
        return self._views

    @property
    def other_sizes(self) -> OtherSizes:
        """The net at other sizes of its images, in TEST if that is sound."""
        if self._other_sizes is None:
            view = next((view for view in self.views if view.state.phase == "TEST"), self.views[0])
            self._other_sizes = OtherSizes(view, fixed=self.fixed_size)
        return self._other_sizes

    @property
    def absent(self) -> dict[str, str]:
        """The phases that a learning net's file lacks, each with the reason."""
        _ = self.views
        return self._absent

    def view(self, phase: str = "TEST", stages: Iterable[str] = (), level: int = 0, *, stand_in: bool = True) -> View:
        """The view of a phase; without stages, the first sound view of that phase.

        Args:
            phase: TRAIN or TEST.
            stages: of the state.
            level: of the state.
            stand_in: if the file has no TEST, give the layers of TRAIN as they compute in TEST, to make a deploy net
                of them.

        Raises:
            NetError: the net is not sound in that state.
        """
        wanted = frozenset(stages)
        if not wanted and not level:
            for view in self.views:
                if view.state.phase == phase:
                    return view
            if stand_in and phase == "TEST" and phase in self._absent:
                only = self.views[0].state
                return View(NetState(phase, only.level, only.stages), self.header, self.layers, self.data, only)
        state = NetState(phase, level, wanted | frozenset(self.header.state.stage))
        return View(state, self.header, self.layers, self.data)

    def changed(self, layers: Iterable[Layer] | None = None) -> None:
        """Forgets the views; the Rewriter calls this after it changed layers.

        Args:
            layers: the layers from now on; None: those there are.
        """
        if layers is not None:
            self._layers = tuple(layers)
        self._views = self._other_sizes = None

    @uncollected
    def _build_views(self) -> Iterable[View]:
        phases = ("TRAIN", "TEST") if self.trains or self._has_train() else ("TEST",)
        failed: list[tuple[str, NetError]] = []
        sound: list[View] = []
        given = self.header.state if self.header.HasField("state") else None
        for state in states_of([layer.param for layer in self.layers], phases, given):
            try:
                view = View(state, self.header, self.layers, self.data)
            except NetError as error:
                failed.append((state.phase, error))
            else:
                if view.layers:
                    sound.append(view)
        # An all-in-one file is sound only in the combinations of stages that it was written for.
        broken = [error for _, error in failed if not isinstance(error, AbsentStateError)]
        if failed and (not sound or (broken and not self._has_stages())):
            raise broken[0] if broken else failed[0][1]
        there = {view.state.phase for view in sound}
        absent = {phase: error for phase, error in reversed(failed) if phase not in there}
        if self.trains:
            self._absent = {phase: str(error) for phase, error in absent.items()}
        elif "TEST" in absent:
            raise absent["TEST"]  # a deploy net has only TEST
        if not sound:
            raise NetError("no layer of this net is alive in any phase; check its include and exclude rules")
        return sound

    def _has_train(self) -> bool:
        """Whether a layer is only for TRAIN; a deploy net may still have rules for TEST."""
        return any(
            included(NetState("TRAIN"), layer.param) and not included(NetState("TEST"), layer.param)
            for layer in self.layers
        )

    def _has_stages(self) -> bool:
        rules = (rule for layer in self.layers for rule in (*layer.param.include, *layer.param.exclude))
        return any(
            rule.stage or rule.not_stage or rule.HasField("min_level") or rule.HasField("max_level") for rule in rules
        )

    # The questions of passes; the answers hold in every state.

    def alive_in(self, layer: Layer) -> frozenset[NetState]:
        """The states in which the layer is alive."""
        return frozenset(view.state for view in self.views if layer in view.ins)

    def readers(self, layer: Layer, index: int = 0) -> list[tuple[Layer, int]]:
        """The readers of a layer's top in any state, in the order of the file."""
        uses: dict[tuple[Layer, int], None] = {}
        for view in self.views:
            if layer in view.outs:
                uses.update(dict.fromkeys(view.outs[layer][index].uses))
        return list(uses)

    def producers(self, layer: Layer, index: int = 0) -> list[tuple[Layer | None, int]]:
        """The producers of a layer's bottom in any state; None stands for a net input."""
        producers: dict[tuple[Layer | None, int], None] = {}
        for view in self.views:
            if layer in view.ins:
                value = view.ins[layer][index]
                producers.setdefault((value.producer, value.index))
        return list(producers)

    def values_in(self, layer: Layer, index: int = 0) -> list[Value]:
        """The values that a layer reads, in each state in which it is alive."""
        return [view.ins[layer][index] for view in self.views if layer in view.ins]

    def values_out(self, layer: Layer, index: int = 0) -> list[Value]:
        """The values that a layer writes, in each state in which it is alive."""
        return [view.outs[layer][index] for view in self.views if layer in view.outs]

    def names(self) -> set[str]:
        """Every name of a layer or a blob."""
        names = set(self.header.input)
        for layer in self.layers:
            names.add(layer.name)
            names.update(layer.tops)
        return names

    def layer_named(self, name: str) -> list[Layer]:
        """The layers of that name (a train_val may have one for each phase)."""
        return [layer for layer in self.layers if layer.name == name]

    def blob_shapes(self) -> Mapping[str, frozenset[Shape]]:
        """The known final shapes of each blob over all states."""
        shapes: dict[str, set[Shape]] = {}
        for view in self.views:
            for name, value in view.blobs.items():
                if value.shape is not None:
                    shapes.setdefault(name, set()).add(value.shape)
        return {name: frozenset(extents) for name, extents in shapes.items()}

    @uncollected
    def text(self) -> str:
        """The prototxt; an unchanged layer keeps its text."""
        if self.source is not None:
            layers = [(layer.param, layer.source) for layer in self.layers]
            return self.source.render(self.header, layers, self.cut)
        return format_message(self.message())

    def message(self) -> pb.NetParameter:
        """The whole net as a message."""
        net = pb.NetParameter()
        net.CopyFrom(self.header)
        net.layer.extend(layer.param for layer in self.layers)
        return net


def _copy(message: pb.LayerParameter) -> pb.LayerParameter:
    twin = pb.LayerParameter()
    twin.CopyFrom(message)
    return twin


def _twin(layer: Layer) -> Layer:
    return Layer(_copy(layer.param), layer.source, layer.stage)


def _check_layer(layer: Layer) -> None:
    """The rules for all phases."""
    name = layer.name
    if not layer.type:
        raise NetError(f'{layer.where}: layer "{name}" has no type; add one, for example type: "Convolution"')
    if layer.param.include and layer.param.exclude:
        raise NetError(
            f'{layer.where}: layer "{name}" has both include and exclude rules, which Caffe refuses; keep one kind'
        )
    for kind, text in [("layer", name), *(("blob", top) for top in layer.tops)]:
        if any(ord(letter) < 32 for letter in text):
            raise NetError(f"{layer.where}: {kind} name {text!r} holds a control character; rename it")
        if ".." in text.replace("\\", "/").split("/"):
            raise NetError(f'{layer.where}: {kind} name "{text}" climbs out of a folder with ".."; rename it')
