"""How a field of a command's options says what it is; everything that knows of options is derived from that.

A field made by `option`, `argument` or `group` carries an `Option` or a `Group`. From those come the command line and
its help (`cli.reading`), the keys of a schedule (`runs.schedule.keys`), what a manifest remembers (`record`) and the
words that tell a command the same again (`words`). Modules of this room import nothing that takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from deeprebirth_caffe.errors import UsageError
from deeprebirth_caffe.options.kinds import FLAG, TEXT, Flag, Kind

MERGE, START, PICTURES = "What to merge", "How new layers start", "Calibration pictures"
TEACHER, LEARN, MEASURE = "Teacher", "Solver and training", "Measuring"
ENGINE, OUTPUT = "Engine", "Output"
TITLES = (MERGE, START, PICTURES, TEACHER, LEARN, MEASURE, ENGINE, OUTPUT)
"""Of the groups on a help page, in their order. What has no title is what the command is about, and goes first."""

_KEY = "rebirth"
Model = TypeVar("Model")


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Option:
    """What is known of an option besides its default.

    Attributes:
        flags: as people type it; none: it stands in its place.
        kind: how its text is read.
        help: a line for people.
        title: one of `TITLES`; empty: none of them. None: the `TITLE` of its class, if that has one.
        metavar: what the help calls its value; empty: as its kind is called.
        many: whether it may be repeated, or take several places.
        needed: whether the command cannot do without it.
        shown: whether the help shows the default.
        takes: makes the field's value of what was typed.
        says: makes of the field's value what is to be typed.
        schedule: what a schedule's schema says of it; empty: schedules do not take it.
        record: its name in a manifest; with a "?" it stands there only where it is not the default.
        place: the name of one that stands in its place.
    """

    flags: tuple[str, ...] = ()
    kind: Kind = TEXT
    help: str = ""
    title: str | None = None
    metavar: str = ""
    many: bool = False
    needed: bool = False
    shown: bool = False
    takes: Callable[[Any], Any] = _same
    says: Callable[[Any], Any] = _same
    schedule: str = ""
    record: str = ""
    place: str = ""

    @property
    def name(self) -> str:
        """The name of its value among the values of a command line."""
        long = next((flag for flag in self.flags if flag.startswith("--")), self.place)
        return long.split("/")[0].removeprefix("--").replace("-", "_")


@dataclass(frozen=True)
class Group:
    """Options of another class, which stand among those of a command.

    Attributes:
        model: the class.
        optional: whether there is a value only where the first one of its options is given.
        lent: whether the command has these options itself, so that they belong to nothing else.
        merged: whether a schedule has their keys among those of the command.
        missing: what to say where the first one is not given and there has to be one; empty: nothing.
        changes: by field, what is another here: attributes of its `Option`, and "default".
    """

    model: type[Any]
    optional: bool = False
    lent: bool = False
    merged: bool = False
    missing: str = ""
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Leaf:
    """An option as a command has it.

    Attributes:
        option: what is known of it.
        default: of the field; MISSING where there is none.
        path: the names of the fields that lead to it.
        lent: whether it stands elsewhere among the command's options, too.
    """

    option: Option
    default: Any
    path: tuple[str, ...]
    lent: bool = False

    @property
    def typed(self) -> Any:
        """The default as it would be typed."""
        return None if self.default is MISSING else self.option.says(self.default)

    def of(self, options: Any) -> Any:
        """The value in a command's options; MISSING where the group that it belongs to is None."""
        for name in self.path:
            if options is None:
                return MISSING
            options = getattr(options, name)
        return options


def option(default: Any, *flags: str, kw_only: Any = MISSING, **told: Any) -> Any:
    """A field that a command line sets with a flag.

    Args:
        default: the field's.
        flags: as people type it; `--tucker/--no-tucker` says yes or no.
        kw_only: whether it stands behind the others, as in the class's constructor.
        told: attributes of `Option`. Where no kind is told, a default of False makes it a flag.
    """
    if default is False:
        told.setdefault("kind", FLAG)
    return _field(default, kw_only, Option(flags, **told))


def needed(*flags: str, kw_only: Any = MISSING, **told: Any) -> Any:
    """A field without a default; see `option`."""
    return _field(MISSING, kw_only, Option(flags, needed=True, **told))


def argument(place: str, kind: Kind = TEXT, *, default: Any = MISSING, **told: Any) -> Any:
    """A field that a command line sets by place; one with a default may be left out."""
    told |= {"kind": kind, "place": place, "needed": default is MISSING}
    return _field(default, True if default is not MISSING else MISSING, Option(**told))


def group(model: type[Any], *, usual: Any = None, kw_only: Any = MISSING, **told: Any) -> Any:
    """A field that holds options of another class, `usual` by default; `told` are attributes of `Group`."""
    made = Group(model, **told)
    default = MISSING if made.missing else usual if made.optional or usual is not None else model()
    return _field(default, kw_only, made)


def _field(default: Any, kw_only: Any, told: Option | Group) -> Any:
    metadata = {_KEY: told}
    if isinstance(default, dict):
        return field(default_factory=dict, kw_only=kw_only, metadata=metadata)
    return field(default=default, kw_only=kw_only, metadata=metadata)


def _told(model: type[Any]) -> Iterator[tuple[Field[Any], Option | Group]]:
    """The fields that a command line sets, those last that can only be given by name."""
    for one in sorted(fields(model), key=lambda one: bool(one.kw_only)):
        if _KEY in one.metadata:
            yield one, one.metadata[_KEY]


def _default(one: Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


def leaves(model: type[Any]) -> Iterator[Leaf]:
    """All options of a command, in the order of its fields.

    A flag that sets two fields stands there twice.
    """
    title = getattr(model, "TITLE", "")
    for one, told in _told(model):
        if isinstance(told, Option):
            yield Leaf(replace(told, title=title if told.title is None else told.title), _default(one), (one.name,))
            continue
        for leaf in leaves(told.model):
            change = dict(told.changes.get(leaf.path[0], {})) if len(leaf.path) == 1 else {}
            if told.optional:
                change["needed"] = False
            default = change.pop("default", leaf.default)
            made = replace(leaf.option, **change) if change else leaf.option
            yield Leaf(made, default, (one.name, *leaf.path), leaf.lent or told.lent)


def read(model: type[Model], values: Mapping[str, Any], given: Collection[str]) -> Model:
    """Makes a command's options of what a command line says.

    Args:
        model: their class. Its method `verify(given)`, if it has one, looks at the whole.
        values: by name of the option.
        given: the names of those that the user gave.

    Raises:
        UsageError: options that do not go together.
    """
    made: dict[str, Any] = {}
    for one, told in _told(model):
        if isinstance(told, Option):
            made[one.name] = told.takes(values[told.name])
            continue
        mine = [leaf.option for leaf in leaves(told.model) if not leaf.lent]
        if (told.optional or told.missing) and values[mine[0].name] is None:
            if late := [other.flags[-1] for other in mine[1:] if other.name in given]:
                raise UsageError(f"{late[0]} needs {mine[0].flags[0]}; give it too")
            if told.missing:
                raise UsageError(told.missing)
            made[one.name] = None
            continue
        for other in mine[1:]:
            if told.optional and other.needed and values[other.name] is None:
                raise UsageError(f"{mine[0].flags[0]} needs {other.flags[0]}; give it too")
        made[one.name] = read(told.model, values, given)
    options = model(**made)
    verify = getattr(options, "verify", None)
    if verify is not None:
        verify(given)
    return options


def tell(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Makes a command's options of what a program says.

    Args:
        model: their class.
        values: by the name that an option has on the command line, with underscores; None: not given.

    Raises:
        UsageError: there is no such option, it does not take this value, or options do not go together.
    """
    options = {leaf.option.name: leaf for leaf in reversed([*leaves(model)])}
    given = {name: value for name, value in values.items() if value is not None}
    if unknown := [name for name in given if name not in options]:
        near = get_close_matches(unknown[0], options, 1)
        raise UsageError(f"there is no option {unknown[0]}" + (f"; did you mean {near[0]}?" if near else ""))
    typed = {name: leaf.typed for name, leaf in options.items()}
    for name, value in given.items():
        kind = options[name].option.kind
        try:
            typed[name] = tuple(map(kind.check, _several(value))) if options[name].option.many else kind.check(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name}: {error}") from None
    if missing := [name for name, leaf in options.items() if leaf.option.needed and name not in given]:
        raise UsageError(f"{missing[0]} is missing")
    return read(model, typed, set(given))


def _several(value: Any) -> list[Any]:
    """The values of an option that may be repeated: one alone, or a mapping, is taken too."""
    if isinstance(value, Mapping):
        return [*value.items()]
    return [value] if isinstance(value, (str, Path)) else [*value]


def words(options: Any) -> list[str]:
    """The words of a command line that say the same as a command's options, without those that say the defaults."""
    found: list[str] = []
    for leaf in leaves(type(options)):
        value, told = leaf.of(options), leaf.option
        if leaf.lent or value is MISSING:
            continue
        typed = told.says(value)
        if not told.flags:
            found += map(told.kind.spell, typed if told.many else [] if typed is None else [typed])
        elif typed == leaf.typed:
            continue
        elif isinstance(told.kind, Flag):
            found.append(told.flags[0].split("/")[0 if typed else -1])
        else:
            for each in typed if told.many else [typed]:
                found += [told.flags[0], told.kind.spell(each)]
    return found


def keys(model: type[Any]) -> Iterator[Leaf]:
    """The options that a schedule has keys for, among those of a command."""
    for one, told in _told(model):
        if isinstance(told, Group):
            yield from (replace(leaf, path=(one.name, *leaf.path)) for leaf in keys(told.model) if told.merged)
        elif told.schedule:
            yield Leaf(told, _default(one), (one.name,))


def scheduled(options: Any) -> dict[str, Any]:
    """What a schedule has to say of options, as plain data: the keys that it takes, without the defaults."""
    said = {leaf: leaf.of(options) for leaf in keys(type(options))}
    return {leaf.path[-1]: _plain(value) for leaf, value in said.items() if value != leaf.default}


def taken(model: type[Model], part: object, **more: Any) -> Model:
    """Makes options of what a part of a schedule says.

    Args:
        model: their class.
        part: has the keys as attributes.
        more: fields that it does not say, or says in another form.
    """
    for one, told in _told(model):
        if one.name not in more and isinstance(told, Group) and told.merged:
            more[one.name] = taken(told.model, part)
        elif one.name not in more and isinstance(told, Option) and told.schedule:
            more[one.name] = getattr(part, one.name)
    return model(**more)


def record(options: Any) -> dict[str, Any]:
    """What a manifest remembers of a command's options, as plain data."""
    found: dict[str, Any] = {}
    for leaf in leaves(type(options)):
        if name := leaf.option.record:
            value = leaf.of(options)
            if not name.endswith("?") or value != leaf.default:
                found[name.removesuffix("?")] = _plain(None if value is MISSING else value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, Path) else value
