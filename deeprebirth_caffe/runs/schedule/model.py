"""What a schedule says: the data behind `rebirth run SCHEDULE.yaml`, and its JSON schema.

A schedule names a training net with its weights, and steps. Each step merges some stages and relearns. What `defaults`
says holds for each step that does not say otherwise; mappings are joined key by key, lists and values are replaced.
Joint relearning and Tucker take `finetune` and `budget` from there too.

Relative paths start in the schedule's own folder. Rates fall at fractions of a step's iterations, so that they
still fall where they should when a step is tried again with more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from deeprebirth_caffe.commands.convert import PASS_NAMES
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.finetune import TeacherOptions
from deeprebirth_caffe.options.shared import OWN, REFIT_SAMPLES, CalibrationOptions, EngineOptions
from deeprebirth_caffe.options.tucker import TuckerOptions
from deeprebirth_caffe.runs.schedule.keys import Count, Part, Positive, keyed
from deeprebirth_caffe.runs.schedule.solvers import MAX_INT

VERSION = 1
"""The version of schedules; it goes up when a key changes its meaning or goes away."""

RESERVED = ("base", "joint", "tucker", "deploy", "time")
"""What steps cannot be called: the folders of a run have these names."""

Share = Annotated[float, Field(gt=0, lt=1)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _or_lone(schema: dict[str, Any]) -> None:
    """Says of a list that one of its items may stand there alone."""
    lone = {**schema["items"]}
    whole = {key: schema.pop(key) for key in ("type", "items", "minItems") if key in schema}
    schema["anyOf"] = [lone, whole]


def _or_boolean(schema: dict[str, Any]) -> None:
    schema["anyOf"] = [{"type": "boolean"}, *schema["anyOf"]]


Names = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed), Field(json_schema_extra=_or_lone)
]
Passes = Annotated[
    tuple[Annotated[str, Field(json_schema_extra={"enum": list(PASS_NAMES)})], ...],
    BeforeValidator(_listed),
    Field(json_schema_extra=_or_lone),
]


Scale = Annotated[float, Field(gt=0, le=1)]
_ENGINE: Any = keyed(EngineOptions)
_IMAGES: Any = keyed(CalibrationOptions, types={"samples": Count}, usual={"source": OWN, "samples": REFIT_SAMPLES})
_TEACHER: Any = keyed(TeacherOptions)
_RECIPE: Any = keyed(
    ConvertOptions,
    types={"skip_passes": Passes, "reduce": Scale, "reduce_patterns": dict[str, Scale]},
    usual={"reduce_patterns": {}},
)
_TUCKER: Any = keyed(TuckerOptions, texts={"lr_factor": "What lr_mult of the new layers is multiplied by."})


class EngineChoice(_ENGINE):  # type: ignore[misc]
    """What runs the nets; as the options of `rebirth finetune`."""


class Calibrate(_IMAGES):  # type: ignore[misc]
    """Images that the refit and Tucker look at; no labels are needed."""


class Teacher(_TEACHER):  # type: ignore[misc]
    """The net whose outputs the relearning net follows."""

    net: str | None = None
    """Its prototxt; left out: the schedule's net."""
    weights: str | None = None
    """Its caffemodel; left out: the schedule's weights."""

    @model_validator(mode="after")
    def _both(self) -> Teacher:
        if (self.net is None) != (self.weights is None):
            raise ValueError("a teacher needs both net and weights, or neither")
        return self


class Length(Part):
    """How long something is trained."""

    iterations: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    """Iterations; 0: nothing is trained."""
    epochs: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """Or how often all training images are seen."""
    batch: Count | None = None
    """Batch size; left out: the net's own."""
    base_lr: Positive | None = None
    """Learning rate; left out: 0.001 where layers relearn, and `rebirth distil`'s own where blocks are distilled."""

    @model_validator(mode="after")
    def _one(self) -> Length:
        if self.iterations is not None and self.epochs is not None:
            raise ValueError("iterations and epochs exclude each other")
        return self


class Distil(Length):
    """Block by block distillation in front of relearning (`rebirth distil`)."""

    @property
    def wanted(self) -> bool:
        """Whether there is any."""
        return bool(self.iterations or self.epochs)


class Learn(Length):
    """One stretch of relearning; what it does not say, the schedule's solver says."""

    policy: Literal["fixed", "multistep", "poly"] = "multistep"
    """fixed; multistep: times gamma at each of `drops`; poly: falls to 0 as (1 - done) ^ power."""
    drops: tuple[Share, ...] = (0.44,)
    """After which parts of the iterations the rate falls (multistep)."""
    gamma: Positive = 0.1
    """What it is multiplied by then."""
    power: Positive = 1.0
    """Of poly."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Left out: the solver's, or 0.9."""
    weight_decay: Annotated[float, Field(ge=0, lt=1e38)] | None = None
    """Left out: the solver's, or 0.0002."""
    clip_gradients: Annotated[float, Field(ge=0, lt=1e38)] | None = None
    """The norm that gradients are cut to; 0: not; left out: the solver's, or 5, and as the paper not."""
    type: str | None = None
    """Caffe's name of the solver (SGD, Adam, ...); left out: the solver's, or SGD."""
    snapshot: Count | None = None
    """Iterations between snapshots: what a power cut can cost; left out: a tenth of the step, 2,000 at most."""
    tests: Annotated[int, Field(ge=0, le=10_000)] = 0
    """How often it is tested on the way, for the curves."""
    teacher: Teacher | None = Field(default=None, json_schema_extra=_or_boolean)
    """Follow a teacher: `true` for the schedule's net, or a mapping (embedded engine only)."""

    @field_validator("teacher", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    @field_validator("drops")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("the parts must rise")
        return value

    @property
    def wanted(self) -> bool:
        """Whether anything is trained."""
        return bool(self.iterations or self.epochs)


class Budget(Part):
    """How much accuracy a step may lose, in points (percent of all images), and what happens when it loses more."""

    metric: str | None = None
    """top1, top5, or an output of the net; left out: the schedule's `test.metric`."""
    step: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points against the step before."""
    total: Annotated[float, Field(ge=0, le=100)] | None = None
    """Points against the net that the run began with."""
    retries: Annotated[int, Field(ge=0, le=20)] = 0
    """How often it is relearned from its start, longer each time, before `then`."""
    factor: Annotated[float, Field(gt=1, le=100)] = 2.0
    """How much longer."""
    then: Literal["stop", "rollback", "continue"] = "stop"
    """stop: the run ends with exit code 3; rollback: as if the step were not there; continue: only say so."""


class Recipe(_RECIPE):  # type: ignore[misc]
    """How stages are merged and relearned: what a step says, and `defaults` for all steps."""

    calibrate: Calibrate = Field(default_factory=Calibrate)
    """Images for `init: refit`, and for what `reparam` starts from."""
    distil: Distil = Field(default_factory=Distil)
    """Distillation of the blocks in front of relearning."""
    finetune: Learn = Field(default_factory=Learn)
    """Relearning."""
    budget: Budget = Field(default_factory=Budget)
    """What a step may lose."""

    @field_validator("skip_passes")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in PASS_NAMES:
                raise ValueError(f"there is no pass {name!r}; there are {', '.join(PASS_NAMES)}")
        return value

    @model_validator(mode="after")
    def _exact_folds(self) -> Recipe:
        if self.exact and (self.bn == "prune" or self.reparam or self.distil.wanted):
            raise ValueError("an exact step neither prunes BatchNorm nor reparametrizes nor distils")
        return self


class Step(Recipe):
    """Stages that are merged and relearned together."""

    stages: Names = Field(min_length=1)
    """Stages by name, glob or block, as `rebirth convert --only` takes them."""
    name: str = Field(default="", pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,59}$")
    """What its folder is called; left out: the stages."""
    skip: bool = False
    """Leave the step out."""
    note: str | None = None
    """For people."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name") and data.get("stages"):
            stages = _listed(data["stages"])
            if isinstance(stages, (list, tuple)) and all(isinstance(one, str) for one in stages):
                name = re.sub(r"[^A-Za-z0-9._+-]+", "_", "+".join(stages)).lstrip("._+-")[:60]
                return {**data, "name": name or "step"}
        return data

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        if value in RESERVED:
            raise ValueError(f"{value} is what another folder of the run is called")
        return value


class Joint(Part):
    """Relearning of the whole net when all steps are done, rebirth layers at their original rates."""

    finetune: Learn = Field(default_factory=Learn)
    """How."""
    budget: Budget = Field(default_factory=Budget)
    """What it may lose."""


class TuckerStep(_TUCKER):  # type: ignore[misc]
    """Tucker-2 and SVD on the merged net (`rebirth tucker`), then relearning."""

    only: Names = ()
    """Only these stages."""
    skip: Names = ()
    """Not these stages."""
    calibrate: Calibrate | None = None
    """Images to weigh errors with; left out: the weights alone count."""
    finetune: Learn = Field(default_factory=Learn)
    """Relearning."""
    budget: Budget = Field(default_factory=Budget)
    """What it may lose."""

    @model_validator(mode="after")
    def _one(self) -> TuckerStep:
        if self.ratio is not None and self.ranks is not None:
            raise ValueError("ratio and ranks exclude each other")
        return self


class Deploy(Part):
    """The net for the phone, and beside it that of the net that the run began with."""

    check: bool = False
    """Compare with the training net in real Caffe."""
    batch: Count = 1
    """Of the Input layers."""


class Time(Part):
    """Times the deployed net against that of the net that the run began with."""

    engines: Annotated[
        tuple[Literal["caffe", "torch", "opencv", "mnn", "onnxruntime", "ncnn"], ...],
        Field(min_length=1),
        BeforeValidator(_listed),
        Field(json_schema_extra=_or_lone),
    ] = ("caffe",)
    """What runs the nets."""
    threads: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(min_length=1)] = (1,)
    """With each of these numbers of threads."""
    on: str = "local"
    """Where: local, or a device as `rebirth time --on` takes it, which `rebirth run --on` must name too."""
    runs: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Turns of each net."""
    iterations: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Passes in a turn."""
    batch: Count | None = None
    """Of both nets; left out: as deployed."""


class Test(Part):
    """How accuracy is measured after each step."""

    __test__ = False  # no test of pytest's, whatever its name

    iterations: Annotated[int, Field(ge=0, le=MAX_INT)] = 0
    """Batches; 0: each record once."""
    metric: str = "top1"
    """What budgets and tables go by: top1, top5, or an output of the net."""
    per_image: bool = True
    """Keep the hits of each image, for paired comparisons."""


class Schedule(Part):
    """A schedule of `rebirth run`."""

    version: Literal[1] = 1
    """Of the format."""
    name: str = ""
    """A title for people."""
    net: str
    """The training net (train_val.prototxt) with its data layers."""
    weights: str
    """Its learned weights."""
    solver: str | None = None
    """A solver that lends what steps do not say (test_iter, weight_decay, type, ...)."""
    input_shapes: dict[str, tuple[Count, ...]] = Field(default_factory=dict)
    """Shape of a data layer's blob without the batch, where the net does not say it."""
    seed: Annotated[int, Field(ge=0, le=MAX_INT)] = 1
    """Of everything random."""
    engine: EngineChoice = Field(default_factory=EngineChoice)
    """What trains and tests."""
    test: Test = Field(default_factory=Test)
    """How accuracy is measured."""
    defaults: Recipe = Field(default_factory=Recipe)
    """What holds for each step that does not say otherwise."""
    steps: Annotated[tuple[Step, ...], Field(max_length=1000)] = ()
    """From the first to the last: the paper goes from the bottom of the net to its top."""
    joint: Joint | None = None
    """Relearning of the whole net after the steps."""
    tucker: TuckerStep | None = None
    """Tucker behind all that."""
    deploy: Deploy | None = Field(default_factory=Deploy)
    """The net for the phone; null: none."""
    time: Time | None = None
    """Its speed; left out: not measured."""

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = data.get("defaults")
        if not isinstance(given, dict):
            return data
        made = dict(data)
        if isinstance(steps := data.get("steps"), (list, tuple)):
            made["steps"] = [joined(given, one) if isinstance(one, dict) else one for one in steps]
        shared = {key: given[key] for key in ("finetune", "budget") if key in given}
        for key in ("joint", "tucker"):
            if isinstance(data.get(key), dict):
                made[key] = joined(shared, data[key])
        return made

    @model_validator(mode="after")
    def _whole(self) -> Schedule:
        names = [step.name for step in self.steps]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two steps are called {name}; give one another name")
        if self.time is not None and self.deploy is None:
            raise ValueError("time needs deploy: it times the net for the phone")
        return self


def joined(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two mappings as one: those in them are joined in turn, else the second one's values count.

    A length in the second one (iterations or epochs) takes the place of either in the first, and so do ratio and ranks.
    """
    kept = dict(under)
    for one, other in (("iterations", "epochs"), ("ratio", "ranks")):
        if one in over or other in over:
            kept.pop(one, None)
            kept.pop(other, None)
    for key, value in over.items():
        mine = kept.get(key)
        kept[key] = joined(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return kept


def json_schema() -> dict[str, Any]:
    """The JSON schema of schedules, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A schedule of rebirth run",
        **{key: value for key, value in Schedule.model_json_schema().items() if key != "title"},
    }
