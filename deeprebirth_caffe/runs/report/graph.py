"""The nets of a run, drawn before and after."""

from __future__ import annotations

from pathlib import Path

from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.nets.strip import DEPLOY
from deeprebirth_caffe.pages.drawing import Panel, panels
from deeprebirth_caffe.runs.report.gather import DEPLOYED, Run
from deeprebirth_caffe.runs.schedule.steps import BASE


def panels_of(run: Run) -> list[Panel]:
    """Every stage of the net that a run began with; empty where the folder does not have both nets.

    Raises:
        RebirthError: a net cannot be read.
    """
    before, after = _nets(run)
    return [] if before is None or after is None else panels(before, after)


def _nets(run: Run) -> tuple[Net | None, Net | None]:
    """The net before the first step, and the last one that counts: both as they train, else both as deployed."""
    made = [step.manifest for step in run.steps if step.counts and step.manifest is not None]
    if run.base is not None and made:
        base, last = _read(run.folder / run.base.folder), _read(made[-1].folder, made[-1].data["outputs"]["net"])
        if base is not None and last is not None:
            return base, last
    folder = next((run.folder / step.folder for step in run.steps if step.kind == DEPLOYED and step.counts), run.folder)
    return _read(folder / BASE, DEPLOY), _read(folder, DEPLOY)


def _read(folder: Path, name: str = "") -> Net | None:
    """A net in a folder: of that name, else the first; None where there is none."""
    places = [folder / name] if name else sorted(folder.glob("*.prototxt"))
    return next((Net.read(path) for path in places if path.is_file()), None)
