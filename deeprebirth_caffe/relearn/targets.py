"""What a rebirth layer is to put out: blobs that its teacher, the original net, has or can be made to have.

A rebirth layer R stands for linear layers (its *parts*: the host and the branches it took in) and for what it absorbed
behind them (pools, LRN, BatchNorm, Scale). In the teacher each part has a chain of layers behind it:

    part -> [absorbed or kept, one position at a time] -> (join) -> [absorbed]

In the student only the kept ones still stand behind R, and R together with those up to its activation is its *block*.
So the block is to put out

    after  = absorbed_join(Concat over parts of (absorbed and kept ones up to the activation)(part))

with the parts in the order of their bottoms at the join, and R itself, in front of the activation,

    before = the same without what the activation and anything behind it does, pools excepted.

For a ReLU r and a max pool m this is exact, since m r = r m. What is absorbed behind a join is applied to the block's
own channels, on a copy of the layer: exact for a pool behind a Concat, a fair guess for a pool behind an Eltwise, and
for an LRN all but the channels at the rim.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from deeprebirth_caffe.ir import Layer, Net, Value, View
from deeprebirth_caffe.ir.subnet import ancestors, ruleless
from deeprebirth_caffe.ops import Shape, conv_geometry
from deeprebirth_caffe.passes.patterns import is_pointwise, sees_position, strange
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite import Reason, free_name

RELU = "ReLU"


@dataclass(frozen=True)
class Recipe:
    """How a blob is made in the teacher.

    Attributes:
        blob: what it is called.
        sources: values of the teacher; several are concatenated over channels.
        copies: of which layers copies follow, one on another.
        made: the names of the layers and blobs that are made: the Concat's, if there is one, then the copies'.
    """

    blob: str
    sources: tuple[Value, ...]
    copies: tuple[Layer, ...]
    made: tuple[str, ...]

    def layers(self, names: Mapping[Value, str]) -> Iterable[Layer]:
        """The layers to add to the teacher whose values have these names."""
        bottoms, made = [names[value] for value in self.sources], iter(self.made)
        if len(bottoms) > 1:
            name = next(made)
            yield Layer(pb.LayerParameter(name=name, type="Concat", bottom=bottoms, top=[name]))
            bottoms = [name]
        for layer, name in zip(self.copies, made, strict=True):
            yield _retied(layer, name, bottoms, [name])
            bottoms = [name]


@dataclass(frozen=True)
class Target:
    """What one rebirth layer is to put out.

    Attributes:
        layer: its name.
        parts: the linear layers of the teacher that it stands for, in the order of its channels.
        before: the teacher's blob in front of the activation; None where there is no activation.
        after: the teacher's blob behind it.
        activation: what stands behind the layer in the student: None, "ReLU" (the plain one), or the type of another
            layer that changes values one by one or channel by channel.
        blob: what the student's block puts out: the blob behind the activation.
        recipes: how the teacher's blobs are made.
    """

    layer: str
    parts: tuple[str, ...]
    before: str | None
    after: str
    activation: str | None
    blob: str
    recipes: tuple[Recipe, ...]


def find_targets(
    teacher: View, student: Net, origins: Mapping[str, Sequence[str]]
) -> tuple[list[Target], dict[str, str]]:
    """The targets of a converted net.

    Args:
        teacher: the original net in TEST.
        student: the converted one.
        origins: by rebirth layer, the names of the original layers it stands for.

    Returns:
        The targets in the order of the student's layers, and for every other rebirth layer the reason why it has none.
    """
    search = _Search(teacher, student.view("TEST"))
    targets: list[Target] = []
    reasons: dict[str, str] = {}
    for layer in search.student.layers:
        if layer.name in origins:
            found = _unfit(student, layer) or search.target(layer, origins[layer.name])
            if isinstance(found, Target):
                targets.append(found)
            else:
                reasons[layer.name] = found.text
    return targets, reasons


def value_names(view: View) -> dict[Value, str]:
    """A name of its own for every value, so that none is overwritten in place.

    What comes from outside keeps its name, and so does the last value of any other blob.
    """
    taken = {value.name for value in view.values}
    names: dict[Value, str] = {value: value.name for value in view.fed}
    given = set(names.values())
    for value in view.values:
        if value in names:
            continue
        last = view.blob(value.name) is value and value.name not in given
        assert value.producer is not None, "only inputs have no producer"
        names[value] = value.name if last else free_name(f"{value.name}/{value.producer.name}", taken)
    return names


def taught(teacher: Net, view: View, recipes: Sequence[Recipe], keep: Iterable[Value] = ()) -> Net:
    """The teacher as a net that has the recipes' blobs, and nothing that none of them needs.

    Its layers keep their names, so its weights load, and no made layer needs any. Data layers stay as they are.

    Args:
        teacher: the original net.
        view: the one of its views that the targets were found in.
        recipes: of the blobs to make.
        keep: more values to keep; `value_names` tells what they are called.
    """
    names = value_names(view)
    needed = ancestors(view, [*keep, *(value for recipe in recipes for value in recipe.sources)])
    layers = [
        _retied(
            layer, layer.name, [names[value] for value in view.ins[layer]], [names[value] for value in view.outs[layer]]
        )
        for layer in view.layers
        if layer in needed
    ]
    layers += [layer for recipe in recipes for layer in recipe.layers(names)]
    return Net(teacher.header, layers, weights=teacher.weights)


@dataclass(frozen=True)
class _Lead:
    """What one part's chain gives, up to its join.

    Attributes:
        after: the last of the teacher's own values that counts, and the layers to apply to it on copies.
        before: likewise, in front of the activation.
        join: the Concat or Eltwise where the chain ends, and which of its bottoms.
        seen: the names of the layers of the chain.
    """

    after: tuple[Value, tuple[Layer, ...]]
    before: tuple[Value, tuple[Layer, ...]]
    join: tuple[Layer, int] | None
    seen: frozenset[str]


class _Search:
    """Targets in one pair of nets."""

    def __init__(self, teacher: View, student: View) -> None:
        self.teacher = teacher
        self.student = student
        self._layers = {layer.name: layer for layer in teacher.layers}
        self._taken = set(self._layers) | set(value_names(teacher).values())

    def target(self, layer: Layer, origins: Sequence[str]) -> Target | Reason:
        """The target of a rebirth layer, or why it has none."""
        originals = [self._layers[name] for name in origins if name in self._layers]
        parts = [one for one in originals if one.traits.linear]
        absorbed = {one.name for one in originals if not one.traits.linear}
        if not parts:
            return Reason("the teacher has none of the linear layers it stands for")
        block = _block(self.student, layer)
        leads = []
        for part in parts:
            lead = self._lead(part, absorbed, [one.type for one in block])
            if isinstance(lead, Reason):
                return lead
            leads.append(lead)
        if len(parts) > 1:
            joins = {lead.join[0] if lead.join is not None else None for lead in leads}
            join = next(iter(joins))
            if len(joins) > 1 or join is None or join.type != "Concat":
                return Reason(f"{', '.join(part.name for part in parts)} do not meet in one Concat")
            if any(lead.after[1] or lead.before[1] for lead in leads):
                return Reason("what it absorbed stands behind layers that it left alone")
            order = sorted(range(len(parts)), key=lambda index: _bottom(leads[index]))
            parts, leads = [parts[index] for index in order], [leads[index] for index in order]
        rest = absorbed - frozenset().union(*(lead.seen for lead in leads))
        behind = self._behind(leads[0], rest)
        activation = _kind(block)
        after = self._recipe(f"{layer.name}/after", [lead.after for lead in leads], behind)
        pools = tuple(one for one in behind if one.type == "Pooling")
        before = self._recipe(f"{layer.name}/before", [lead.before for lead in leads], pools)
        if isinstance(after, Reason):
            return after
        if isinstance(before, Reason):
            return before
        if block and is_affine(block[0]) and any(_takes_maxima(one) for one in before.copies):
            return Reason(
                f"what it absorbed takes maxima behind a {activation}, and some channels' signs may be turned there"
            )
        gives, wants = self.student.outs[layer][0].shape, _shape(after)
        if gives is None or wants is None:
            return Reason("the shape of what it is to put out is not known")
        if gives[1:] != wants[1:]:
            return Reason(f"it puts out {_spell(gives)}, and what it stands for {_spell(wants)}")
        return Target(
            layer.name,
            tuple(part.name for part in parts),
            None if activation is None else before.blob,
            after.blob,
            activation,
            (self.student.outs[block[-1]] if block else self.student.outs[layer])[0].name,
            (after,) if activation is None else (after, before),
        )

    def _lead(self, part: Layer, absorbed: Collection[str], kept: Sequence[str]) -> _Lead | Reason:
        """Follows a part's chain; `kept` are the types of what stands behind the rebirth layer in its block."""
        value = self.teacher.outs[part][0]
        chain, join = _walk(self.teacher, value)
        last = max((index for index, one in enumerate(chain) if one.name in absorbed), default=-1)
        after: tuple[Value, tuple[Layer, ...]] = (value, ())
        before: tuple[Value, tuple[Layer, ...]] | None = None
        matched = 0
        whole = True  # whether all layers so far count, so that the teacher's own value is the one
        for index, one in enumerate(chain):
            if matched == len(kept) and index > last:
                break
            counts = one.name in absorbed or one.traits.identity_in_test
            if not counts and matched < len(kept):
                if one.type != kept[matched]:
                    return Reason(f"behind {part.name} stands {one.name} ({one.type}), behind it {kept[matched]}")
                before = before or after
                matched, counts = matched + 1, True
            elif before is not None and one.name in absorbed and one.type == "Pooling":
                before = (before[0], (*before[1], one))
            if not counts:
                whole = False
            elif whole:
                after = (self.teacher.outs[one][0], ())
            else:
                after = (after[0], (*after[1], one))
        if matched < len(kept):
            return Reason(f"behind it stands {kept[matched]}, which {part.name} does not have behind it")
        return _Lead(after, before or after, join, frozenset(one.name for one in chain))

    def _behind(self, lead: _Lead, absorbed: Collection[str]) -> tuple[Layer, ...]:
        """What is absorbed behind the join."""
        found: list[Layer] = []
        join = lead.join[0] if lead.join is not None else None
        while join is not None and len(found) < len(absorbed):
            chain, following = _walk(self.teacher, self.teacher.outs[join][0])
            found += [one for one in chain if one.name in absorbed]
            join = following[0] if following is not None else None
        return tuple(found)

    def _recipe(
        self, name: str, leads: Sequence[tuple[Value, tuple[Layer, ...]]], behind: tuple[Layer, ...]
    ) -> Recipe | Reason:
        copies = (*leads[0][1], *behind)
        for layer in copies:
            if strange(layer) or len(layer.bottoms) != 1 or len(layer.tops) != 1:
                return Reason(f"{layer.name} cannot be copied")
            if layer.traits.learned:
                return Reason(f"{layer.name} has weights, and what it does to other channels cannot be told apart")
        sources = tuple(value for value, _ in leads)
        made = [free_name(name, self._taken)] if len(sources) > 1 else []
        made += [free_name(f"{name}/{layer.name}", self._taken) for layer in copies]
        return Recipe(made[-1] if made else value_names(self.teacher)[sources[0]], sources, copies, tuple(made))


def is_affine(layer: Layer) -> bool:
    """Whether a layer multiplies each channel by a learned number, and adds one, in TEST."""
    return layer.traits.affine and layer.traits.learned


def _unfit(net: Net, layer: Layer) -> Reason | None:
    """What about a rebirth layer itself is against a target; empty when nothing is."""
    param = layer.param
    if layer.type == "Convolution":
        geometry = conv_geometry(param)
        if len(geometry.kernel) != 2 or geometry.axis != 1:
            return Reason("it is not a 2-d convolution over channels")
    elif layer.type != "InnerProduct":
        return Reason(f"it is a {layer.type}")
    elif param.inner_product_param.axis != 1 or param.inner_product_param.transpose:
        return Reason("its weights are not laid out as usual (axis, transpose)")
    if net.weights is None or layer.name not in net.weights:
        return Reason("it has no weights")
    if param.param and not any(spec.lr_mult for spec in param.param):
        return Reason("it is frozen (lr_mult 0)")
    return None


def reads_input(view: View, layer: Layer) -> bool:
    """Whether nothing but layers that see one position at a time lie between a layer and the net's input."""
    while True:
        maker = view.ins[layer][0].producer
        if maker is None or (maker.fed):
            return True
        if not sees_position(maker):
            return False
        layer = maker


def _block(view: View, layer: Layer) -> list[Layer]:
    """What stands behind a rebirth layer in the student, up to its activation; what does nothing is left out."""
    found: list[Layer] = []
    value = view.outs[layer][0]
    while len(value.uses) == 1:
        reader = value.uses[0][0]
        if len(reader.bottoms) != 1 or len(reader.tops) != 1:
            break
        if is_affine(reader):
            found.append(reader)
        elif is_pointwise(reader):
            if not reader.traits.identity_in_test:
                return [*found, reader]
        else:
            break
        value = view.outs[reader][0]
    return found


def _kind(block: Sequence[Layer]) -> str | None:
    """`Target.activation` of a block."""
    if not block:
        return None
    first = block[0]
    if first.type == RELU and first.param.relu_param.negative_slope:
        return "leaky ReLU"
    return first.type


def _walk(view: View, value: Value) -> tuple[list[Layer], tuple[Layer, int] | None]:
    """The layers that follow a value one after another, and the join behind them with the bottom that is theirs."""
    chain: list[Layer] = []
    while len(value.uses) == 1:
        reader, index = value.uses[0]
        if reader.traits.joins:
            return chain, (reader, index)
        fits = sees_position(reader) or reader.type == "Pooling"
        if not fits or len(reader.bottoms) != 1 or len(reader.tops) != 1:
            break
        chain.append(reader)
        value = view.outs[reader][0]
    return chain, None


def _takes_maxima(layer: Layer) -> bool:
    return layer.type == "Pooling" and layer.param.pooling_param.pool == pb.PoolingParameter.MAX


def _bottom(lead: _Lead) -> int:
    return lead.join[1] if lead.join is not None else 0


def _shape(recipe: Recipe) -> Shape | None:
    """The shape of what a recipe makes; None where it is not known."""
    shapes = [value.shape for value in recipe.sources if value.shape is not None]
    if len(shapes) < len(recipe.sources):
        return None
    shape: Shape = (shapes[0][0], sum(one[1] for one in shapes), *shapes[0][2:]) if len(shapes) > 1 else shapes[0]
    for layer in recipe.copies:
        assert layer.op is not None, "only layers that are understood are copied"
        shape = tuple(layer.op.shapes(layer.param, [shape])[0])
    return shape


def _spell(shape: Shape) -> str:
    return "x".join(str(size) for size in shape[1:])


def _retied(layer: Layer, name: str, bottoms: Sequence[str], tops: Sequence[str]) -> Layer:
    """A copy of a layer with another name, bottoms and tops, for every phase."""
    copy = ruleless(layer)
    copy.param.name = name
    copy.param.bottom[:], copy.param.top[:] = bottoms, tops
    return copy
