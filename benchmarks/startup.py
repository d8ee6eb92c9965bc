"""How long `rebirth` takes to start and to convert, by the size of the net; whole processes, median of several runs.

The last column is the ratio to `python -c pass` in the same run, which says what does not depend on the machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from deeprebirth_caffe import zoo
from deeprebirth_caffe.cli.layout import print_columns
from deeprebirth_caffe.isolation import python_words

RUNS = 7


def seconds(command: list[str]) -> float:
    """The wall time of one process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Prints a row a command: the limit it should keep, the median, the spread, the ratio to bare Python."""
    rebirth = python_words("deeprebirth_caffe")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = {
            "python -c pass": ([sys.executable, "-c", "pass"], ""),
            "rebirth --help": ([*rebirth, "--help"], "0.3"),
        }
        for net, limit in (
            ("googlenet28", ""),
            ("googlenet", "0.8"),
            ("resnet50", ""),
            ("resnet101", ""),
            ("resnet152", "2.0"),
        ):
            zoo.write(net, folder / net)
            out = folder / f"{net}-out"
            convert = [
                *rebirth,
                "convert",
                str(folder / net / "train_val.prototxt"),
                "-o",
                str(out),
                "--force",
                "--json",
            ]
            commands[f"rebirth convert {net}"] = (convert, limit)
        times: dict[str, list[float]] = {label: [] for label in commands}
        for _ in range(RUNS):
            for label, (command, _) in commands.items():
                times[label].append(seconds(command))
        base = median(times["python -c pass"])
        rows = [("", "median s", "min", "max", "at most s", "x bare Python")]
        for label, found in times.items():
            middle = median(found)
            limit = commands[label][1]
            rows.append(
                (label, f"{middle:.3f}", f"{min(found):.3f}", f"{max(found):.3f}", limit, f"{middle / base:.1f}")
            )
        print_columns(rows)


if __name__ == "__main__":
    main()
