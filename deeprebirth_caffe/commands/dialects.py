"""`rebirth doctor NET`: what of a net plain Caffe does not have, whose it is, and what can be done about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.ir import Layer, Net, NetError
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.manifest import Left
from deeprebirth_caffe.ops.forks import FORKS, field_entry, forks_with_field, forks_with_type, own_entry, type_entry
from deeprebirth_caffe.passes.exact.portable import Portable
from deeprebirth_caffe.passes.patterns import merges
from deeprebirth_caffe.results import Result
from deeprebirth_caffe.rewrite import Refusal

PYTHON = "Python"
"""The type of layers whose code stands in a module of Python."""


@dataclass(frozen=True)
class Evidence:
    """One place of a net that plain Caffe would not take.

    Attributes:
        layer: its name; empty for a field of the net itself.
        kind: `"type"` or `"field"`.
        what: the layer type, or the field's dotted name.
        where: file:line:column.
        forks: the names of the forks that have it; none where nobody here knows it.
        means: what it is, in words.
        understood: whether shapes and costs are known with it.
        merges: whether passes go on next to it as if it were plain Caffe's, as far as its kind lets them.
    """

    layer: str
    kind: str
    what: str
    where: str
    forks: tuple[str, ...]
    means: str
    understood: bool
    merges: bool


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A fork, or several that explain the same.

    Attributes:
        names: `ssd`, `rcnn`, `nvcaffe`, `intel`, `ristretto`, `opencl`, `segnet`, `deeplab`, `mobile`, `windows`.
        title: in words.
        explains: the layer types and fields that it has.
    """

    names: Sequence[str]
    title: str
    explains: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class PythonLayer:
    """A layer whose code real Caffe runs, out of the folder where the net's paths start.

    Attributes:
        layer: its name.
        where: file:line:column.
        module: of Python.
        class_: in it.
    """

    layer: str
    where: str
    module: str
    class_: str


@dataclass(frozen=True, kw_only=True)
class Dialects(Result):
    """What `rebirth doctor NET` tells.

    Attributes:
        net: path.
        plain: whether plain Caffe has all of it.
        dialects: the fewest forks that have all that was found.
        evidence: what plain Caffe does not have.
        portable: the layers that `convert --portable` rewrites.
        not_portable: those it cannot, with the reason.
        python_layers: layers whose code real Caffe runs ([security.md](security.md)).
    """

    net: Path
    plain: bool
    dialects: Sequence[Dialect]
    evidence: Sequence[Evidence]
    portable: Sequence[str]
    not_portable: Sequence[Left]
    python_layers: Sequence[PythonLayer]


def dialects(path: Path) -> Dialects:
    """Names the forks that a net is written for, with the evidence.

    Raises:
        RebirthError: the file cannot be read as a net.
    """
    net = Net.read(path)
    evidence = [*_of_header(net), *(one for layer in net.layers for one in _of_layer(layer))]
    rewrites, stays = _portability(path)
    return Dialects(
        net=path,
        plain=not evidence,
        dialects=_name(evidence),
        evidence=evidence,
        portable=rewrites,
        not_portable=stays,
        python_layers=[_runs_code(layer) for layer in net.layers if layer.type == PYTHON],
    )


def _runs_code(layer: Layer) -> PythonLayer:
    param = layer.param.python_param
    where = layer.source.where_type() if layer.source is not None else ""
    return PythonLayer(layer=layer.name, where=where, module=param.module, class_=param.layer)


def _of_header(net: Net) -> list[Evidence]:
    if net.source is None:
        return []
    found = []
    for field in net.source.unknown:
        forks = tuple(fork.name for fork in forks_with_field(field, ""))
        means = "changes nothing that is computed" if forks else ""
        where = net.source.where_of(field)
        found.append(Evidence("", "field", field, where, forks, means, bool(forks), bool(forks)))
    return found


def _of_layer(layer: Layer) -> list[Evidence]:
    source = layer.source
    if source is None or not (layer.understood.fork or layer.op is None):
        return []
    found = []
    kind = type_entry(layer.type)
    if kind is not None or layer.op is None:
        forks = tuple(fork.name for fork in forks_with_type(layer.type))
        means = kind.means if kind is not None else ""
        where = source.where_type()
        found.append(Evidence(layer.name, "type", layer.type, where, forks, means, kind is not None, merges(layer)))
    extra = source.extra
    for field in source.unknown:
        parts = [part for part in extra if part == field or part.startswith(f"{field}.")]
        if field not in layer.understood.unknown and own_entry(parts[-1], layer.type) is not None:
            continue  # the type says it all
        entries = [entry for part in parts if (entry := field_entry(part, layer.type)) is not None]
        value = next(iter(extra.get(field, ())), None)
        forks = tuple(fork.name for fork in forks_with_field(field, layer.type, value))
        understood = field not in layer.understood.unknown
        free = understood and field not in layer.understood.fixed
        means = entries[0].means if entries else ""
        found.append(Evidence(layer.name, "field", field, source.where_of(field), forks, means, understood, free))
    return found


def _name(evidence: Sequence[Evidence]) -> list[Dialect]:
    """The fewest forks that have all that was found; forks that explain it equally well stand together."""
    titles = {fork.name: fork.title for fork in FORKS}
    left = {(one.kind, one.what): set(one.forks) for one in evidence if one.forks}
    found = []
    while left:
        score = {name: sum(name in forks for forks in left.values()) for name in titles}
        most = max(score.values())
        names = [name for name in titles if score[name] == most]
        # Forks that tie but do not have the same things are not one answer: the first of them is named first.
        explains = [thing for thing, forks in left.items() if names[0] in forks]
        names = [name for name in names if all(name in left[thing] for thing in explains)]
        found.append(
            Dialect(
                names=names,
                title=" or ".join(titles[name] for name in names),
                explains=[what for _, what in explains],
            )
        )
        left = {thing: forks for thing, forks in left.items() if thing not in explains}
    return found


def _portability(path: Path) -> tuple[list[str], list[Left]]:
    """The layers that `convert --portable` rewrites, and those it cannot, with the reason."""
    try:
        net = load_net(path)
        matches = list(Portable().match(net))
    except (NetError, RebirthError) as error:
        return [], [Left(layer="", reason=str(error))]
    rewrites = [one.layer.name for one in matches if not isinstance(one, Refusal)]
    stays = [Left(layer=one.layer.name, reason=one.reason.text) for one in matches if isinstance(one, Refusal)]
    return rewrites, stays
