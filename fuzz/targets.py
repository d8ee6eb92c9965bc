"""What is fuzzed: one input through everything that reads it, in memory."""

from __future__ import annotations

import io
import random as random_module
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import binaries
import folders
import mutate
import nets
import seeds
import texts

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.inspect import inspect
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.ir.summary import summarize
from deeprebirth_caffe.nets.solver import lend_solver, make_solver
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.shared import SolverOptions


@dataclass(frozen=True)
class Target:
    """What is fuzzed: where inputs start from, how they change, and what they go through."""

    seeds: Callable[[], list[bytes]]
    mutate: Callable[[random_module.Random, Sequence[bytes]], bytes]
    run: Callable[[bytes, Path], None]


def run_prototxt(data: bytes, folder: Path) -> None:
    """Reads, looks at and converts a net; its text is made, and nothing is written."""
    path = folder / "net.prototxt"
    path.write_bytes(data)
    made = convert(ConvertOptions(path, out=folder / "out", paper=len(data) % 2 == 1, dry_run=True))
    for view in made.original.views:
        summarize(view)
    if len(data) % 4 == 0:  # a dry conversion again
        inspect(path)
    made.net.text()
    if made.deploy is not None:
        made.deploy.text()


def run_caffemodel(data: bytes, folder: Path) -> None:
    """Reads weights and takes them through a conversion of the net that they were made for."""
    path, net = folder / "net.caffemodel", folder / "weighed.prototxt"
    path.write_bytes(data)
    if not net.exists():
        net.write_text(seeds.WEIGHED)
    made = convert(ConvertOptions(net, path, out=folder / "out", dry_run=True))
    if made.net.weights is not None:
        save_weights(io.BytesIO(), made.net, made.net.weights)


def run_solver(data: bytes, folder: Path) -> None:
    """Reads a solver and writes the one for a converted net."""
    path = folder / "solver.prototxt"
    path.write_bytes(data)
    make_solver(SolverOptions(), "net.prototxt", "prefix", lend_solver(path, folder / "net.prototxt"))


TARGETS = {
    "prototxt": Target(seeds.prototxts, mutate.mutate_text, run_prototxt),
    "caffemodel": Target(seeds.caffemodels, mutate.mutate_bytes, run_caffemodel),
    "solver": Target(seeds.solvers, mutate.mutate_text, run_solver),
    "net": Target(nets.seeds, nets.build, nets.run),
    "hdf5": Target(binaries.weights_files, binaries.damage_weights, binaries.run_weights),
    "schedule": Target(texts.schedules, texts.damage_schedule, texts.run_schedule),
    "log": Target(texts.logs, texts.damage_log, texts.run_log),
    "folder": Target(folders.seeds, folders.damage, folders.run),
    "lmdb": Target(binaries.lmdbs, binaries.damage_lmdb, binaries.run_lmdb),
    "leveldb": Target(binaries.leveldbs, binaries.damage_leveldb, binaries.run_leveldb),
    "picture": Target(binaries.pictures, binaries.damage_picture, binaries.run_picture),
}
