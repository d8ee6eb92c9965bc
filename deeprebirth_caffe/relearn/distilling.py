"""One plain Caffe net in which a converted net learns, block by block, what the original puts out.

    data -+-> teacher/... -> teacher's blob -+
          +-> student ... -> its blob -------+-> EuclideanLoss * 1/(C H W)      for each block, and for the logits

EuclideanLoss is sum (s - t)^2 / (2 N), so each block counts half its mean squared distance, whatever its size, and the
total is the sum over the blocks. A block is what the rebirth layers of one module put out: the Concat or Eltwise where
they meet, if they do and all of its bottoms have a counterpart, else each layer's own end. Teacher-side blobs, pooled
and in the student's order of channels, come from `relearn.targets`.

The teacher computes in both phases what it computes in TEST: its BatchNorms use their stored statistics, its Dropouts
are taken out, nothing of it learns, and no gradient goes into it (`propagate_down`). The student's Dropouts are taken
out too: they would hide what is to be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from deeprebirth_caffe.errors import RebirthError, RefusedError, UsageError
from deeprebirth_caffe.ir import Layer, Net, Value, View, Weights, param_shapes
from deeprebirth_caffe.ir.subnet import ancestors
from deeprebirth_caffe.nets.conversion import Pair
from deeprebirth_caffe.nets.parts import fold_parts
from deeprebirth_caffe.nets.strip import strip
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.relearn.targets import Target, find_targets, is_affine, taught, value_names
from deeprebirth_caffe.rewrite import Rewriter, free_name

PREFIX = "teacher/"
"""In front of the names of the teacher's layers and blobs."""

LOSS = "distil/"
"""In front of the names of the losses."""


@dataclass(frozen=True)
class Block:
    """Two blobs that are to become alike.

    Attributes:
        loss: the name of the layer that compares them.
        student: the student's blob.
        teacher: the teacher's.
        layers: the rebirth layers that put it out; empty for the logits.
        weight: of the loss: 1 / (C * H * W).
    """

    loss: str
    student: str
    teacher: str
    layers: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class Distilling:
    """The net, its start, and what it compares.

    Attributes:
        net: with weights.
        blocks: what is compared, in the order of the student's layers.
        left: for rebirth layers that nothing is compared behind, why.
    """

    net: Net
    blocks: tuple[Block, ...]
    left: dict[str, str]


def distilling_net(pair: Pair, parts: Mapping[str, Sequence[str]], batch: int | None = None) -> Distilling:
    """Builds the net.

    Args:
        pair: the original and the converted net, a training net; neither is changed.
        parts: of layers that learn as several (`convert --reparam`).
        batch: of the training data layers; None leaves them.

    Raises:
        RebirthError: the converted net has no data to train with, or there is nothing to compare.
        UsageError: a batch is given, and the net has no data layer to set it in.
        RefusedError: the teacher has a layer that cannot do in TRAIN what it does in TEST.
    """
    return _Building(pair, parts, batch).build()


@dataclass
class _Wanted:
    """A block before its names are settled: values of the teacher, or a target's own blob."""

    loss: str
    student: str
    layers: tuple[str, ...]
    sources: list[str]
    shape: Shape


@dataclass
class _Building:
    """One net on its way."""

    pair: Pair
    parts: Mapping[str, Sequence[str]]
    batch: int | None
    student: Net = field(init=False)
    teacher: View = field(init=False)

    def __post_init__(self) -> None:
        given = self.pair.student
        if not any(layer.fed and layer.type != "Input" for layer in given.layers):
            raise RebirthError(
                f"{given.source.name if given.source else 'the net'}: it has no data layer to train with; name "
                "pictures, which need no labels (--calibrate), or convert a training net (train_val.prototxt)"
            )
        self.student = _without_dropout(given, self.batch)
        self.teacher = self.pair.teacher.view("TEST")
        taken = [name for name in self.student.names() if name.startswith((PREFIX, LOSS))]
        if taken:
            raise RebirthError(f"{taken[0]}: names that begin so are wanted for the teacher; rename it")
        self._names = value_names(self.teacher)

    def build(self) -> Distilling:
        """Does all of it."""
        folded = self.student.copy()
        fold_parts(Rewriter(folded), self.parts)
        targets, left = find_targets(self.teacher, folded, self.pair.origins)
        wanted = self._blocks(folded.view("TEST"), targets, left)
        wanted += self._logits({one.student for one in wanted})
        wanted = [one for one in wanted if self._readable(one, left)]
        if not wanted:
            raise RebirthError(
                "there is nothing to distil: no blob of the converted net has a counterpart in the original"
                + "".join(f"; {name}: {reason}" for name, reason in left.items())
            )
        needed = self._needed([one.student for one in wanted])
        shown, alias = self._teacher_layers(targets, {source for one in wanted for source in one.sources})
        blocks = []
        message = pb.NetParameter()
        message.CopyFrom(self.student.header)
        message.name = f"{self.student.header.name}-distil" if self.student.header.name else "distil"
        for layer in self.student.layers:
            if layer in needed and layer.fed:
                message.layer.extend(self._data_layers(layer, needed))
        message.layer.extend(shown)
        for layer in self.student.layers:
            if layer in needed and not layer.fed:
                message.layer.add().CopyFrom(layer.param)
        taken = {name for param in message.layer for name in (param.name, *param.top)}
        for one in wanted:
            blobs = [alias[name] for name in one.sources]
            if len(blobs) > 1:
                name = free_name(f"{PREFIX}{one.loss.removeprefix(LOSS)}/joined", taken)
                message.layer.add(name=name, type="Concat", bottom=blobs, top=[name])
                blobs = [name]
            block = Block(one.loss, one.student, blobs[0], one.layers, 1 / prod(one.shape[1:]))
            blocks.append(block)
            message.layer.append(_loss(block))
        return Distilling(self._made(message), tuple(blocks), left)

    # What is compared.

    def _blocks(self, view: View, targets: Iterable[Target], left: dict[str, str]) -> list[_Wanted]:
        """The blocks of the rebirth layers."""
        ends: dict[Value, Target] = {}
        for target in targets:
            end = _end(view, target)
            if end is None:
                left[target.layer] = "another layer overwrites what its block puts out"
            else:
                ends[end] = target
        found: list[_Wanted] = []
        joined: set[Layer] = set()
        for value, target in ends.items():
            join = value.uses[0][0] if len(value.uses) == 1 else None
            block = None
            if join is not None and join.traits.joins:
                if join in joined:
                    continue
                block = self._join(view, join, ends)
            if block is not None and join is not None:
                joined.add(join)
                found.append(block)
            elif value.shape is not None:
                found.append(_Wanted(f"{LOSS}{target.layer}", value.name, (target.layer,), [target.after], value.shape))
        return found

    def _join(self, view: View, join: Layer, ends: Mapping[Value, Target]) -> _Wanted | None:
        """The block whose branches meet in a Concat or Eltwise; None where not all of it has a counterpart."""
        value = view.blob(join.tops[0])
        layers = tuple(ends[one].layer for one in view.ins[join] if one in ends)
        if value is None or value.shape is None:
            return None
        if join.type == "Eltwise":
            twin = self.teacher.blob(value.name)
            if (
                twin is None
                or twin.shape is None
                or twin.shape[1:] != value.shape[1:]
                or not _behind(view, join, value)
            ):
                return None
            return _Wanted(f"{LOSS}{join.name}", value.name, layers, [self._names[twin]], value.shape)
        if value.producer is not join:
            return None
        sources = []
        for one in view.ins[join]:
            if one in ends:
                sources.append(ends[one].after)
                continue
            twin = self._twin(one)
            if twin is None:
                return None
            sources.append(self._names[twin])
        return _Wanted(f"{LOSS}{join.name}", value.name, layers, sources, value.shape)

    def _twin(self, value: Value) -> Value | None:
        """The teacher's counterpart of what a layer puts out that was not changed."""
        maker = value.producer
        for layer in self.teacher.layers if maker is not None else ():
            if maker is not None and (layer.name, layer.type) == (maker.name, maker.type):
                found = self.teacher.outs[layer][value.index]
                if found.shape is not None and value.shape is not None and found.shape[1:] == value.shape[1:]:
                    return found
        return None

    def _logits(self, compared: set[str]) -> list[_Wanted]:
        """What both nets put out in the end, in front of a Softmax."""
        try:
            ends = strip(self.student, fold=False).net.view("TEST")
        except RebirthError:
            return []
        found = []
        for value in ends.outputs:
            maker = value.producer
            if maker is not None and maker.traits.probabilities:
                value = ends.ins[maker][0]
            twin = self.teacher.blob(value.name)
            if value.name in compared or twin is None or twin.shape is None or value.shape is None:
                continue
            if twin.shape[1:] == value.shape[1:] and value.producer is not None and not value.producer.fed:
                found.append(_Wanted(f"{LOSS}{value.name}", value.name, (), [self._names[twin]], value.shape))
        return found

    def _readable(self, block: _Wanted, left: dict[str, str]) -> bool:
        """Whether a block's blob is there in every phase."""
        if all(view.blob(block.student) is not None for view in self._views):
            return True
        left.update(dict.fromkeys(block.layers, "what its block puts out is there in one phase alone"))
        return False

    # The student's side.

    @property
    def _views(self) -> list[View]:
        return [self.student.view(phase) for phase in ("TRAIN", "TEST")]

    def _needed(self, blobs: Sequence[str]) -> set[Layer]:
        """The student's layers that make some blobs, in either phase, its data layers included."""
        found: set[Layer] = set()
        for view in self._views:
            values = [view.blobs[blob] for blob in blobs]
            found |= ancestors(view, values)
        return found

    def _data_layers(self, layer: Layer, needed: set[Layer]) -> Iterable[pb.LayerParameter]:
        """A data layer without what nobody reads, which Data (labels) and HDF5Data allow; else a Silence reads that."""
        param = pb.LayerParameter()
        param.CopyFrom(layer.param)
        read = {
            value.name
            for view in self._views
            for value in view.outs.get(layer, ())
            if any(user in needed for user, _ in value.uses)
        }
        idle = [top for top in layer.tops if top not in read]
        if layer.type == "HDF5Data" or (layer.type == "Data" and idle == list(layer.tops[1:])):
            del param.top[:]
            param.top.extend(top for top in layer.tops if top in read)
            idle = []
        yield param
        if idle:
            silence = pb.LayerParameter(name=f"{LOSS}{layer.name}/unread", type="Silence", bottom=idle)
            silence.include.extend(param.include)
            silence.exclude.extend(param.exclude)
            yield silence

    # The teacher's side.

    def _teacher_layers(
        self, targets: Sequence[Target], blobs: Collection[str]
    ) -> tuple[list[pb.LayerParameter], dict[str, str]]:
        """The teacher's layers that make some blobs under their new names, and what each blob is called now."""
        recipes = [recipe for target in targets for recipe in target.recipes if recipe.blob in blobs]
        keep = [value for value, name in self._names.items() if name in blobs]
        net = taught(self.pair.teacher, self.teacher, recipes, keep)
        alias = self._inputs(net)
        shown: list[pb.LayerParameter] = []
        for layer in net.layers:
            param = layer.param
            if layer.fed:
                continue
            if layer.traits.identity_in_test:
                alias[param.top[0]] = alias[param.bottom[0]]
                continue
            _check_steady(layer)
            alias.update((top, PREFIX + top) for top in param.top)
            made = pb.LayerParameter()
            made.CopyFrom(param)
            made.name = PREFIX + param.name
            for field_name, names in (("bottom", param.bottom), ("top", param.top)):
                made.ClearField(field_name)
                getattr(made, field_name).extend(alias[name] for name in names)
            made.ClearField("propagate_down")
            _freeze(made, self._blob_count(param.name))
            shown.append(made)
        return shown, alias

    def _inputs(self, net: Net) -> dict[str, str]:
        """The student's blobs that the teacher reads, by the names they have there."""
        given = [*net.header.input, *(top for layer in net.layers if layer.fed for top in layer.tops)]
        read = {name for layer in net.layers for name in layer.bottoms}
        mine = {value.name: value for view in self._views for value in view.fed}
        found: dict[str, str] = {}
        for name in given:
            if name not in read:
                continue
            images = [one for one, value in mine.items() if value.shape is None or len(value.shape) == 4]
            picked = name if name in mine else images[0] if len(images) == 1 else ""
            if not picked:
                raise RebirthError(f'the converted net has no blob "{name}", which the original reads')
            theirs, own = self.teacher.blob(name), mine[picked]
            shapes = [one.shape for one in (theirs, own) if one is not None and one.shape is not None]
            if len({shape[1:] for shape in shapes}) > 1:
                sizes = " and ".join("x".join(map(str, shape[1:])) for shape in shapes)
                raise RebirthError(f'the original and the converted net read "{name}" in different sizes: {sizes}')
            if any(view.blobs[picked] not in view.fed for view in self._views):
                raise RefusedError(f'"{picked}" is overwritten in place, so that two nets cannot read it')
            found[name] = picked
        return found

    def _blob_count(self, name: str) -> int:
        for layer in self.teacher.layers:
            if layer.name == name:
                return len(param_shapes(self.teacher, layer) or ())
        return 0

    # The result.

    def _made(self, message: pb.NetParameter) -> Net:
        layers = [Layer(param) for param in message.layer]
        message.ClearField("layer")
        weights = Weights()
        for layer in layers:
            name = layer.name
            source = self.pair.teacher.weights if name.startswith(PREFIX) else self.pair.student.weights
            own = name.removeprefix(PREFIX)
            if source is not None and own in source:
                weights.set(name, source[own])
        net = Net(message, layers, weights=weights)
        _ = net.views  # is it sound?
        return net


def _without_dropout(net: Net, batch: int | None) -> Net:
    """A copy of a net without Dropouts, whose training data layers have a batch size of their own or a given one."""
    rewriter = Rewriter(net.copy())
    if batch is not None:
        done = [rewriter.set_batch(layer, batch) for layer in rewriter.net.layers if _in_training(rewriter.net, layer)]
        if not any(done):
            raise UsageError("--batch: the net has no data layer in TRAIN that says how many it reads at a time")
    for layer in list(rewriter.net.layers):
        if layer.traits.identity_in_test and len(layer.bottoms) == len(layer.tops) == 1:
            rewriter.erase(layer, sole=False)
    rewriter.commit()
    return rewriter.net


def _end(view: View, target: Target) -> Value | None:
    """What a block puts out, as long as nothing overwrites it."""
    value = view.blob(target.blob)
    chain: list[Layer] = []
    end = value
    while value is not None and value.producer is not None and value.producer.name != target.layer:
        chain.insert(0, value.producer)
        value = view.ins[value.producer][0] if len(value.producer.bottoms) == 1 else None
    activations = [index for index, layer in enumerate(chain) if not is_affine(layer)]
    whole = value is not None and value.producer is not None
    return end if whole and (not activations or activations == [len(chain) - 1]) else None


def _behind(view: View, join: Layer, value: Value) -> bool:
    """Whether a value is a join's, maybe overwritten in place."""
    while value.producer is not None and value.producer is not join:
        if not value.producer.in_place(0):
            return False
        value = view.ins[value.producer][0]
    return value.producer is join


def _check_steady(layer: Layer) -> None:
    """Raises RefusedError for a layer that draws in TRAIN what it works out in TEST."""
    if layer.traits.random(layer.param):
        raise RefusedError(
            f'layer "{layer.name}" of the original pools at random in TRAIN, so it cannot teach there; '
            "use rebirth finetune --teacher"
        )


def _freeze(param: pb.LayerParameter, blobs: int) -> None:
    """Makes a layer learn nothing, share nothing with the student, and use stored statistics."""
    if param.type == "BatchNorm":
        # Caffe itself holds its blobs.
        param.ClearField("param")
        param.batch_norm_param.use_global_stats = True
        return
    while len(param.param) < blobs:
        param.param.add()
    for spec in param.param:
        spec.lr_mult = spec.decay_mult = 0
        if spec.name:
            spec.name = PREFIX + spec.name


def _loss(block: Block) -> pb.LayerParameter:
    """The layer that compares a block's blobs."""
    return pb.LayerParameter(
        name=block.loss,
        type="EuclideanLoss",
        bottom=[block.student, block.teacher],
        top=[block.loss],
        loss_weight=[block.weight],
        propagate_down=[True, False],
    )


def _in_training(net: Net, layer: Layer) -> bool:
    return any(state.phase == "TRAIN" for state in net.alive_in(layer))
