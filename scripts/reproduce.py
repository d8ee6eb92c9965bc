"""What relearning costs: a net of the zoo trained from scratch on your pictures, merged in several ways, and tested.

    python scripts/reproduce.py --images DIR -o OUT

DIR has `train/` and `val/` (or `test/`), and in them a folder a class. For each seed the net is trained from its
fillers in the embedded engine (unless --weights has it trained already), and a short stretch of that once more in real
Caffe, as a cross-check. Then `rebirth run` merges it step by step as the paper does (configs/NET.yaml), with the best
recipe known (configs/NET-best.yaml) and for more speed (configs/NET-fast.yaml, where there is one), decomposes, deploys
and times it, and real Caffe tests what came of it. OUT/results.md has the figures, `report.html` in each run's folder
the rest.

Every part leaves a file that says it is done, and training saves as it goes: the same command goes on where it was,
after --hours, Ctrl-C or a power cut. The same seed gives the same result on a CPU with the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median
from typing import Any

from deeprebirth_caffe.engines import engine
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import atomic_write
from deeprebirth_caffe.isolation import python_words
from deeprebirth_caffe.runs.report.figures import Drop, drop, paired, pairs, trade
from deeprebirth_caffe.runs.report.gather import Run, Step, gather
from deeprebirth_caffe.runs.report.sections import percent
from deeprebirth_caffe.zoo.registry import design

CONFIGS = Path(__file__).parent.parent / "configs"
EPOCHS = {"googlenet64": 20.0, "alexnet64": 8.0, "resnet64": 8.0}
"""Of training from scratch: the net's own rate, falling to 0."""
STRETCH = 20
"""Iterations of the cross-check in real Caffe."""
SIZE = 64
"""Height and width of the pictures that these nets see."""
PAPER, BEST, FAST = "paper", "best", "fast"
METRICS = ("top1", "top5")


class Terminated(BaseException):
    """SIGTERM has come."""


class Stopped(Exception):
    """The time is up, or somebody pressed Ctrl-C; all is saved.

    Attributes:
        code: to exit with.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Work:
    """What is done where.

    Attributes:
        net: of the zoo.
        images: their folder.
        out: the folder for everything.
        scale: what all training lengths are multiplied by.
        device: of the embedded engine.
        threads: of the embedded engine.
        deadline: when this sitting ends, as `time.monotonic` counts.
        caffe: whether real Caffe is here.
        weights: of the trained net; None: it is trained here.
    """

    net: str
    images: Path
    out: Path
    scale: float
    device: str
    threads: int
    deadline: float
    caffe: bool
    weights: Path | None = None

    @property
    def data(self) -> Path:
        """The databases, as nets name them from `out`."""
        return self.out / "data"

    def seed(self, number: int) -> Path:
        """The folder of a seed."""
        return self.out / f"seed-{number}"

    def done(self, file: Path, make: Callable[[], Any]) -> Any:
        """What `make` gives, remembered as JSON in a file: what is there is not made again."""
        if not file.is_file():
            atomic_write(file, json.dumps(make(), indent=1) + "\n")
        return json.loads(file.read_text(encoding="utf-8"))

    def rebirth(self, *arguments: object) -> Any:
        """Runs one command with --json and gives what it says.

        Raises:
            Stopped: it was ended in good order, by the clock or by somebody.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Stopped(128 + signal.SIGTERM)
        words = [str(argument) for argument in arguments]
        print(f"\n$ rebirth {' '.join(words)}", flush=True)
        command = python_words("deeprebirth_caffe", [*words, "--json"])
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=self.out) as process:
            try:
                told, _ = process.communicate(timeout=left)
            except (subprocess.TimeoutExpired, Terminated):
                process.send_signal(signal.SIGTERM)
                process.communicate()
                raise Stopped(128 + signal.SIGTERM) from None
            except KeyboardInterrupt:
                # The terminal has told it as well; it finishes its iteration and saves.
                process.communicate()
                raise Stopped(128 + signal.SIGINT) from None
        if process.returncode:
            sys.exit(process.returncode)
        return json.loads(told)


def main() -> None:
    """Reads the command line and does all parts in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder with train/ and val/, a folder a class")
    parser.add_argument("--net", choices=EPOCHS, default="googlenet64")
    parser.add_argument("--seeds", type=int, default=1, help="how often, each time with another seed")
    parser.add_argument("--hours", type=float, default=3.0, help="how long this sitting may take; run again to go on")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="of the embedded engine")
    parser.add_argument("--threads", type=int, default=2, help="of the embedded engine")
    parser.add_argument("--scale", type=float, default=1.0, help="all training this many times as long, for a trial")
    parser.add_argument("-w", "--weights", type=Path, help="of the net as it was trained: begin with its merging")
    parser.add_argument("-o", "--out", type=Path, help="[default: reproduce-NET]")
    parser.add_argument("--into", type=Path, help="a Markdown file whose section on this net gets the figures too")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminated)
    if not given.images.is_dir():
        parser.error(f"--images: {given.images} is no folder")
    if given.weights is not None and not given.weights.is_file():
        parser.error(f"--weights: {given.weights} is no file")
    out = (given.out or Path(f"reproduce-{given.net}")).absolute()
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 3600 * given.hours
    images = given.images.absolute()
    weights = None if given.weights is None else given.weights.absolute()
    work = Work(given.net, images, out, given.scale, given.device, given.threads, deadline, has_caffe(), weights)
    try:
        check_same(work)
        folder = work.done(out / "data.json", lambda: make_data(work))
        for number in range(1, given.seeds + 1):
            one_seed(work, number, len(folder["classes"]))
        text = results(work, range(1, given.seeds + 1), folder)
        atomic_write(out / "results.md", text)
        if given.into is not None:
            before = given.into.read_text(encoding="utf-8") if given.into.exists() else ""
            atomic_write(given.into, with_section(before, text))
    except (Stopped, Terminated) as stop:
        print(f"stopped; {out} has all that is done, and the same command goes on", file=sys.stderr)
        sys.exit(stop.code if isinstance(stop, Stopped) else 128 + signal.SIGTERM)
    except RebirthError as error:
        sys.exit(f"error: {error}")
    print(f"\n{(out / 'results.md').read_text(encoding='utf-8')}\nwrote {out / 'results.md'}")


def _terminated(_number: int, _frame: object) -> None:
    raise Terminated


def has_caffe() -> bool:
    """Whether real Caffe is here."""
    try:
        engine("caffe")
    except RebirthError as error:
        print(f"without real Caffe: no cross-check, and PyTorch is timed ({error})", file=sys.stderr)
        return False
    return True


def check_same(work: Work) -> None:
    """Refuses a folder that was begun with other settings, for what is there would be taken for theirs."""
    mine = {
        "net": work.net,
        "images": str(work.images),
        "scale": work.scale,
        "device": work.device,
        "threads": work.threads,
        "caffe": work.caffe,
        "weights": None if work.weights is None else str(work.weights),
    }
    before = work.done(work.out / "settings.json", lambda: mine)
    if other := [f"{name} {before.get(name)}" for name in mine if before.get(name) != mine[name]]:
        raise RebirthError(f"{work.out}: this folder was begun with {', '.join(other)}; choose another with -o")


def make_data(work: Work) -> Any:
    """Databases of the pictures; only whole ones are left alone by `rebirth data`."""
    return work.rebirth("data", "folder", work.images, "-o", work.data, "--resize", SIZE, "--force")


def one_seed(work: Work, seed: int, classes: int) -> None:
    """Trains the net, merges it in each way, and lets real Caffe test what came of it."""
    folder = work.seed(seed)
    folder.mkdir(exist_ok=True)
    work.done(folder / "net.json", lambda: make_net(work, folder, classes))
    if work.weights is None:
        work.done(folder / "start.json", lambda: make_start(work, folder, seed))
    for name, schedule in schedules(work, folder, seed):
        path, run = folder / f"{name}.yaml", folder / f"{name}-run"
        atomic_write(path, json.dumps(schedule, indent=1) + "\n")
        # Asked each time: it knows what is done, and what a change of the schedule has to do anew.
        work.rebirth("run", path, "-o", run)
        work.rebirth("report", run, "--force")
    if work.caffe:
        work.done(folder / "caffe-training.json", lambda: cross_check(work, folder, seed))
        for name in recipes(work):
            caffe_test(work, folder, name)


def recipes(work: Work) -> list[str]:
    """The ways to merge that there are schedules for."""
    return [PAPER, *(name for name in (BEST, FAST) if (CONFIGS / f"{work.net}-{name}.yaml").is_file())]


def make_net(work: Work, folder: Path, classes: int) -> list[str]:
    """The net's files, for as many classes as there are pictures of; paths in them start in `out`."""
    files = replace(design(work.net), classes=classes).build().files()
    (folder / "net").mkdir(exist_ok=True)
    for name, text in files.items():
        atomic_write(folder / "net" / name, text)
    return sorted(files)


def make_start(work: Work, folder: Path, seed: int) -> Any:
    """Weights as the fillers make them: one iteration at a rate of 0."""
    text = (
        f'net: "{folder}/net/train_val.prototxt"\nbase_lr: 0\nlr_policy: "fixed"\nmax_iter: 1\nrandom_seed: {seed}\n'
        f'snapshot_prefix: "{folder}/net/start"\n'
    )
    atomic_write(folder / "net" / "start.prototxt", text)
    return work.rebirth("finetune", folder / "net" / "start.prototxt", *torch_options(work), "--force")


def torch_options(work: Work) -> list[object]:
    """The embedded engine."""
    return ["--engine", "torch", "--device", work.device, "--threads", work.threads]


def schedules(work: Work, folder: Path, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Training from scratch, then each way to merge."""
    import yaml

    solver = design(work.net).solver
    own = {
        "net": "net/train_val.prototxt",
        "seed": seed,
        "engine": {"name": "torch", "device": work.device, "threads": work.threads},
    }
    learn = {"epochs": EPOCHS[work.net], "base_lr": solver.base_lr, "policy": "poly", "clip_gradients": 0, "tests": 20}
    base = {
        "name": f"{work.net} from scratch",
        "weights": "net/start_iter_1.caffemodel",
        "solver": "net/solver.prototxt",
        "test": {"metric": "top5"},
        "joint": {"finetune": learn},
        "deploy": None,
    }
    if work.weights is None:
        yield "base", scaled({**base, **own}, work.scale)
    for name in recipes(work):
        path = CONFIGS / (f"{work.net}.yaml" if name == PAPER else f"{work.net}-{name}.yaml")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        data = {**data, **own, "weights": str(work.weights or "base-run/01-joint/result.caffemodel")}
        for part in (data.get("defaults"), data.get("tucker")):
            # The pictures that it is tested with are for that alone.
            if part and part.get("calibrate"):
                part["calibrate"]["source"] = str(work.data / "train_lmdb")
        if not work.caffe:
            data["time"] = {**data["time"], "engines": ["torch"]}
        yield name, scaled(data, work.scale)


def scaled(data: Any, factor: float, learning: bool = False) -> Any:
    """A schedule whose trainings are so many times as long."""
    if isinstance(data, Mapping):
        return {
            key: value * factor
            if learning and key == "epochs"
            else scaled(value, factor, learning or key in ("finetune", "distil"))
            for key, value in data.items()
        }
    return [scaled(one, factor, learning) for one in data] if isinstance(data, list) else data


def cross_check(work: Work, folder: Path, seed: int) -> dict[str, Any]:
    """The first iterations in both engines, without what is drawn at random: mirrored pictures and Dropout."""
    text = (folder / "net" / "train_val.prototxt").read_text(encoding="utf-8")
    text = re.sub(r"dropout_ratio: \S+", "dropout_ratio: 1e-06", text.replace("mirror: true", "mirror: false"))
    place = folder / "cross-check"
    place.mkdir(exist_ok=True)
    atomic_write(place / "train_val.prototxt", text)
    losses = {}
    for name, options in (("caffe", ["--engine", "caffe"]), ("torch", torch_options(work))):
        solver = (folder / "net" / "solver.prototxt").read_text(encoding="utf-8")
        kept = [line for line in solver.splitlines() if not re.match(r"(net|test_\w+|snapshot\w*|max_iter):", line)]
        kept += [f'net: "{place}/train_val.prototxt"', f"max_iter: {STRETCH}", f"random_seed: {seed}"]
        kept += [f'snapshot_prefix: "{place}/{name}"']
        atomic_write(place / f"{name}.prototxt", "\n".join(kept) + "\n")
        log = place / f"{name}.jsonl"
        start = work.weights or folder / "net" / "start_iter_1.caffemodel"
        work.rebirth("finetune", place / f"{name}.prototxt", "-w", start, *options, "--log", log, "--force")
        losses[name] = [json.loads(line)["loss"] for line in log.read_text(encoding="utf-8").splitlines()]
    both = zip(losses["caffe"], losses["torch"], strict=True)
    apart = [abs(one - other) / abs(one) for one, other in both if one and other is not None]
    if not apart:
        raise RebirthError(f"{place}: no loss of the {STRETCH} iterations is a number in both engines")
    # Rounding grows while a net learns from fillers, so the first one says most.
    return {"losses": losses, "first": apart[0], "median": median(apart), "most": max(apart)}


def caffe_test(work: Work, folder: Path, name: str) -> None:
    """What the last net of a run gets right, in real Caffe; not again where it is the same net."""
    last = gather(folder / f"{name}-run").last
    assert last is not None
    told = json.loads((folder / f"{name}-run" / last.folder / "result.json").read_text(encoding="utf-8"))
    net, weights = (folder / f"{name}-run" / told[key] for key in ("net", "weights"))
    digest = sha256(weights.read_bytes()).hexdigest()
    file = folder / f"caffe-{name}.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("weights") == digest:
        return
    found = work.rebirth("test", net, "-w", weights, "--iterations", "all", "--engine", "caffe")
    scores = {metric: found[metric] for metric in METRICS}
    atomic_write(file, json.dumps({"step": last.name, "weights": digest, **scores}, indent=1) + "\n")


def results(work: Work, seeds: Sequence[int], data: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    counts = ", ".join(f"{one['records']:,} in {Path(one['path']).name}" for one in data["databases"])
    lines = [
        f"## {work.net} from scratch (`scripts/reproduce.py --net {work.net} --seeds {len(seeds)}`)",
        "",
        f"{len(data['classes'])} classes; pictures: {counts}. {_trained(work)}. Points lost "
        "are percent of all test pictures, with the 95 % interval of the paired difference; times as fast in "
        f"{'real Caffe' if work.caffe else 'PyTorch'}, one thread, batch 1.",
    ]
    runs = {(seed, name): gather(work.seed(seed) / f"{name}-run") for seed in seeds for name in recipes(work)}
    for (seed, name), run in runs.items():
        lines += ["", f"### {name}, seed {seed}", "", *_table(run)]
        file = work.seed(seed) / f"caffe-{name}.json"
        if file.is_file():
            told = json.loads(file.read_text(encoding="utf-8"))
            lines += ["", f"In real Caffe the last one has {percent(told['top1'])} and {percent(told['top5'])}."]
    if BEST in recipes(work):
        lines += ["", "### best against paper", "", *_against(runs, seeds)]
    for seed in seeds:
        file = work.seed(seed) / "caffe-training.json"
        if file.is_file():
            told = json.loads(file.read_text(encoding="utf-8"))
            found = f"{told['first']:.1e} in the first, {told['median']:.1e} as a median, {told['most']:.1e} at most"
            count = len(told["losses"]["caffe"])
            lines += [
                "",
                f"Seed {seed}: losses in real Caffe and the embedded engine, over {count} iterations from the same "
                f"start, differ by {found} (relative).",
            ]
    return "\n".join(lines) + "\n"


def with_section(before: str, section: str) -> str:
    """A Markdown file with a section (`## ...`) in place of the one on the same subject, else at its end."""
    subject = section.split(" (", 1)[0]
    parts = re.split(r"^(?=## )", before, flags=re.MULTILINE)
    kept = [section if part.startswith(subject + " (") else part for part in parts if part]
    if section not in kept:
        kept.append(section)
    return "\n\n".join(part.strip("\n") for part in kept) + "\n"


def _table(run: Run) -> Iterator[str]:
    """A row a step."""
    base = run.base
    assert base is not None
    found = pairs(run)
    speed = {point.name: point for point in trade(run, found[0], "top5")} if found else {}
    yield "| step | top-1 | lost | top-5 | lost | times as fast |"
    yield "|---|---|---|---|---|---|"
    for step in run.steps:
        if not step.test or step.kind not in ("base", "step", "joint", "tucker"):
            continue
        cells = [step.name if step.counts else f"{step.name} ({step.status})"]
        for metric in METRICS:
            lost = drop(base, step, metric) if step is not base else None
            cells += [percent(step.test[metric]), _lost(lost)]
        point = speed.get(step.name)
        how = "" if point is None or point.measured else " (put together)"
        cells.append(f"{point.speedup:.2f}{how}" if point is not None and step is not base else "")
        yield f"| {' | '.join(cells)} |"


def _against(runs: Mapping[tuple[int, str], Run], seeds: Sequence[int]) -> Iterator[str]:
    """How much more the paper's way loses, with Tucker and without, seed by seed and on the average."""
    yield "Points that the paper's way has less than the best one:"
    yield ""
    yield "| seed | net | top-1 | top-5 |"
    yield "|---|---|---|---|"
    for kind in ("merged", "with Tucker"):
        means: dict[str, list[float]] = {metric: [] for metric in METRICS}
        for seed in seeds:
            best, paper = (_last(runs[seed, name], kind) for name in (BEST, PAPER))
            if best is None or paper is None or best.hits is None or paper.hits is None:
                continue
            cells = []
            for column, metric in enumerate(METRICS):
                found = paired(best.hits[:, column], paper.hits[:, column])
                means[metric].append(found.points)
                cells.append(_lost(found))
            yield f"| {seed} | {kind} | {' | '.join(cells)} |"
        if len(means["top1"]) > 1:
            cells = [f"{fmean(all_):.2f} ({min(all_):.2f} to {max(all_):.2f})" for all_ in means.values()]
            yield f"| all | {kind} | {' | '.join(cells)} |"


def _last(run: Run, kind: str) -> Step | None:
    """The last net in front of Tucker, or the one behind."""
    fits = [step for step in run.learned if (step.kind == "tucker") == (kind == "with Tucker")]
    return next((step for step in reversed(fits) if step.kind in ("step", "joint", "tucker")), None)


def _trained(work: Work) -> str:
    if work.weights is not None:
        return f"Begun with {work.weights.name}"
    return f"{EPOCHS[work.net] * work.scale:g} epochs of training"


def _lost(found: Drop | None) -> str:
    if found is None:
        return ""
    return f"{found.points:.2f}" + (f" ({found.low:.2f} to {found.high:.2f})" if found.low is not None else "")


if __name__ == "__main__":
    main()
