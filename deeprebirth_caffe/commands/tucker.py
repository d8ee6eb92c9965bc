"""`rebirth tucker`: a net and its weights in; its layers as products of thinner ones, solver and manifest out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deeprebirth_caffe.collector import uncollected
from deeprebirth_caffe.errors import RebirthError, UsageError
from deeprebirth_caffe.formats.files import read_regular
from deeprebirth_caffe.formats.jsonfile import parse_json
from deeprebirth_caffe.ir import Net, summarize
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.ir.weights import Array
from deeprebirth_caffe.nets.manifest import RewriteRecord
from deeprebirth_caffe.nets.rewriting import Converted, Rewriting
from deeprebirth_caffe.nets.selection import Selection
from deeprebirth_caffe.nets.strip import strip
from deeprebirth_caffe.ops import axis_of
from deeprebirth_caffe.options.fields import record
from deeprebirth_caffe.options.tucker import VBMF, TuckerOptions
from deeprebirth_caffe.passes.patterns import Facts
from deeprebirth_caffe.passes.relearn.factors import Ranks, Site, find_site
from deeprebirth_caffe.passes.relearn.rank_choice import Choice, by_budget, by_variational_bayes
from deeprebirth_caffe.passes.relearn.tucker import Tucker
from deeprebirth_caffe.relearn.calibration import Reading, read_moments
from deeprebirth_caffe.rewrite import Kind, Reason
from deeprebirth_caffe.rewrite.pipeline import run
from deeprebirth_caffe.wording import mib

ONLY_TRAINS = "only training needs it: `rebirth deploy` takes it out"
NO_WEIGHTS = "there are no weights for it"


@uncollected
def tucker(options: TuckerOptions) -> Converted:
    """Decomposes a net.

    Raises:
        RebirthError: bad input, or the output directory is not empty; nothing is written.
        RefusedError: a stage that `only` names was refused; nothing is written.
    """
    if options.weights is None:
        raise UsageError("there is nothing to decompose without weights; give -w")
    if options.ratio is not None and options.ranks is not None:
        raise UsageError("--ratio and --ranks exclude each other")
    work = Rewriting(options)
    net = work.net
    whole = work.fold_parts()
    given = _read_ranks(options.ranks, net) if options.ranks not in (None, VBMF) else None
    deployed = _deployed(net)
    sites, left = _sites(net, work.selection, deployed)
    moments = {}
    if options.calibrate is not None and sites:
        with tempfile.TemporaryDirectory(prefix="rebirth-tucker-") as folder:
            weights = options.weights
            if whole.rewrites:  # the file's layers are not the net's any more
                weights = Path(folder) / "folded.caffemodel"
                assert net.weights is not None
                save_weights(weights, net, net.weights)
            readings = [_reading(site) for site in sites]
            moments = read_moments(options.net, net, weights, readings, options.calibrate, work.notes)
    choice = _choose(options, net, sites, moments, given, _weights_of(deployed, work.selection), work.notes)
    outcome = run(
        work.rewriter, [Tucker(ranks=choice.ranks, left={**left, **choice.left}, moments=moments)], work.selection
    )
    made = {layer.name for layer, kind in work.rewriter.made.items() if kind is Kind.RELEARN}
    # The factors that were just made are no news.
    outcome.refusals = [one for one in outcome.refusals if one.layer not in made]
    before, after = _weights_of(deployed, Selection()), _weights_of(_deployed(net), Selection())
    if before:
        share = 100 * after / before
        work.notes.append(
            f"weights as deployed: {mib(4 * before)} to {mib(4 * after)}, {share:.1f} % of what they were"
        )
    return work.finish(whole.then(outcome), _record(options))


def _record(options: TuckerOptions) -> RewriteRecord:
    """What the manifest remembers of the options."""
    return RewriteRecord(passes=[Tucker.name], **{**record(options), "ratio": options.budget})


def _choose(
    options: TuckerOptions,
    net: Net,
    sites: Sequence[Site],
    moments: Mapping[str, Array],
    given: dict[str, Ranks] | None,
    selected: int,
    notes: list[str],
) -> Choice:
    """The ranks.

    Args:
        options: what the user says.
        net: the net.
        sites: the layers that may be decomposed.
        moments: of what they read.
        given: the ranks of a file.
        selected: how many weights the selected stages have.
        notes: takes what people should know.
    """
    assert net.weights is not None
    if given is not None:
        return Choice(given)
    if options.budget is None:
        return by_variational_bayes(sites, net.weights)
    fixed = selected - sum(site.now().weights for site in sites)
    allowed = int(options.budget * selected)
    choice = by_budget(sites, net.weights, allowed - fixed, moments)
    then = fixed + sum(
        (site.then(choice.ranks[site.layer.name]) if site.layer.name in choice.ranks else site.now()).weights
        for site in sites
    )
    if then > allowed:
        notes.append(
            f"even at rank 1 {then:,} of {selected:,} weights are left, "
            f"{100 * then / selected:.1f} %: the ratio {options.budget:g} cannot be reached"
        )
    return choice


def _sites(net: Net, selection: Selection, deployed: Net) -> tuple[list[Site], dict[str, str]]:
    """The layers that may be decomposed, and why others of their kind may not."""
    facts = Facts(net)
    needed = {layer.name for layer in deployed.layers}
    sites: list[Site] = []
    left: dict[str, str] = {}
    for layer in net.layers:
        if layer.traits.linear and selection(layer.stage):
            site = find_site(facts, layer)
            if isinstance(site, Reason):
                continue
            if layer.name not in needed:
                left[layer.name] = ONLY_TRAINS
            elif net.weights is None or layer.name not in net.weights:
                left[layer.name] = NO_WEIGHTS
            else:
                sites.append(site)
    return sites, left


def _deployed(net: Net) -> Net:
    """What is left of a net without what only training needs; all of it where its data has no known shape."""
    try:
        return strip(net, fold=False).net
    except RebirthError:
        return net


def _weights_of(net: Net, selection: Selection) -> int:
    """How many learned numbers the selected stages have; those of layers whose shapes are not known do not count."""
    view = next((view for view in net.views if view.state.phase == "TEST"), net.views[0])
    rows = summarize(view).layers
    return sum(row.params or 0 for row in rows if selection(row.layer.stage))


def _reading(site: Site) -> Reading:
    layer = site.layer
    if layer.type == "InnerProduct":
        return Reading(layer.name, layer.bottoms[0], None)
    return Reading(layer.name, layer.bottoms[0], axis_of(layer.param, layer.param.convolution_param.axis, site.bottom))


def _read_ranks(name: str | None, net: Net) -> dict[str, Ranks]:
    """The ranks of a JSON file: an object with a rank, or a list of two, by layer.

    Raises:
        RebirthError: it cannot be read, or says something else.
        UsageError: it names a layer that cannot have ranks.
    """
    assert name is not None
    path = Path(name)
    try:
        data = parse_json(read_regular(path))
    except OSError as error:
        raise RebirthError(f"{path}: cannot read these ranks: {error.strerror or error}") from error
    except ValueError as error:
        raise RebirthError(f"{path}: this is no JSON of ranks ({error})") from error
    if not isinstance(data, dict):
        raise RebirthError(f'{path}: ranks are an object, such as {{"conv2": [64, 96], "fc8": 100}}')
    known = {layer.name for layer in net.layers if layer.traits.linear}
    found: dict[str, Ranks] = {}
    for layer, value in data.items():
        ranks = value if isinstance(value, list) else [value]
        if not ranks or not all(type(rank) is int and rank > 0 for rank in ranks):
            raise RebirthError(f"{path}: {layer}: {json.dumps(value):.60} is no rank, nor a list of two")
        if layer not in known:
            raise UsageError(f'{path}: this net has no convolution or InnerProduct "{layer}"')
        found[layer] = tuple(ranks)
    return found
