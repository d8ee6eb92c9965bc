"""AlexNet and ResNet-50 stage by stage, as in the paper's Tables 6 and 7, in real Caffe.

Each row adds a stage to the one before: what was merged, time of a forward pass (batch 1, filled random input, one
thread, the nets taking turns), the memory of blobs as pycaffe lists them at batch 1, and what Caffe logs as "Memory
required for data" at batch 32, which is what the paper's Table 7 counts. The paper's times are a Galaxy S5's: they can
be compared as ratios only.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from deeprebirth_caffe import zoo
from deeprebirth_caffe.cli.show import print_columns
from deeprebirth_caffe.engines import engine
from deeprebirth_caffe.ir import Net, summarize
from deeprebirth_caffe.workflows.convert import ConvertOptions, convert
from deeprebirth_caffe.workflows.probe import save_weights
from deeprebirth_caffe.workflows.random_weights import random_weights

# Table 6: ms; Table 7: ms and MB at batch 32.
TABLES: dict[str, list[tuple[str, tuple[str, ...], str]]] = {
    "alexnet": [
        ("none", (), "445 ms"),
        ("conv1", ("conv1",), "343 ms"),
        ("+ conv2", ("conv1", "conv2"), "274 ms"),
    ],
    "resnet50": [
        ("none", (), "189 ms, 2505 MB at batch 32"),
        ("conv1", ("conv1",), "162 ms, 2113 MB"),
        ("+ res2a_branch1", ("conv1", "res2a_branch1"), "140 ms, 1721 MB"),
        ("+ res2a_branch2a-2c", ("conv1", "res2a"), "104 ms, 1133 MB"),
    ],
}
RUNS, ITERATIONS = 9, 6


def table(name: str, folder: Path) -> None:
    """Prints one net's rows."""
    zoo.write(name, folder / name)
    source = folder / name / "deploy.prototxt"
    weights = folder / "random.caffemodel"
    net = Net.read(source)
    save_weights(weights, net, random_weights(net))
    nets, models, merged = [source], [weights], ["nothing"]
    for row, (_, stages, _) in enumerate(TABLES[name][1:]):
        out = folder / f"{name}-{row}"
        done = convert(ConvertOptions(source, weights, out=out, only=stages, paper=True, init="inherit"))
        nets.append(out / "deploy.prototxt")
        models.append(out / "init.caffemodel")
        merged.append(", ".join(layer for one in done.manifest["rewrites"] for layer in one["removed"]))
        for refusal in done.manifest["refusals"]:
            print(f"refused: {refusal['layer']}: {refusal['reason']}")
    timings = engine("caffe").time_nets(nets, runs=RUNS, iterations=ITERATIONS, threads=1, weights=models)
    rows = [("", "median ms", "best ms", "speed-up", "blobs MiB", "MiB for data at 32", "paper", "taken out or merged")]
    for (label, _, paper), path, timing, layers in zip(TABLES[name], nets, timings, merged, strict=True):
        cost = summarize(Net.read(path).view())
        shape = Net.read(path).view().values[0].shape
        images = (shape[0] if shape else 1) * 2**20
        rows.append(
            (
                label,
                f"{timing.median_ms:.1f}",
                f"{timing.best_ms:.1f}",
                f"{timings[0].median_ms / timing.median_ms:.2f}x",
                f"{(cost.blob_bytes or 0) / images:.1f}",
                f"{32 * (cost.memory_required_for_data or 0) / images:.0f}",
                paper,
                layers,
            )
        )
    print(f"\n{name}:")
    print_columns(rows)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for wanted in sys.argv[1:] or TABLES:
            table(wanted, Path(temporary))
