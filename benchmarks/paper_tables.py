"""The paper's Tables 1, 3, 4, 5, 6 and 7 for this machine.

`paper_tables.py 3 --threads 1` measures what Table 3 needs and writes it to docs/results, as `rebirth time --json`
prints it: a file for each set of nets, engine and number of threads. `paper_tables.py --show` makes Markdown of all
files that lie there, the paper's figures beside ours. Weights are random: times do not depend on them. The paper's MB
are MiB, and its times are those of other machines, so only ratios and shares can be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from deeprebirth_caffe import zoo
from deeprebirth_caffe.bench.breakdown import grouped
from deeprebirth_caffe.bench.protocol import Plan
from deeprebirth_caffe.cli.time import ENGINES
from deeprebirth_caffe.formats.files import atomic_write
from deeprebirth_caffe.workflows.convert import ConvertOptions, convert
from deeprebirth_caffe.workflows.publish import json_bytes
from deeprebirth_caffe.workflows.timing import TimeOptions, time_nets

RESULTS = Path(__file__).parents[1] / "docs" / "results"
FIT = 12 * 2**30
"""Of the paper's Titan X."""
GOOGLENET, MERGE, PAPER, SQUEEZENET = "GoogLeNet", "GoogLeNet-Merge", "GoogLeNet-Merge, --paper", "SqueezeNet"


@dataclass(frozen=True)
class Recipe:
    """A net to time.

    Attributes:
        name: in the tables.
        zoo: where it starts.
        convert: how it is converted; None leaves it.
        trains: whether to start from the net that trains, so that its heads are known too.
    """

    name: str
    zoo: str
    convert: dict[str, Any] | None = None
    trains: bool = False


SETS: dict[str, tuple[Recipe, ...]] = {
    "shares": (
        Recipe("AlexNet", "alexnet"),
        Recipe(GOOGLENET, "googlenet"),
        Recipe("ResNet-50", "resnet50"),
        Recipe("ResNet-152", "resnet152"),
    ),
    "googlenet": (
        Recipe(GOOGLENET, "googlenet", trains=True),
        Recipe(MERGE, "googlenet", {}, trains=True),
        Recipe(PAPER, "googlenet", {"paper": True}, trains=True),
        Recipe(SQUEEZENET, "squeezenet1.0"),
    ),
    "alexnet": (
        Recipe("none", "alexnet"),
        Recipe("conv1 + norm1", "alexnet", {"paper": True, "only": ("conv1",)}),
        Recipe("conv2 + norm2", "alexnet", {"paper": True, "only": ("conv1", "conv2")}),
    ),
    "resnet50": (
        Recipe("none", "resnet50"),
        Recipe("conv1", "resnet50", {"paper": True, "only": ("conv1",)}),
        Recipe("res2a_branch1", "resnet50", {"paper": True, "only": ("conv1", "res2a_branch1")}),
        Recipe("res2a_branch2a-2c", "resnet50", {"paper": True, "only": ("conv1", "res2a")}),
    ),
}
NEEDS = {1: "shares", 3: "googlenet", 4: "googlenet", 5: "googlenet", 6: "alexnet", 7: "resnet50"}

# What the paper prints.
SHARES = {
    "AlexNet": ("32.08", "25.08", "22.37"),
    GOOGLENET: ("62.03", "37.81", "26.14"),
    "ResNet-50": ("55.66", "36.61", "47.87"),
    "ResNet-152": ("49.77", "n/a", "44.49"),
}
STAGES = {
    "conv1": ("94.92", "8.424"),
    "conv2": ("153.8", "16.62"),
    "inception_3a": ("55.23", "21.17"),
    "inception_3b": ("98.41", "25.94"),
    "inception_4a": ("30.53", "16.80"),
    "inception_4b": ("32.60", "20.29"),
    "inception_4c": ("46.96", "18.71"),
    "inception_4d": ("36.88", "24.67"),
    "inception_4e": ("48.24", "28.08"),
    "inception_5a": ("24.64", "10.69"),
    "inception_5b": ("24.92", "14.58"),
    "loss3": ("3.014", "2.97"),
    "total": ("651.4", "210.6 (3.09x)"),
}
IMAGES = {
    GOOGLENET: ("651.4", "91.77"),
    MERGE: ("210.6 (3.09x)", "23.69 (3.87x)"),
    PAPER: ("210.6 (3.09x)", "23.69 (3.87x)"),
    SQUEEZENET: ("136.3 (4.78x)", "17.63 (5.21x)"),
}
COSTS = {
    GOOGLENET: ("984 mJ", "26.72", "33.2", "350"),
    MERGE: ("447 mJ", "23.77", "13.2", "882"),
    PAPER: ("447 mJ", "23.77", "13.2", "882"),
    SQUEEZENET: ("288 mJ", "4.72", "36.5", "321"),
}
STEPS = {
    "alexnet": {
        "none": ("445 ms", ""),
        "conv1 + norm1": ("343 ms", "1.29x"),
        "conv2 + norm2": ("274 ms", "1.63x"),
    },
    "resnet50": {
        "none": ("189 ms, 2505 MB", ""),
        "conv1": ("162 ms, 2113 MB", "1.17x"),
        "res2a_branch1": ("140 ms, 1721 MB", "1.35x"),
        "res2a_branch2a-2c": ("104 ms, 1133 MB", "1.82x"),
    },
}

Rows = list[Sequence[str]]


# ---------------------------------------------------------------- measuring


def build(recipe: Recipe, folder: Path) -> Path:
    """Writes a net into a folder; its prototxt, relative to it."""
    source = folder / recipe.zoo
    if not source.exists():
        zoo.write(recipe.zoo, source)
    file = "train_val.prototxt" if recipe.trains else "deploy.prototxt"
    if recipe.convert is None:
        return source / file
    out = folder / "".join(letter if letter.isalnum() else "-" for letter in f"{recipe.zoo} {recipe.name}")
    convert(ConvertOptions(source / file, out=out, **recipe.convert))
    return out / file


def measure(name: str, engine: str, threads: int, plan: Plan) -> dict[str, Any]:
    """Times a set of nets, taking turns."""
    recipes = SETS[name]
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        # Paths relative to the folder: they go into the results.
        nets: list[tuple[Path, Path | None]] = [(build(recipe, Path()), None) for recipe in recipes]
        options = TimeOptions(nets, engine, plan=plan, threads=threads, batch=1, fit_bytes=FIT)
        result = time_nets(options, _progress)
    for recipe, net in zip(recipes, result["nets"], strict=True):
        net["name"] = recipe.name
        # Of files that this machine has, the names alone.
        for key, text in net["runtime"].items():
            net["runtime"][key] = ", ".join(PurePath(part).name or part for part in text.split(", "))
    result["machine"].pop("system")
    return {"set": name, **result}


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} turns ", end="" if done < total else "\n", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- showing


def markdown(rows: Rows) -> str:
    """A table; its first row is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _mib(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:.2f}"


def _speed(result: dict[str, Any], number: int) -> str:
    """How many times as fast as the first net, with the interval."""
    if not number:
        return ""
    ratio = result["ratios"][number - 1]
    if ratio["low"] is None:
        return f"{ratio['median']:.2f}x"
    same = " (no difference that can be told)" if ratio["verdict"].startswith("no") else ""
    return f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f}){same}"


def table1(result: dict[str, Any]) -> Rows:
    rows: Rows = [("non-tensor layers, % of time", "here", "paper: x86", "paper: ARM", "paper: Titan X")]
    known = []
    for net in result["nets"]:
        share = net["tensor_share"]
        text = "unknown" if share is None else f"{100 * (1 - share):.2f}"
        if share is not None:
            known.append(100 * (1 - share))
        rows.append((net["name"], text, *SHARES[net["name"]]))
    rows.append(("average", f"{sum(known) / len(known):.2f}" if known else "", "49.89", "33.17", "35.22"))
    return rows


def table3(result: dict[str, Any]) -> Rows:
    nets = result["nets"][:3]
    tables = [grouped(net["layers"], "stage") for net in nets]
    rows: Rows = [
        ("stage, ms", *(net["name"] for net in nets), "paper, Galaxy S5: GoogLeNet", "paper, Galaxy S5: -Merge")
    ]
    for stage, paper in STAGES.items():
        cells = []
        for table in tables:
            total = sum(group.ms for group in table.values())
            ms = total if stage == "total" else table[stage].ms if stage in table else 0.0
            cells.append(f"{ms:.2f}" if total else "unknown")
        rows.append((stage, *cells, *paper))
    return rows


def table4(result: dict[str, Any]) -> Rows:
    rows: Rows = [("ms per image", "best run", "median", "speed-up", "paper, Galaxy S5", "paper, MacBook Pro's CPU")]
    for number, net in enumerate(result["nets"]):
        speed = _speed(result, number)
        rows.append((net["name"], f"{net['best_ms']:.2f}", f"{net['median_ms']:.2f}", speed, *IMAGES[net["name"]]))
    return rows


def table5(result: dict[str, Any]) -> Rows:
    rows: Rows = [
        (
            "costs",
            "energy",
            "paper",
            "storage MiB",
            "with heads",
            "paper",
            "blobs MiB",
            "reused",
            "process",
            "paper",
            "batch in 12 GiB",
            "paper",
        )
    ]
    for net in result["nets"]:
        energy = net["energy"]["mj"]
        paper = COSTS[net["name"]]
        rows.append(
            (
                net["name"],
                "not available here" if energy is None else f"{energy:.0f} mJ",
                paper[0],
                _mib(net["storage_bytes"]),
                _mib(net["storage_with_heads_bytes"]),
                paper[1],
                _mib(net["blob_bytes"]),
                _mib(net["reused_bytes"]),
                _mib(net["peak_rss_bytes"]),
                paper[2],
                str(net["fit_batch"]),
                paper[3],
            )
        )
    return rows


def steps(result: dict[str, Any]) -> Rows:
    """Tables 6 and 7."""
    rows: Rows = [("merged", "best run ms", "median ms", "speed-up", "MiB for data at batch 32", "paper", "paper")]
    for number, net in enumerate(result["nets"]):
        data = net["memory_required_for_data"]
        rows.append(
            (
                net["name"] if number < 2 else f"+ {net['name']}",
                f"{net['best_ms']:.2f}",
                f"{net['median_ms']:.2f}",
                _speed(result, number),
                "unknown" if data is None else f"{32 * data / 2**20:.0f}",
                *STEPS[result["set"]][net["name"]],
            )
        )
    return rows


TABLES: dict[int, tuple[str, Callable[[dict[str, Any]], Rows]]] = {
    1: ("Table 1: share of the time in non-tensor layers", table1),
    3: ("Table 3: GoogLeNet by stage", table3),
    4: ("Table 4: time of an image", table4),
    5: ("Table 5: costs", table5),
    6: ("Table 6: AlexNet, step by step", steps),
    7: ("Table 7: ResNet-50, step by step", steps),
}


def show(results: Iterable[dict[str, Any]], wanted: Iterable[int]) -> str:
    """Markdown of tables, one for each engine and number of threads that was measured."""
    parts = []
    found = list(results)
    for number in wanted:
        title, table = TABLES[number]
        for result in found:
            if result["set"] == NEEDS[number]:
                first = result["nets"][0]
                plan = result["protocol"]
                how = (
                    f"{first['engine']} {first['runtime'].get('version', '')}, {first['threads']} thread(s), "
                    f"{result['machine']['cpu']}, {plan['runs']} runs of {plan['iterations']} passes"
                )
                notes = "".join(f"\n\nNote: {text}." for text in result["warnings"])
                parts.append(f"### {title}\n\n{how}:\n\n{markdown(table(result))}{notes}")
    engines = [result for result in found if result["set"] == "googlenet"]
    if len({(result["nets"][0]["engine"]) for result in engines}) > 1:
        parts.append(f"### Does the merge pay in other engines?\n\n{markdown(by_engine(engines))}")
    return "\n\n".join(parts) + "\n"


def by_engine(results: Iterable[dict[str, Any]]) -> Rows:
    """Best runs and speed-ups of the GoogLeNets, an engine a row."""
    rows: Rows = [("engine", "threads", f"{GOOGLENET} ms", f"{MERGE} ms", "speed-up", f"{PAPER} ms", "speed-up")]
    for result in results:
        plain, merged, paper = result["nets"][:3]
        times = [f"{net['best_ms']:.2f}" for net in (plain, merged, paper)]
        rows.append(
            (plain["engine"], str(plain["threads"]), *times[:2], _speed(result, 1), times[2], _speed(result, 2))
        )
    return rows


def stored(folder: Path) -> list[dict[str, Any]]:
    """The results that lie in a folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-t[0-9]*.json"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tables", nargs="*", type=int, choices=[*TABLES, []], help="which; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engine", choices=ENGINES, default="caffe")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--cooldown", type=float, default=0.0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--show", action="store_true", help="measure nothing: print what lies there as Markdown")
    given = parser.parse_args()
    wanted = given.tables or list(TABLES)
    if given.show:
        print(show(stored(given.out), wanted), end="")
        return
    given.out.mkdir(parents=True, exist_ok=True)
    place = given.out.absolute()
    for name in dict.fromkeys(NEEDS[number] for number in wanted):
        print(f"{name}, {given.engine}, {given.threads} thread(s)", file=sys.stderr)
        plan = Plan(given.runs, given.iterations, cooldown=given.cooldown)
        result = measure(name, given.engine, given.threads, plan)
        atomic_write(place / f"{name}-{given.engine}-t{given.threads}.json", json_bytes(result))
        if result["interrupted"]:
            sys.exit(130)
        print(show([result], [number for number in wanted if NEEDS[number] == name]))


if __name__ == "__main__":
    main()
