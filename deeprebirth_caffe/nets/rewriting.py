"""What `rebirth convert` and `rebirth tucker` share: from a net's files to those of the net that passes make of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeprebirth_caffe.engines.base import Engine
from deeprebirth_caffe.errors import RebirthError, RefusedError
from deeprebirth_caffe.formats.files import Content
from deeprebirth_caffe.formats.outputs import DERIVED, MANIFEST, Place
from deeprebirth_caffe.ir import Layer, Net, NetError
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.ir.stages import whole_name
from deeprebirth_caffe.nets.check import check_runs, raise_failures
from deeprebirth_caffe.nets.ledger import make_ledger
from deeprebirth_caffe.nets.load import layers_without_weights, load_net, upgrade_notes
from deeprebirth_caffe.nets.manifest import (
    Manifest,
    Outputs,
    RefitReport,
    RewriteRecord,
    Source,
    read_earlier,
    rewritten,
    totals,
)
from deeprebirth_caffe.nets.pair import Pair, find_pair, join
from deeprebirth_caffe.nets.parts import fold_parts, parts_left
from deeprebirth_caffe.nets.selection import Selection, names_stage
from deeprebirth_caffe.nets.solver import OTHER_FILE, Lent, Testing, lend_solver, make_solver, testing_of
from deeprebirth_caffe.nets.strip import DEPLOY, strip
from deeprebirth_caffe.options.convert import RewriteOptions
from deeprebirth_caffe.results import ABSENT
from deeprebirth_caffe.rewrite import Kind, Rewriter
from deeprebirth_caffe.rewrite.learning import LrMults, learn_faster, restore
from deeprebirth_caffe.rewrite.names import rename_changed_blobs
from deeprebirth_caffe.rewrite.pipeline import Outcome
from deeprebirth_caffe.wording import json_bytes

Say = Callable[[str], object]
"""Takes progress, a line at a time."""
SOLVER = "solver.prototxt"
INIT = "init.caffemodel"


def rebirth_origins(rewriter: Rewriter) -> dict[str, list[str]]:
    """By rebirth layer, in the order of the net, the names of the original layers it stands for.

    One that learns in parts has one entry, under the name it has when they are folded.
    """
    return {
        whole_name(layer.name): rewriter.origins[layer]
        for layer in rewriter.net.layers
        if rewriter.made.get(layer) is Kind.RELEARN and layer in rewriter.origins
    }


def _factors(net: Net, originals: LrMults) -> dict[str, float]:
    """How many times as fast as in the original each rebirth layer of an earlier conversion learns now."""
    found = {}
    for layer in net.layers:
        for spec, original in zip(layer.param.param, originals.get(layer.name, ()), strict=False):
            if original and layer.name not in found:
                found[layer.name] = spec.lr_mult / original
    return found


@dataclass(frozen=True)
class Converted:
    """The result, in memory: what was (or, in a dry run, would be) written."""

    original: Net
    net: Net
    deploy: Net | None
    outcome: Outcome
    manifest: Manifest


class Rewriting:
    """One net on its way through passes.

    Attributes:
        options: what the user says.
        net: the net that is rewritten, with the learning rates of before an earlier conversion.
        original: a copy of it.
        teacher: the same function, with the parts of an earlier `--reparam` folded; what `rebirth_origins` names.
        rewriter: of the net.
        place: where the results go.
        selection: the stages that may change.
        notes: for people.
    """

    def __init__(self, options: RewriteOptions) -> None:
        """Reads everything, before any work starts.

        Raises:
            RebirthError: bad input, or the output directory is not empty.
        """
        self.options = options
        self._lent = lend_solver(options.solver, options.net) if options.solver is not None else None
        self._pair: Pair | None = None
        paths = find_pair(self._lent.source, options.solver, options.net) if self._lent and options.solver else None
        names = [path.name for path in paths or (options.net,)]
        self.place = Place(options.directory, options.force, (*names, DEPLOY, SOLVER, INIT, MANIFEST, *DERIVED))
        if not options.dry_run:
            self.place.check((*options.read_files(), *(paths or ())))
        self.net = load_net(options.net, options.weights, options.input_shapes)
        if paths is not None and (self.net.learns or self.net.absent):
            self._join(paths)
        if not self.net.learns:
            self._lent = None
        self.selection = Selection(options.only, options.skip)
        self.selection.check(self.net)
        self._check_name()
        earlier = read_earlier(options.net)
        self._factors = _factors(self.net, earlier.lr_mult)
        self._restored = restore(self.net, earlier.lr_mult)
        self._stand_for: dict[Layer, list[str]] = {}
        self._parts = earlier.reparam
        self.original = self.teacher = self.net.copy()
        self.rewriter = Rewriter(self.net)
        self.notes = upgrade_notes(self.net)
        if self.net.absent and options.solver is None:
            self.notes.append("--solver with a solver that names this net and its other phase converts both")

    def _join(self, paths: tuple[Path, Path]) -> None:
        """Takes the other net that the solver names too, where each of the two holds one phase."""
        pair = join(*paths, self.options.weights, self.options.input_shapes)
        if isinstance(pair, Pair) and self._lent is not None:
            self._pair, self.net = pair, pair.net
            self._lent = Lent(self._lent.source, tuple(one for one in self._lent.notes if OTHER_FILE not in one))

    def fold_parts(self, skip: Collection[str] = (), *, keep_exact: bool = False) -> Outcome:
        """Makes one layer again of each that an earlier `--reparam` let learn as several, whatever is selected."""
        outcome = fold_parts(self.rewriter, self._parts, skip, keep_exact=keep_exact)
        if outcome.rewrites:
            self._stand_for.update(self.rewriter.origins)
            # What is rewritten from here on stands for the layers that learned as one, not for their parts.
            self.rewriter.origins.clear()
            self.teacher = self.net.copy()
        if left := parts_left(self.net, self._parts, outcome):
            self.notes.append(f"still in parts since an earlier --reparam: {', '.join(left)}")
        return outcome

    def finish(
        self,
        outcome: Outcome,
        record: RewriteRecord,
        engine: Engine | None = None,
        random: str = "",
        refit: RefitReport | None = None,
    ) -> Converted:
        """Does what follows the passes, and writes.

        Args:
            outcome: theirs.
            record: the options, for the manifest.
            engine: real Caffe, to check the exact rewrites with; None does not check.
            random: where the net's weights were made up for a check, what to say about it; they are not written.
            refit: the report of `relearn.refitting`, where rebirth layers were fitted.

        Raises:
            RefusedError: a stage that `only` names was refused, or the check does not hold; nothing is written.
        """
        options, net, notes = self.options, self.net, self.notes
        self._refuse_named_stages(outcome)
        renamed = rename_changed_blobs(self.original, self.rewriter)
        notes += self._lent.notes if self._lent is not None else []
        if options.solver is not None and self._lent is None:
            notes.append("this net has nothing to train with: no solver is written, and --solver lends nothing")
        lr_mult = self._learn_faster()
        if missing := layers_without_weights(net):
            notes.append(f"no weights for {', '.join(missing)}: left to what their fillers say")
        if options.batch is not None and not self._set_batch(options.batch):
            notes.append("this net has no data layer in TRAIN, so its batch stays as it is")
        deploy_net, runs = self._deploy_net(engine)
        checks = None
        if engine is not None:
            checks = check_runs([*outcome.exact_runs, *runs], engine)
            raise_failures(checks)
        if random:
            net.weights = None
            notes.append(random)
        outputs = self._outputs(deploy_net)
        notes += self.place.notes(outputs.files)
        testing = testing_of(net, options.net) if outputs.solver and self._lent is None else None
        notes += [testing.said] if testing is not None else []
        manifest = Manifest(
            source=Source(net=options.net, weights=options.weights, solver=options.solver),
            options=record,
            outputs=outputs,
            rewrites=rewritten(outcome),
            refusals=outcome.refusals,
            renamed_blobs=dict(renamed),
            ledger=make_ledger(self.original, self.rewriter),
            lr_mult=lr_mult,
            origins=rebirth_origins(self.rewriter),
            refit=refit,
            reparam=parts_left(net, self._parts, outcome),
            before=totals(self.original),
            after=totals(net),
            check=checks,
            notes=notes,
        )
        if not options.dry_run:
            self._write(deploy_net, manifest, testing)
        return Converted(self.original, net, deploy_net, outcome, manifest)

    def _check_name(self) -> None:
        """The net keeps its file name, so this must not be the name of another result."""
        taken = {SOLVER, INIT, MANIFEST} | ({DEPLOY} if self.net.learns else set())
        for path in [self._pair.train, self._pair.test] if self._pair is not None else [self.options.net]:
            if path.name not in taken:
                continue
            raise RebirthError(f"{path}: {path.name} is what another result will be called; rename the net")

    def _refuse_named_stages(self, outcome: Outcome) -> None:
        """Raises RefusedError for a stage that `--only` names and that nothing could be done about."""
        done = {rewrite.stage for rewrite in outcome.rewrites}
        for pattern in self.options.only:
            stages = {layer.stage for layer in self.original.layers if names_stage(pattern, layer.stage)}
            if stages & done:
                continue
            reasons = [f"{one.layer}: {one.reason}" for one in outcome.refusals if one.stage in stages]
            if reasons:
                raise RefusedError(
                    f"stage {pattern} is refused: {'; '.join(dict.fromkeys(reasons))}; nothing was written"
                )

    def _learn_faster(self) -> dict[str, list[float]]:
        if not self.net.learns:
            return {}
        relearn = [layer for layer in self.net.layers if self.rewriter.made.get(layer) is Kind.RELEARN]
        if not relearn and not self.options.step_over:
            return self._still_fast()
        if self._restored:
            self.notes.append(f"an earlier step is over: lr_mult is what it was for {', '.join(self._restored)}")
        lr_mult = learn_faster(relearn, self.options.solver_options.lr_factor)
        frozen = [name for name, values in lr_mult.items() if not any(values)]
        if frozen:
            self.notes.append(f"frozen in the original (lr_mult 0), and so they will not relearn: {', '.join(frozen)}")
        return lr_mult

    def _still_fast(self) -> dict[str, list[float]]:
        """Where nothing new relearns, the earlier step goes on: its rebirth layers keep the lr_mult that they had."""
        lr_mult: dict[str, list[float]] = {}
        stand_for = {**self._stand_for, **self.rewriter.origins}
        for layer in self.net.layers:
            names = [layer.name, *stand_for.get(layer, ())]
            if factor := next((self._factors[name] for name in names if name in self._factors), None):
                lr_mult |= learn_faster([layer], factor)
        if lr_mult:
            self.notes.append(
                f"nothing new relearns, so these still do, as fast as an earlier conversion says: {', '.join(lr_mult)}"
            )
        return lr_mult

    def _set_batch(self, batch: int) -> bool:
        """Sets batch_size of the data layers that training reads; returns whether there is one."""
        found = False
        for view in self.net.views:
            if view.state.phase == "TRAIN":
                for layer in view.layers:
                    found |= self.rewriter.set_batch(layer, batch)
        self.net.changed()
        try:
            _ = self.net.views
        except NetError as error:
            raise RebirthError(
                f"a batch of {batch} does not go with this net ({error}); choose it with --batch"
            ) from error
        return found

    def _deploy_net(self, engine: Engine | None) -> tuple[Net | None, list[Any]]:
        """The deploy net beside a converted training net, or a note why there is none."""
        try:
            # BatchNorm stays: the weights are not learned yet, and `rebirth deploy` folds them when they are.
            made = strip(self.net, fold=False, keep_exact=engine is not None)
        except RebirthError as error:
            self.notes.append(str(error))
            return None, []
        return made.net, made.outcome.exact_runs

    def _outputs(self, deploy_net: Net | None) -> Outputs:
        pair = self._pair
        return Outputs(
            directory=self.options.directory,
            net=pair.train.name if pair is not None else self.options.net.name,
            test_net=pair.test.name if pair is not None else ABSENT,
            deploy=DEPLOY if deploy_net is not None else ABSENT,
            solver=SOLVER if self.net.learns else ABSENT,
            weights=INIT if self.net.weights is not None else ABSENT,
        )

    def _write(self, deploy_net: Net | None, manifest: Manifest, testing: Testing | None) -> None:
        options, net, outputs = self.options, self.net, manifest.outputs
        directory = options.directory
        files: dict[str, Content] = {}
        if deploy_net is not None and options.net.name != DEPLOY:
            files[DEPLOY] = deploy_net.text()
        if self._pair is not None:
            files |= self._pair.texts(net)
        else:
            files[options.net.name] = net.text()
        if outputs.solver:
            path = os.path.join(directory, outputs.net or "")
            test = os.path.join(directory, outputs.test_net) if outputs.test_net else None
            prefix = os.path.join(directory, "rebirth")
            start = os.path.join(directory, INIT) if net.weights is not None else None
            files[SOLVER] = make_solver(options.solver_options, path, prefix, self._lent, start, testing, test)
        weights = net.weights
        if weights is not None:
            files[INIT] = lambda file: save_weights(file, net, weights)
        files[MANIFEST] = json_bytes(manifest)
        self.place.publish(files)
