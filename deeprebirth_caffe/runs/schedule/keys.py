"""The keys of a schedule that are options of a command too: made of the models in `options`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from deeprebirth_caffe.options.fields import keys
from deeprebirth_caffe.options.kinds import KERNEL, MEANS, Flag, Kind, OneOf, Real, Whole
from deeprebirth_caffe.runs.schedule.solvers import MAX_INT

Positive = Annotated[float, Field(gt=0, lt=1e38)]
Count = Annotated[int, Field(ge=1, le=MAX_INT)]


class Part(BaseModel):
    """A part of a schedule: fixed once it is read, and without keys that nobody knows."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def keyed(
    model: type[Any],
    *,
    types: Mapping[str, Any] | None = None,
    usual: Mapping[str, Any] | None = None,
    texts: Mapping[str, str] | None = None,
) -> Any:
    """A part of a schedule with the keys that a command's options have.

    Args:
        model: of the options; those with a text for schedules count.
        types: by key, where a schedule spells a value in another way than a command line.
        usual: by key, where a schedule has another default.
        texts: by key, where it is about something else.
    """
    made: dict[str, Any] = {}
    for leaf in keys(model):
        name, told = leaf.path[-1], leaf.option
        default = (usual or {}).get(name, leaf.default)
        kind = (types or {}).get(name) or _type(told.kind)
        text = (texts or {}).get(name, told.schedule)
        field = Field(default_factory=dict, description=text) if default == {} else Field(default, description=text)
        made[name] = (kind if default is not None else kind | None, field)
    return create_model(model.__name__, __base__=Part, **made)


def _type(kind: Kind) -> Any:
    """What pydantic reads a kind of value with."""
    if isinstance(kind, Flag):
        return bool
    if isinstance(kind, OneOf):
        return Literal[kind.words]
    if isinstance(kind, Whole):
        return Annotated[int, Field(ge=kind.least, le=kind.most)]
    if isinstance(kind, Real):
        below: dict[str, Any] = {} if kind.least is None else {"gt" if kind.above else "ge": kind.least}
        above: dict[str, Any] = {"lt" if kind.below else "le": kind.most} if kind.most is not None else {"lt": 1e38}
        return Annotated[float, Field(**below, **above)] if below else float
    spelled: dict[Kind, Any] = {KERNEL: Literal["keep", "receptive"] | Count, MEANS: tuple[float, ...]}
    return spelled.get(kind, str)
