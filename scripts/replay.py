"""`make replay`: what commands write in this checkout and in another revision, compared byte by byte.

A change that moves code without changing results is held to that promise: each command runs over the zoo and the
golden tests' nets with both revisions' code, in folders of the same names, and every file, standard output and exit
code is compared. Messages on standard error may differ.

    python scripts/replay.py main~20              # this checkout against that revision
    python scripts/replay.py v0.1 --only tucker   # only commands that contain a word
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deeprebirth_caffe import zoo
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.load import load_net

ROOT = Path(__file__).resolve().parents[1]
WEIGHED = ("googlenet28", "googlenet64", "alexnet64", "resnet64", "squeezenet1.1", "mobilenet", "googlenet")
"""Nets small enough for commands that need weights."""
UNWEIGHED = ("alexnet", "caffenet", "resnet50", "resnet101", "resnet152", "squeezenet1.0", "vgg16")
KINDS = {"default": (), "paper": ("--paper",), "exact": ("--exact",)}


@dataclass(frozen=True)
class Step:
    """Commands that run one after the other, because each reads what the one before wrote.

    Attributes:
        commands: the arguments of `rebirth`, paths relative to the folder of a revision.
    """

    commands: tuple[tuple[str, ...], ...]


def steps() -> Iterator[Step]:
    """All commands, in chains that can run side by side."""
    for name in (*WEIGHED, *UNWEIGHED):
        net, weights = f"{name}/train_val.prototxt", f"../weights/{name}.caffemodel"
        commands = [
            ("zoo", name),
            *(("inspect", f"{name}/{part}.prototxt", "--json") for part in ("train_val", "deploy")),
        ]
        shape = ("--input-shape", f"data={','.join(map(str, zoo.build(name).input_shape))}")
        given = ("-w", weights) if name in WEIGHED else ()
        for kind, options in KINDS.items():
            out = f"{name}-{kind}"
            commands += [
                ("convert", net, *given, *shape, *options, "-o", out, "--json"),
                ("convert", f"{name}/deploy.prototxt", *options, "--dry-run", "--json"),
                ("diff", net, f"{out}/train_val.prototxt", *shape, "--json"),
            ]
            if given:
                init = ("-w", f"{out}/init.caffemodel")
                commands += [
                    ("deploy", f"{out}/train_val.prototxt", *init, *shape, "-o", f"{out}-deploy", "--json"),
                    ("export", f"{out}/deploy.prototxt", *init, "-o", f"{out}.onnx", "--json"),
                ]
        if given:
            commands += [
                ("deploy", net, *given, *shape, "-o", f"{name}-deploy", "--json"),
                ("export", f"{name}/deploy.prototxt", *given, "-o", f"{name}.onnx", "--json"),
                ("tucker", net, *given, *shape, "-o", f"{name}-tucker", "--json"),
                ("plan", net, *given, *shape, "-o", f"{name}.yaml", "--json"),
                ("run", f"{name}.yaml", "--dry-run", "--json"),
            ]
        yield Step(tuple(commands))
    for file in sorted((ROOT / "tests" / "golden").rglob("*.prototxt")):
        name = file.relative_to(ROOT / "tests").with_suffix("").as_posix().replace("/", "-")
        net = f"../nets/{name}.prototxt"
        yield Step(
            (
                ("inspect", net, "--json"),
                *(("convert", net, *options, "-o", f"{name}-{kind}", "--json") for kind, options in KINDS.items()),
            )
        )


def replay(step: Step, checkout: Path, folder: Path) -> dict[str, str]:
    """Runs a step's commands in a folder; standard output and exit code of each."""
    env = dict(os.environ, PYTHONPATH=str(checkout), OMP_NUM_THREADS="1")
    env.pop("REBIRTH_CAFFE", None)
    answers = {}
    for command in step.commands:
        done = subprocess.run(
            [sys.executable, "-m", "deeprebirth_caffe", *command], cwd=folder, env=env, capture_output=True, check=False
        )
        answers[" ".join(command)] = f"exit code {done.returncode}, standard output {digest(done.stdout)}"
    return answers


def digest(data: bytes) -> str:
    """A short name of a content."""
    return hashlib.sha256(data).hexdigest()[:16]


def record(checkout: Path, folder: Path, chains: Sequence[Step], jobs: int) -> dict[str, str]:
    """What all commands answer and write: a digest by command, and by file."""
    folder.mkdir()
    with ThreadPoolExecutor(jobs) as pool:
        answers = list(pool.map(lambda step: replay(step, checkout, folder), chains))
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        **{command: answer for chain in answers for command, answer in chain.items()},
        **{name: digest(path.read_bytes()) for name, path in files.items()},
    }


def prepare(folder: Path) -> None:
    """Weights and nets that both revisions read."""
    (folder / "weights").mkdir()
    (folder / "nets").mkdir()
    for file in (ROOT / "tests" / "golden").rglob("*.prototxt"):
        name = file.relative_to(ROOT / "tests").as_posix().replace("/", "-")
        shutil.copy(file, folder / "nets" / name)
    for name in WEIGHED:
        net = folder / "zoo" / name
        subprocess.run(
            [sys.executable, "-m", "deeprebirth_caffe", "-q", "zoo", name, "-o", str(net)], cwd=ROOT, check=True
        )
        parsed = load_net(net / "train_val.prototxt", None, {"data": zoo.build(name).input_shape})
        save_weights(folder / "weights" / f"{name}.caffemodel", parsed, random_weights(parsed))


def main() -> int:
    """Compares; 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("revision", help="what to compare with, as git names it")
    parser.add_argument("--only", default="", help="only chains of commands that contain this word")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    chains = [step for step in steps() if any(options.only in " ".join(command) for command in step.commands)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        other = folder / "checkout"
        subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(other), options.revision], check=True
        )
        try:
            before = record(other, folder / "before", chains, options.jobs)
            (folder / "before").rename(folder / "kept")
            after = record(ROOT, folder / "before", chains, options.jobs)
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(other)], check=True)
    differing = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    for key in differing:
        print(f"{key}: {before.get(key, 'absent')} before, {after.get(key, 'absent')} now")
    succeeded = sum(answer.startswith("exit code 0") for answer in after.values())
    print(f"{len(before)} files and answers before, {len(after)} now, {len(differing)} differ")
    print(f"{succeeded} commands succeed")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
