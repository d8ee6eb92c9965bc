"""Rewriter: the only way to change a Net.

It keeps blob names consistent (a blob name is one web of values in each state, so it is renamed everywhere at once),
refuses to leave a dangling use, gives each new layer a name that neither net has used, moves weights along, and
remembers which layer came from which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from deeprebirth_caffe.ir import Layer, Net
from deeprebirth_caffe.ir.stages import MADE_SUFFIX, MAIN_SUFFIX, whole_name
from deeprebirth_caffe.ir.weights import Array
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.rewrite.base import Kind

SUFFIX = {Kind.RELEARN: "_merge", Kind.EXACT: "_fold"}


class RewriteError(Exception):
    """A pass tried to break the net: a fault of the pass, never of the input."""


def free_name(name: str, taken: set[str]) -> str:
    """The name itself if it is not taken, else with a number; it is taken then."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}{number}", number + 1
    taken.add(found)
    return found


class Rewriter:
    """Changes one net; one rewriter lives as long as the whole conversion.

    Attributes:
        net: the net that is changed.
        made: the layers made so far, each with the kind of its last rewrite.
        origins: for each layer made, the names of the original layers it stands for.
    """

    def __init__(self, net: Net) -> None:
        self.net = net
        self.made: dict[Layer, Kind] = {}
        self.origins: dict[Layer, list[str]] = {}
        self._taken = net.names()
        self._layers = {layer.name for layer in net.layers}
        self._named = Counter(layer.name for layer in net.layers)
        self._restored: set[Layer] = set()
        self._erased: set[Layer] = set()
        self._replaced: dict[Layer, list[Layer]] = {}
        self._users: dict[str, dict[Layer, None]] = {}
        for layer in net.layers:
            self._index(layer)

    # Names.

    def fresh(self, name: str, kind: Kind) -> str:
        """A name for what a rewrite makes out of `name`: its base, "_merge" or "_fold", a number if that is taken.

        What an exact rewrite makes of the main part of a rebirth layer is that layer: `conv1_merge` of
        `conv1_merge_main`, where no layer is called so (only a blob, the one that it puts out). Its other parts are
        still parts.
        """
        whole = whole_name(name)
        if kind is Kind.EXACT and whole != name:
            if not name.endswith(MAIN_SUFFIX):
                return self.free(name + SUFFIX[kind])
            if whole not in self._layers and not self._named[whole]:
                self._taken.add(whole)
                return whole
        return self.free(MADE_SUFFIX.sub("", name) + SUFFIX[kind])

    def restored(self, layer: Layer) -> str:
        """The name of a rebirth layer that was made of its main part, for a rewrite that adds other parts of it."""
        return layer.name if layer in self._restored else ""

    def free(self, name: str) -> str:
        """The name itself if neither net has it, else with a number."""
        return free_name(name, self._taken)

    # Layers.

    def derive(self, layer: Layer, kind: Kind, origins: Sequence[Layer] = (), *, name: str = "") -> Layer:
        """Replaces a layer by a copy under a new name, for the caller to change.

        A layer that this conversion already made keeps its name, which no file has seen yet; only a folded layer that
        becomes a rebirth layer gets the other suffix. The weights move to the new name.

        Args:
            layer: the layer that is replaced, in place.
            kind: of the rewrite.
            origins: other layers whose work the new one takes over.
            name: what it is called then, a name from `fresh` or `free`; empty: as the rules above say.

        Returns:
            The layer to change; the same object where the layer had been made before.
        """
        stands_for = [name for one in (layer, *origins) for name in self.origins.get(one, [one.name])]
        before = layer.name
        if layer in self.made:
            twin = layer
            self.change(twin)
            # What is more than the rebirth layer whose name it has gets another.
            if name or layer in self._restored or (self.made[layer] is Kind.EXACT and kind is Kind.RELEARN):
                twin.param.name = name or self.fresh(before, kind)
                self.made[twin] = kind
        else:
            param = pb.LayerParameter()
            param.CopyFrom(layer.param)
            twin = Layer(param, layer.source, layer.stage)
            param.name = name or self.fresh(before, kind)
            self.made[twin] = kind
            self._swap(layer, twin)
        if twin.name == whole_name(before) != before:
            self._restored.add(twin)
        elif twin.name != before:
            self._restored.discard(twin)
        self.origins[twin] = list(dict.fromkeys(stands_for))
        if before != twin.name:
            weights = self.net.weights
            if weights is not None and before in weights:
                weights.set(twin.name, weights[before])
            self._named[twin.name] += 1
            self._forget(before)
        return twin

    def restate(self, layer: Layer, param: pb.LayerParameter, cut: Iterable[str]) -> Layer:
        """Replaces a layer by one that says the same in other words, under its own name and with its own weights.

        Args:
            layer: the layer that is replaced, in place; none that this conversion made.
            param: what it says now.
            cut: fields that the schema does not have and that are to go from its text.
        """
        if layer in self.made:
            raise RewriteError(f'layer "{layer.name}" is a new one, which needs no other words')
        source = layer.source.without(cut) if layer.source is not None else None
        twin = Layer(param, source, layer.stage)
        self._swap(layer, twin)
        return twin

    def cut_header(self, fields: Iterable[str]) -> None:
        """Takes fields of the net itself out that the schema does not have."""
        self.net.cut = self.net.cut.union(fields)

    def set_weights(self, layer: Layer, arrays: Sequence[Array]) -> None:
        """Gives a layer that this rewriter made its arrays.

        Raises:
            RewriteError: the layer still has its old name, under which old weights would load.
        """
        if layer not in self.made:
            raise RewriteError(f'layer "{layer.name}" would change its weights under its old name')
        if self.net.weights is not None:
            self.net.weights.set(layer.name, arrays)

    def remove(self, layer: Layer) -> None:
        """Takes a layer out whose outputs nobody reads any more (checked when the sweep is committed)."""
        self._erased.add(layer)
        self.made.pop(layer, None)
        for name in {*layer.bottoms, *layer.tops}:
            self._users.get(name, {}).pop(layer, None)
        self._forget(layer.name)

    def erase(self, layer: Layer, *, sole: bool = True) -> None:
        """Takes out a layer with one bottom and one top; what read its top gets what it read.

        Args:
            layer: the layer.
            sole: whether it is the only reader of its bottom. Then the blob it read takes the name of the one it
                wrote, so that the text of later layers stays as it is; else its readers are rewired.

        Raises:
            RewriteError: the layer has more than one bottom or top.
        """
        if len(layer.bottoms) != 1 or len(layer.tops) != 1:
            raise RewriteError(f'layer "{layer.name}" has {len(layer.bottoms)} bottoms and {len(layer.tops)} tops')
        bottom, top = layer.bottoms[0], layer.tops[0]
        self.remove(layer)
        if bottom != top:
            if sole:
                self.rename_blob(bottom, top)
            else:
                self.rename_blob(top, bottom)

    def change(self, layer: Layer) -> pb.LayerParameter:
        """The message of a layer, for the caller to change; the net's other layers are not to be touched.

        A layer that this conversion did not make keeps its name, so its weights must mean what they did.
        """
        return layer.param

    def set_bottoms(self, layer: Layer, names: Sequence[str]) -> None:
        """Gives a layer other bottoms."""
        self.change(layer).bottom[:] = names
        self._index(layer)

    def set_tops(self, layer: Layer, names: Sequence[str]) -> None:
        """Gives a layer other tops; whoever read the old ones must get them from elsewhere before the commit."""
        self.change(layer).top[:] = names
        self._taken.update(names)
        self._index(layer)

    def clear_rules(self, layer: Layer) -> None:
        """Makes a layer alive in every state."""
        param = self.change(layer)
        param.ClearField("include")
        param.ClearField("exclude")

    def set_batch(self, layer: Layer, batch: int) -> bool:
        """Sets the batch size of a data layer that has one; other layers are left alone. Returns whether it has."""
        if not layer.fed or not hasattr(layer.own, "batch_size"):
            return False
        self.change(layer)
        layer.own.batch_size = batch
        return True

    def set_input_batch(self, old: int, batch: int) -> None:
        """Sets the first dimension of the net's inputs and of its Input layers, wherever it is `old`."""
        header = self.net.header
        shapes = list(header.input_shape)
        for layer in self.net.layers:
            if layer.type == "Input":
                shapes += self.change(layer).input_param.shape
        for shape in shapes:
            if shape.dim and shape.dim[0] == old:
                shape.dim[0] = batch
        for index in range(0, len(header.input_dim), 4):  # four of each input
            if header.input_dim[index] == old:
                header.input_dim[index] = batch

    def insert_before(self, anchor: Layer, layer: Layer) -> None:
        """Puts a new layer in front of another."""
        self._replaced[anchor] = [layer, *self._replaced.get(anchor, [anchor])]
        self._introduce(layer)

    def insert_after(self, anchor: Layer, layer: Layer) -> None:
        """Puts a new layer behind another."""
        self._replaced[anchor] = [*self._replaced.get(anchor, [anchor]), layer]
        self._introduce(layer)

    def rename_blob(self, old: str, new: str) -> None:
        """Renames a blob wherever it is written or read."""
        self._taken.add(new)
        for layer in list(self._users.pop(old, {})):
            param = self.change(layer)
            for names in (param.bottom, param.top):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new
            self._index(layer)

    def commit(self) -> None:
        """Ends a sweep: the layers take their places, and the net is verified in every state.

        Raises:
            NetError: the net is not sound any more.
        """
        kept = [new for layer in self.net.layers for new in self._places(layer) if new not in self._erased]
        self._erased.clear()
        self._replaced.clear()
        self.net.changed(kept)
        _ = self.net.views

    def _places(self, layer: Layer) -> list[Layer]:
        """What stands in a layer's place now; a replacement may have been replaced itself."""
        if layer not in self._replaced:
            return [layer]
        return [end for new in self._replaced[layer] for end in ([new] if new is layer else self._places(new))]

    def _swap(self, old: Layer, new: Layer) -> None:
        self._replaced[old] = [new if one is old else one for one in self._replaced.get(old, [old])]
        for name in {*old.bottoms, *old.tops}:
            self._users.get(name, {}).pop(old, None)
        self._index(new)
        if old in self.net.data:
            self.net.data[new] = self.net.data.pop(old)

    def _introduce(self, layer: Layer) -> None:
        """A layer of a pass's own making comes in."""
        self._taken.update((layer.name, *layer.tops))
        self._named[layer.name] += 1
        self._index(layer)

    def _forget(self, name: str) -> None:
        """A layer of that name is gone; its weights go with the last one that has it.

        A train_val may have a layer for each phase under one name, and with it the same weights.
        """
        self._named[name] -= 1
        if not self._named[name] and self.net.weights is not None:
            self.net.weights.drop(name)

    def _index(self, layer: Layer) -> None:
        for name in (*layer.bottoms, *layer.tops):
            self._users.setdefault(name, {})[layer] = None
