"""The paper's Tables 1, 3, 4, 5, 6 and 7 for this machine.

`paper_tables.py 3 --threads 1` measures what Table 3 needs and writes it to docs/results, as `rebirth time --json`
prints it: a file for each set of nets, engine and number of threads. `paper_tables.py --costs` works out what does not
depend on the machine (memory, storage, batches), writes docs/results/costs.json and brings the other files up to date,
whose times stay. `paper_tables.py --show` makes Markdown of all files that lie there, the paper's figures beside ours.
Weights are random: times do not depend on them. The paper's MB are MiB, and its times are those of other machines, so
only ratios and shares can be compared.
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
from deeprebirth_caffe.bench.breakdown import Group, LayerTime, grouped
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.time import time_nets
from deeprebirth_caffe.commands.tucker import tucker
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.formats.files import atomic_write
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.selection import names_stage
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.time import ENGINES, Plan, TimingOptions
from deeprebirth_caffe.options.tucker import TuckerOptions
from deeprebirth_caffe.results import to_json
from deeprebirth_caffe.wording import json_bytes

COSTS_FILE = "costs.json"
RESULTS = Path(__file__).parents[1] / "docs" / "results"
FIT = 12 * 2**30
"""Of the paper's Titan X."""
GOOGLENET, TUCKER, MERGE, SQUEEZENET = "GoogLeNet", "GoogLeNet-Tucker", "GoogLeNet-Merge", "SqueezeNet"
PAPER, PAPER_TUCKER = "GoogLeNet-Merge, --paper", "GoogLeNet-Merge-Tucker, --paper"
COST_KEYS = (
    *("batch", "memory_bytes", "param_bytes", "memory_required_for_data", "reused_bytes"),
    *("storage_bytes", "storage_with_heads_bytes", "fit_batch", "fit_model"),
)
"""What of a row of `rebirth time` does not depend on the machine."""


@dataclass(frozen=True)
class Recipe:
    """A net to time.

    Attributes:
        name: in the tables.
        zoo: where it starts.
        convert: how it is converted; None leaves it.
        tucker: whether half of the weights goes by `rebirth tucker` then.
        trains: whether to start from the net that trains, so that its heads are known too.
    """

    name: str
    zoo: str
    convert: dict[str, Any] | None = None
    tucker: bool = False
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
        Recipe(TUCKER, "googlenet", tucker=True, trains=True),
        Recipe(MERGE, "googlenet", {}, trains=True),
        Recipe(PAPER, "googlenet", {"paper": True}, trains=True),
        Recipe(PAPER_TUCKER, "googlenet", {"paper": True}, tucker=True, trains=True),
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
NEEDS = {1: "shares", 3: "googlenet", 4: "googlenet", 6: "alexnet", 7: "resnet50"}

STEPPED = {"alexnet": None, "resnet50": ("conv1", "res2a")}
"""The stages whose times the paper's table has; None: all."""

# What the paper prints.
SHARES = {
    "AlexNet": ("32.08", "25.08", "22.37"),
    GOOGLENET: ("62.03", "37.81", "26.14"),
    "ResNet-50": ("55.66", "36.61", "47.87"),
    "ResNet-152": ("49.77", "n/a", "44.49"),
}
STAGES = {
    "conv1": ("94.92", "87.85", "8.424", "6.038"),
    "conv2": ("153.8", "179.4", "16.62", "9.259"),
    "inception_3a": ("55.23", "85.62", "21.17", "9.459"),
    "inception_3b": ("98.41", "66.51", "25.94", "11.74"),
    "inception_4a": ("30.53", "36.91", "16.80", "8.966"),
    "inception_4b": ("32.60", "41.82", "20.29", "11.65"),
    "inception_4c": ("46.96", "30.46", "18.71", "9.102"),
    "inception_4d": ("36.88", "21.05", "24.67", "10.05"),
    "inception_4e": ("48.24", "32.19", "28.08", "14.08"),
    "inception_5a": ("24.64", "14.43", "10.69", "5.36"),
    "inception_5b": ("24.92", "15.87", "14.58", "6.65"),
    "loss3": ("3.014", "2.81", "2.97", "2.902"),
    "total": ("651.4", "614.9 (1.06x)", "210.6 (3.09x)", "106.3 (6.13x)"),
}
IMAGES = {
    GOOGLENET: ("651.4", "91.77"),
    TUCKER: ("614.9 (1.06x)", "78.22 (1.17x)"),
    MERGE: ("210.6 (3.09x)", "23.69 (3.87x)"),
    PAPER: ("210.6 (3.09x)", "23.69 (3.87x)"),
    PAPER_TUCKER: ("106.3 (6.13x)", "15.18 (6.05x)"),
    SQUEEZENET: ("136.3 (4.78x)", "17.63 (5.21x)"),
}
COSTS = {
    GOOGLENET: ("984 mJ", "26.72", "33.2", "350"),
    TUCKER: ("902 mJ", "14.38", "35.8", "323"),
    MERGE: ("447 mJ", "23.77", "13.2", "882"),
    PAPER: ("447 mJ", "23.77", "13.2", "882"),
    PAPER_TUCKER: ("226 mJ", "11.99", "14.8", "785"),
    SQUEEZENET: ("288 mJ", "4.72", "36.5", "321"),
}
STEPS = {
    "alexnet": {
        "none": ("445", "", ""),
        "conv1 + norm1": ("343", "1.29x", ""),
        "conv2 + norm2": ("274", "1.63x", ""),
    },
    "resnet50": {
        "none": ("189", "", ""),
        "conv1": ("162", "1.17x", "392"),
        "res2a_branch1": ("140", "1.35x", "392"),
        "res2a_branch2a-2c": ("104", "1.82x", "588"),
    },
}
"""ms, speed-up, and by how many MB memory falls at batch 32."""

Rows = list[Sequence[str]]


# ---------------------------------------------------------------- measuring


def build(recipe: Recipe, folder: Path) -> Path:
    """Writes a net into a folder; its prototxt, relative to it."""
    source = folder / recipe.zoo
    if not source.exists():
        zoo.write(recipe.zoo, source)
    file = "train_val.prototxt" if recipe.trains else "deploy.prototxt"
    out = folder / "".join(letter if letter.isalnum() else "-" for letter in f"{recipe.zoo} {recipe.name}")
    if recipe.convert is not None:
        merged = out.with_name(f"{out.name}-merged") if recipe.tucker else out
        convert(ConvertOptions(source / file, out=merged, **recipe.convert))
        source = merged
    if recipe.tucker:
        net = Net.read(source / file)
        save_weights(source / "random.caffemodel", net, random_weights(net))
        tucker(TuckerOptions(source / file, source / "random.caffemodel", out=out))
        source = out
    return source / file


def measure(name: str, engine: str, threads: int, plan: Plan) -> dict[str, Any]:
    """Times a set of nets, taking turns."""
    recipes = SETS[name]
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        # Paths relative to the folder: they go into the results.
        nets: list[tuple[Path, Path | None]] = [(build(recipe, Path()), None) for recipe in recipes]
        options = TimingOptions(engine, plan=plan, threads=threads, batch=1, fit_bytes=FIT)
        result: dict[str, Any] = to_json(time_nets(nets, options, _progress))
    for recipe, net in zip(recipes, result["nets"], strict=True):
        net["name"] = recipe.name
        # Of files that this machine has, the names alone.
        for key, text in net["runtime"].items():
            net["runtime"][key] = ", ".join(PurePath(part).name or part for part in text.split(", "))
    result["machine"].pop("system")
    return {"set": name, **result}


def costs() -> dict[str, dict[str, dict[str, Any]]]:
    """What does not depend on the machine, by set and net."""
    found = {}
    for name in SETS:
        print(name, file=sys.stderr)
        result = measure(name, "caffe", 1, Plan(1, 1, warmup=0))
        found[name] = {net["name"]: {key: net[key] for key in COST_KEYS} for net in result["nets"]}
    return found


def bring_up_to_date(result: dict[str, Any], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A result with the costs of its nets as they are worked out now; its times stay."""
    for net in result["nets"]:
        net.pop("blob_bytes", None)
        net.update(known[net["name"]])
    return result


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
    same = " (no clear difference)" if ratio["verdict"].startswith("no") else ""
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


def _by_stage(net: dict[str, Any]) -> dict[str, Group]:
    return grouped([LayerTime(**layer) for layer in net["layers"]], "stage")


def _stage_ms(net: dict[str, Any], stages: Sequence[str] | None) -> float:
    """Milliseconds of an image in stages, by name or block; None: in all."""
    groups = _by_stage(net)
    return sum(
        group.ms for name, group in groups.items() if stages is None or any(names_stage(one, name) for one in stages)
    )


def table3(result: dict[str, Any]) -> Rows:
    nets = [net for net in result["nets"] if net["name"] != SQUEEZENET]
    tables = [_by_stage(net) for net in nets]
    paper = ("GoogLeNet", "-Tucker", "-Merge", "-Merge-Tucker")
    rows: Rows = [("stage, ms", *(net["name"] for net in nets), *(f"paper, Galaxy S5: {name}" for name in paper))]
    for stage, figures in STAGES.items():
        cells = []
        for table in tables:
            total = sum(group.ms for group in table.values())
            ms = total if stage == "total" else table[stage].ms if stage in table else 0.0
            cells.append(f"{ms:.2f}" if total else "unknown")
        rows.append((stage, *cells, *figures))
    return rows


def table4(result: dict[str, Any]) -> Rows:
    rows: Rows = [("ms per image", "best run", "median", "speed-up", "paper, Galaxy S5", "paper, MacBook Pro's CPU")]
    for number, net in enumerate(result["nets"]):
        speed = _speed(result, number)
        rows.append((net["name"], f"{net['best_ms']:.2f}", f"{net['median_ms']:.2f}", speed, *IMAGES[net["name"]]))
    return rows


def table5(known: dict[str, dict[str, Any]]) -> Rows:
    """Storage and memory; energy is in the files of those machines that have a counter."""
    head = ("costs, MiB", "storage", "with heads", "paper", "memory of an image", "less", "paper", "less")
    rows: Rows = [(*head, "batch in 12 GiB", "paper")]
    first = known[GOOGLENET]["memory_bytes"]
    for name, net in known.items():
        _, storage, memory, batch = COSTS[name]
        rows.append(
            (
                name,
                _mib(net["storage_bytes"]),
                _mib(net["storage_with_heads_bytes"]),
                storage,
                _mib(net["memory_bytes"]),
                f"{first / net['memory_bytes']:.2f}x",
                memory,
                f"{float(COSTS[GOOGLENET][2]) / float(memory):.2f}x",
                str(net["fit_batch"]),
                batch,
            )
        )
    return rows


def steps(result: dict[str, Any]) -> Rows:
    """Tables 6 and 7."""
    stages = STEPPED[result["set"]]
    what = "all" if stages is None else " and ".join(stages)
    head = ("merged", f"{what}: ms", "speed-up", "paper ms", "paper", "memory of an image, MiB")
    rows: Rows = [(*head, "MB less at batch 32", "paper", "whole net: median ms", "speed-up")]
    first = _stage_ms(result["nets"][0], stages)
    logged = None
    for number, net in enumerate(result["nets"]):
        paper = STEPS[result["set"]][net["name"]]
        now = _stage_ms(net, stages)
        # Values and gradients of 32 images, as Caffe counts them: every top.
        less = "" if logged is None else f"{64 * (logged - net['memory_required_for_data']) / 2**20:.0f}"
        logged = net["memory_required_for_data"]
        rows.append(
            (
                net["name"] if number < 2 else f"+ {net['name']}",
                f"{now:.2f}",
                f"{first / now:.2f}x" if number else "",
                *paper[:2],
                _mib(net["memory_bytes"]),
                less,
                paper[2],
                f"{net['median_ms']:.2f}",
                _speed(result, number),
            )
        )
    return rows


TABLES: dict[int, tuple[str, Callable[[dict[str, Any]], Rows]]] = {
    1: ("Table 1: share of the time in non-tensor layers", table1),
    3: ("Table 3: GoogLeNet by stage", table3),
    4: ("Table 4: time of an image", table4),
    6: ("Table 6: AlexNet, step by step", steps),
    7: ("Table 7: ResNet-50, step by step", steps),
}


def show(results: Iterable[dict[str, Any]], wanted: Iterable[int], known: dict[str, Any] | None = None) -> str:
    """Markdown of tables, one for each engine and number of threads that was measured; of Table 5 one.

    Args:
        results: of `measure`.
        wanted: numbers of tables.
        known: what `costs` gave; without it there is no Table 5.
    """
    parts = []
    found = list(results)
    for number in wanted:
        if number == 5:
            if known is not None:
                parts.append(f"### Table 5: costs\n\n{markdown(table5(known['googlenet']))}")
            continue
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
        by_name = {net["name"]: number for number, net in enumerate(result["nets"])}
        numbers = [by_name[name] for name in (GOOGLENET, MERGE, PAPER)]
        plain, merged, paper = (result["nets"][number] for number in numbers)
        times = [f"{net['best_ms']:.2f}" for net in (plain, merged, paper)]
        rows.append(
            (
                plain["engine"],
                str(plain["threads"]),
                *times[:2],
                _speed(result, numbers[1]),
                times[2],
                _speed(result, numbers[2]),
            )
        )
    return rows


def timed_files(folder: Path) -> list[Path]:
    """The results that lie in a folder."""
    return sorted(folder.glob("*-t[0-9]*.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    tables = sorted([*TABLES, 5])
    parser.add_argument("tables", nargs="*", type=int, choices=[*tables, []], help="which; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engine", choices=ENGINES, default="caffe")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--cooldown", type=float, default=0.0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--show", action="store_true", help="measure nothing: print what lies there as Markdown")
    parser.add_argument("--costs", action="store_true", help="work out memory, storage and batches alone (Table 5)")
    given = parser.parse_args()
    wanted = given.tables or tables
    place = given.out.absolute()
    if given.costs:
        found = costs()
        atomic_write(place / COSTS_FILE, json_bytes(found))
        for path in timed_files(place):
            result = json.loads(path.read_text(encoding="utf-8"))
            atomic_write(path, json_bytes(bring_up_to_date(result, found[result["set"]])))
        return
    if given.show:
        lies = place / COSTS_FILE
        known = json.loads(lies.read_text(encoding="utf-8")) if lies.exists() else None
        print(
            show([json.loads(path.read_text(encoding="utf-8")) for path in timed_files(place)], wanted, known), end=""
        )
        return
    given.out.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(NEEDS[number] for number in wanted if number in NEEDS):
        print(f"{name}, {given.engine}, {given.threads} thread(s)", file=sys.stderr)
        plan = Plan(given.runs, given.iterations, cooldown=given.cooldown)
        result = measure(name, given.engine, given.threads, plan)
        atomic_write(place / f"{name}-{given.engine}-t{given.threads}.json", json_bytes(result))
        if result["interrupted"]:
            sys.exit(130)
        print(show([result], [number for number in wanted if NEEDS.get(number) == name]))


if __name__ == "__main__":
    main()
