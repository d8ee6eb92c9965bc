"""manifest.json: what a conversion did, for people, for `--json`, and for the conversion that comes after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.formats.jsonfile import ANYTHING, TEXT, Each, Number, Shape, parse_json, shaped
from deeprebirth_caffe.formats.outputs import MANIFEST
from deeprebirth_caffe.ir import Net, NetCost, summarize
from deeprebirth_caffe.nets.check import CheckResult
from deeprebirth_caffe.nets.ledger import Ledger
from deeprebirth_caffe.ops import Shape as BlobShape
from deeprebirth_caffe.results import ABSENT, SCHEMA, Absent, Signed
from deeprebirth_caffe.rewrite.learning import LARGEST, LrMults
from deeprebirth_caffe.rewrite.pipeline import Outcome, Refused


@dataclass(frozen=True, kw_only=True)
class Source:
    """The input.

    Attributes:
        net: path.
        weights: path.
        solver: path of `--solver`.
    """

    net: Path
    weights: Path | None
    solver: Path | None


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """What reducers of some layers are scaled by.

    Attributes:
        pattern: glob over layer names.
        ratio: above 0 and at most 1.
    """

    pattern: str
    ratio: float


@dataclass(frozen=True, kw_only=True)
class RewriteRecord:
    """How `rebirth convert` or `rebirth tucker` was told to work.

    Attributes:
        passes: the passes that ran, in order.
        only: convert, tucker: `--only`.
        skip: convert, tucker: `--skip`.
        paper: convert: `--paper`.
        fixed_size: convert, deploy: true with `--fixed-size`.
        kernel: convert: `--kernel`: `"keep"`, `"receptive"` or a size in pixels.
        reduce: convert: what reducers are scaled by, above 0 and at most 1.
        reduce_patterns: convert: each `--reduce PATTERN=R`.
        force_merge: convert: `--force-merge`.
        init: convert: `"inherit"`, `"xavier"` or `"refit"`.
        seed: convert: of the random numbers of the start.
        ratio: tucker: what part of the weights is left, at most 1; null with `--ranks`.
        ranks: tucker: `--ranks`: `"vbmf"` or a path.
        calibrate: convert, tucker: `--calibrate`.
        samples: convert, tucker: `--samples`; null without `--calibrate`.
        reparam: convert: with `--reparam` the kernels that rebirth layers get while they learn; null without.
        input_shapes: `--input-shape`, by blob, without the batch.
        batch: `--batch`: convert, tucker: of the training data; deploy: images of a pass of the result.
        lr_factor: convert, tucker: what `lr_mult` of rebirth layers was multiplied by.
    """

    passes: Sequence[str]
    only: Sequence[str]
    skip: Sequence[str]
    paper: bool | Absent = ABSENT
    fixed_size: bool | Absent = ABSENT
    kernel: str | int | Absent = ABSENT
    reduce: float | Absent = ABSENT
    reduce_patterns: Sequence[Reduction] | Absent = ABSENT
    force_merge: bool | Absent = ABSENT
    init: str | Absent = ABSENT
    seed: int | Absent = ABSENT
    ratio: float | Absent | None = ABSENT
    ranks: str | Absent | None = ABSENT
    calibrate: str | None
    samples: int | None
    reparam: Sequence[str] | Absent | None = ABSENT
    input_shapes: Mapping[str, BlobShape]
    batch: int | None
    lr_factor: float


@dataclass(frozen=True, kw_only=True)
class DeployRecord:
    """How `rebirth deploy` was told to work; the fields mean what they mean in `RewriteRecord`."""

    passes: Sequence[str]
    batch: int | None
    fixed_size: bool | Absent = ABSENT
    input_shapes: Mapping[str, BlobShape]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What was (with `--dry-run`: would be) written.

    Attributes:
        directory: path; the names below are in it.
        net: convert, tucker: the merged net, under its old name.
        test_net: convert, tucker: the test net, where `--solver` names two nets and both were converted; `outputs.net`
            is the training net then.
        deploy: `deploy.prototxt`; not there where no deploy net could be made (`notes` say why).
        solver: convert, tucker: `solver.prototxt`, for a net that trains.
        weights: `init.caffemodel` (convert with `-w`, tucker) or `deploy.caffemodel` (deploy).
        manifest: `manifest.json`.
    """

    directory: Path
    net: str | Absent = ABSENT
    test_net: str | Absent = ABSENT
    deploy: str | Absent = ABSENT
    solver: str | Absent = ABSENT
    weights: str | Absent = ABSENT
    manifest: str = MANIFEST

    @property
    def files(self) -> list[str]:
        """The names in the directory."""
        names = (self.net, self.test_net, self.deploy, self.solver, self.weights, self.manifest)
        return [name for name in names if name]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """One rewrite.

    Attributes:
        pass_: by which pass.
        kind: `"exact"` or `"relearn"`.
        stage: where.
        removed: the layers that are gone.
        rebirth: the layers that were made: to be learned again (`relearn`), or with folded weights (`exact`).
    """

    pass_: str
    kind: str
    stage: str
    removed: Sequence[str]
    rebirth: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Rewritten(Merge):
    """One rewrite that was made, with its figures.

    Attributes:
        macs_before: multiply-adds of the layers concerned, for one image; null where the pass does not count them.
        macs_after: likewise.
        notes: for people: channels, kernel, stride, pad, the shift of the sampling grid.
        ranks: tucker: inputs and outputs of a kernel's core, or the one rank of two factors; as `--ranks FILE` takes
            them.
        error: tucker: how far the weights are off, as a part of their norm; with `--calibrate` weighed by the layer's
            input.
    """

    macs_before: int | None
    macs_after: int | None
    notes: Sequence[str]
    ranks: Sequence[int] | Absent = ABSENT
    error: float | Absent = ABSENT


@dataclass(frozen=True, kw_only=True)
class Refitted:
    """A layer that was fitted.

    Attributes:
        layer: its name.
        how: `"fitted"`: by least squares; `"scaled"`: only the size of its outputs, since it reads the net's input.
        parts: the layers of the original whose output it stands for, in the order of its channels.
        rows: places of all images together.
        features: numbers that one output reads.
        before: relative error of its block's output, behind the activation, on these places: at the start; null where
            that should be 0 everywhere, or is not finite.
        after: and as fitted.
    """

    layer: str
    how: str
    parts: Sequence[str]
    rows: int
    features: int
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class Left:
    """A layer that was left as it was.

    Attributes:
        reason: for people.
    """

    layer: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RefitOutput:
    """An output of the net, before and after a refit.

    Attributes:
        before: relative error against the original on these images: at the start.
        after: and as fitted.
        agree_before: for what part of the images the largest number is the original's; null where it is not one for
            each class.
        agree_after: and as fitted.
    """

    blob: str
    before: float | None
    after: float | None
    agree_before: float | None
    agree_after: float | None


@dataclass(frozen=True, kw_only=True)
class RefitReport:
    """What a refit did.

    Attributes:
        engine: what ran the nets: `"caffe"` or `"torch"`.
        source: of the images.
        samples: how many were asked for.
        ridge: how strongly weights were held, relative to the mean variance of what a layer reads.
        rounds: of the fit of a layer with a ReLU.
        prior: where they were held: `"start"` or `"zero"`.
        positions: places of each image that counted, at most.
        seed: of the choice of places.
        images: how many there were; each counts once.
        layers: what was fitted, bottom to top.
        left: rebirth layers that keep their start.
        outputs: each output of the net, or what its losses and accuracies read.
    """

    engine: str
    source: str
    samples: int
    ridge: float
    rounds: int
    prior: str
    positions: int
    seed: int
    images: int
    layers: Sequence[Refitted]
    left: Sequence[Left]
    outputs: Sequence[RefitOutput]


@dataclass(frozen=True, kw_only=True)
class Uncounted:
    """A layer that sums do without."""

    name: str
    type: str


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The figures of a net in TEST (in its first state, where it has no TEST).

    Attributes:
        layers: how many are alive.
        batch: images of a pass.
        params: learned numbers.
        macs: multiply-adds of an image.
        memory_bytes: what Caffe needs for an image.
        memory_required_for_data: what Caffe logs under this name.
        uncounted: the layers that these sums do without, since a shape is not known; null stands where nothing is
            known.
    """

    layers: int
    batch: int
    params: int | None
    macs: int | None
    memory_bytes: int | None
    memory_required_for_data: int | None
    uncounted: Sequence[Uncounted]


@dataclass(frozen=True, kw_only=True)
class Manifest(Signed):
    """What `rebirth convert`, `rebirth tucker` and `rebirth deploy` did.

    Attributes:
        source: the input.
        options: how it was told to work.
        outputs: what was (with `--dry-run`: would be) written.
        rewrites: what was done, in order.
        refusals: what could not be done.
        renamed_blobs: old name to new name of each blob whose shape changed.
        ledger: what became of the weights: numbers of layers.
        lr_mult: of each rebirth layer of a net that trains: the multipliers of its blobs before they were multiplied by
            `options.lr_factor`; the next conversion puts them back.
        origins: for each rebirth layer, the layers of the input that it stands for: those it is made of, and what they
            absorbed.
        refit: convert: with `--init refit` what was fitted ([refit.md](refit.md)); null without.
        reparam: the layers that learn as one ([reparam.md](reparam.md)), by what that one is called once they are
            folded; the next conversion folds them.
        before: the input, in TEST (in its first state, where it has no TEST).
        after: the result, likewise.
        check: with `--check`: each comparison of real Caffe before and after a run of exact passes; null without. One
            that fails ends the command with exit code 3 and no manifest.
        notes: for people.
    """

    source: Source
    options: RewriteRecord | DeployRecord
    outputs: Outputs
    rewrites: Sequence[Rewritten]
    refusals: Sequence[Refused]
    renamed_blobs: Mapping[str, str]
    ledger: Ledger
    lr_mult: Mapping[str, Sequence[float]]
    origins: Mapping[str, Sequence[str]]
    refit: RefitReport | None
    reparam: Mapping[str, Sequence[str]]
    before: Totals
    after: Totals
    check: Sequence[CheckResult] | None
    notes: Sequence[str]


def totals(net: Net) -> Totals:
    """The figures of a net in TEST, for before and after."""
    view = next((view for view in net.views if view.state.phase == "TEST"), net.views[0])
    cost = summarize(view)
    return Totals(
        layers=len(view.layers),
        batch=cost.batch,
        params=cost.params,
        macs=cost.macs,
        memory_bytes=cost.memory_bytes,
        memory_required_for_data=cost.memory_required_for_data,
        uncounted=uncounted(cost),
    )


def merges(outcome: Outcome) -> list[Merge]:
    """What a pipeline did, in short."""
    return [
        Merge(
            pass_=one.pass_name,
            kind=one.kind.value,
            stage=one.stage,
            removed=one.applied.removed,
            rebirth=one.applied.rebirth,
        )
        for one in outcome.rewrites
    ]


def uncounted(cost: NetCost) -> list[Uncounted]:
    """The layers that the totals do without, since a shape is not known."""
    return [Uncounted(name=layer.name, type=layer.type) for layer in cost.uncounted]


def rewritten(outcome: Outcome) -> list[Rewritten]:
    """What a pipeline did, as the manifest tells it."""
    return [
        Rewritten(
            pass_=one.pass_name,
            kind=one.kind.value,
            stage=one.stage,
            removed=one.applied.removed,
            rebirth=one.applied.rebirth,
            macs_before=one.applied.macs_before,
            macs_after=one.applied.macs_after,
            notes=one.applied.notes,
            ranks=one.applied.ranks,
            error=one.applied.error,
        )
        for one in outcome.rewrites
    ]


@dataclass(frozen=True)
class Earlier:
    """What an earlier conversion left to the next one.

    Attributes:
        lr_mult: the original lr_mult of its rebirth layers.
        reparam: the layers that learned as one, by the name of that one.
    """

    lr_mult: LrMults = field(default_factory=dict)
    reparam: dict[str, list[str]] = field(default_factory=dict)


_EARLIER: Shape = {"lr_mult": Each([Number(least=-LARGEST, most=LARGEST)]), "reparam?": Each([TEXT])}


def read_earlier(net_path: Path) -> Earlier:
    """Reads the manifest beside a net that an earlier conversion made; nothing where there is none.

    Raises:
        RebirthError: there is a manifest, but it cannot be read.
    """
    path = net_path.parent / MANIFEST
    if not path.is_file():
        return Earlier()
    try:
        manifest = shaped(parse_json(read_regular(path)), {"outputs": Each(ANYTHING), "version": ANYTHING})
        if net_path.name not in manifest["outputs"].values():
            return Earlier()
        if manifest["version"] != SCHEMA:
            raise ValueError(f"version {manifest['version']!r:.40}, and this rebirth reads {SCHEMA}")
        manifest = shaped(manifest, _EARLIER)
        return Earlier(manifest["lr_mult"], manifest.get("reparam", {}))
    except (OSError, ValueError) as error:
        raise RebirthError(
            f"{path}: cannot be read as a manifest of rebirth ({error}), and it holds the original learning rates of "
            f"{net_path.name}; repair it or move it away"
        ) from error
