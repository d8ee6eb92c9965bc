"""How time and memory grow: a chain of 20,000 layers against one of 2,000, and a caffemodel of 500 MB.

    python benchmarks/scale.py [--layers 2000] [--megabytes 500]

Every stage is measured for both chains in turn in the same process, best of three, so the ratios do not depend on the
machine; linear work has a ratio of 10. Memory is the peak of a process of its own, above what it had after importing.
"""

from __future__ import annotations

import argparse
import gc
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deeprebirth_caffe.cli.layout import print_columns
from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.engines.random_weights import random_weights
from deeprebirth_caffe.formats.caffemodel import write_caffemodel
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.options.convert import ConvertOptions

LIMIT = 12.0
MEMORY_LIMIT = 2.0
RUNS = 3
CHANNELS = 16


def _layer(name: str, kind: str, bottom: str, top: str, rest: str = "") -> str:
    return f'layer {{\n  name: "{name}"\n  type: "{kind}"\n  bottom: "{bottom}"\n  top: "{top}"\n{rest}}}\n'


def _conv(name: str, bottom: str, size: int, outputs: int = CHANNELS) -> str:
    body = f"num_output: {outputs} kernel_size: {size} pad: {size // 2}"
    return _layer(name, "Convolution", bottom, name, f"  convolution_param {{ {body} }}\n")


def _pool(name: str, bottom: str, size: int, stride: int) -> str:
    pad = 1 if stride == 1 else 0
    body = f"pool: MAX kernel_size: {size} stride: {stride} pad: {pad}"
    return _layer(name, "Pooling", bottom, name, f"  pooling_param {{ {body} }}\n")


def _block(index: int, bottom: str) -> tuple[list[str], str]:
    """Twenty layers: conv, BatchNorm, Scale, ReLU, LRN, conv, pool, deconvolution, conv, ReLU, an inception module."""
    p = f"b{index}"
    up = f"num_output: {CHANNELS} kernel_size: 2 stride: 2"
    layers = [
        _conv(f"{p}_conv1", bottom, 3),
        _layer(f"{p}_bn1", "BatchNorm", f"{p}_conv1", f"{p}_conv1"),
        _layer(f"{p}_scale1", "Scale", f"{p}_conv1", f"{p}_conv1", "  scale_param { bias_term: true }\n"),
        _layer(f"{p}_relu1", "ReLU", f"{p}_conv1", f"{p}_conv1"),
        _layer(f"{p}_norm1", "LRN", f"{p}_conv1", f"{p}_norm1", "  lrn_param { local_size: 5 }\n"),
        _conv(f"{p}_conv2", f"{p}_norm1", 3),
        _pool(f"{p}_pool2", f"{p}_conv2", 2, 2),
        _layer(f"{p}_up", "Deconvolution", f"{p}_pool2", f"{p}_up", f"  convolution_param {{ {up} }}\n"),
        _conv(f"{p}_conv3", f"{p}_up", 3),
        _layer(f"{p}_relu3", "ReLU", f"{p}_conv3", f"{p}_conv3"),
    ]
    module, bottom = f"m{index}", f"{p}_conv3"
    layers += [
        _conv(f"{module}/1x1", bottom, 1, 4),
        _layer(f"{module}/relu_1x1", "ReLU", f"{module}/1x1", f"{module}/1x1"),
        _conv(f"{module}/3x3_reduce", bottom, 1, 4),
        _layer(f"{module}/relu_3x3_reduce", "ReLU", f"{module}/3x3_reduce", f"{module}/3x3_reduce"),
        _conv(f"{module}/3x3", f"{module}/3x3_reduce", 3, 8),
        _layer(f"{module}/relu_3x3", "ReLU", f"{module}/3x3", f"{module}/3x3"),
        _pool(f"{module}/pool", bottom, 3, 1),
        _conv(f"{module}/pool_proj", f"{module}/pool", 1, 4),
        _layer(f"{module}/relu_pool", "ReLU", f"{module}/pool_proj", f"{module}/pool_proj"),
    ]
    branches = "".join(f'  bottom: "{module}/{name}"\n' for name in ("3x3", "pool_proj"))
    layers.append(_layer(f"{module}/output", "Concat", f"{module}/1x1", f"{module}/output", branches))
    return layers, f"{module}/output"


def chain(layers: int) -> str:
    """A net that learns, of about that many layers."""
    text = ['name: "chain"\n']
    shapes = f"shape {{ dim: 1 dim: {CHANNELS} dim: 16 dim: 16 }} shape {{ dim: 1 }}"
    text.append(
        f'layer {{\n  name: "data"\n  type: "Input"\n  top: "data"\n  top: "label"\n  input_param {{ {shapes} }}\n}}\n'
    )
    bottom = "data"
    for index in range(layers // 20):
        more, bottom = _block(index, bottom)
        text += more
    text.append(_layer("fc", "InnerProduct", bottom, "fc", "  inner_product_param { num_output: 5 }\n"))
    text.append(_layer("loss", "SoftmaxWithLoss", "fc", "loss", '  bottom: "label"\n'))
    return "".join(text)


def stages(path: Path) -> Iterator[tuple[str, float]]:
    """The processor seconds of each stage for one net: what else the machine does counts for little."""
    clock = time.process_time
    begin = clock()
    net = Net.read(path)
    yield "read", clock() - begin
    begin = clock()
    _ = net.views
    yield "views", clock() - begin
    begin = clock()
    made = convert(ConvertOptions(path, dry_run=True))
    yield "convert", clock() - begin
    begin = clock()
    convert(ConvertOptions(path, path.with_suffix(".caffemodel"), dry_run=True))
    yield "convert -w", clock() - begin
    begin = clock()
    made.net.text()
    yield "write", clock() - begin


def time_chains(layers: int, folder: Path) -> bool:
    """Prints a row a stage; whether all ratios keep the limit."""
    paths = [folder / f"chain{count}.prototxt" for count in (layers, 10 * layers)]
    times: list[list[dict[str, float]]] = [[], []]
    for count, path in zip((layers, 10 * layers), paths, strict=True):
        path.write_text(chain(count))
        net = Net.read(path)
        save_weights(path.with_suffix(".caffemodel"), net, random_weights(net))
    dict(stages(paths[0]))  # what is imported on the way is no part of it
    for _ in range(RUNS):
        for path, taken in zip(paths, times, strict=True):
            gc.collect()
            taken.append(dict(stages(path)))
    small, large = ({name: min(one[name] for one in taken) for name in taken[0]} for taken in times)
    small["all"], large["all"] = sum(small.values()), sum(large.values())
    rows = [
        [name, f"{small[name]:.2f}", f"{large[name]:.2f}", f"{large[name] / small[name]:.1f}", f"{LIMIT:.0f}"]
        for name in small
    ]
    print_columns([["stage", f"{layers} layers, s", f"{10 * layers} layers, s", "ratio", "limit"], *rows])
    return large["all"] <= LIMIT * small["all"]


def write_large(folder: Path, megabytes: int) -> None:
    """A net of some layers (BatchNorm among them, so that folding makes new arrays), and weights of that size."""
    width, count = 1024, max(2, megabytes * 1_000_000 // (4 * 9 * 1024 * 1024))
    shape = f"shape {{ dim: 1 dim: {width} dim: 8 dim: 8 }}"
    text = [f'layer {{ name: "data" type: "Input" top: "data" input_param {{ {shape} }} }}\n']
    bottom = "data"
    for index in range(count):
        name = f"conv{index}"
        text.append(_conv(name, bottom, 3, width))
        if index % 2:
            text.append(_layer(f"bn{index}", "BatchNorm", name, name))
        bottom = name
    (folder / "large.prototxt").write_text("".join(text))

    def weights() -> Iterator[tuple[str, str, list[NDArray[np.float32]]]]:
        random = np.random.default_rng(0)
        for index in range(count):
            kernel = random.standard_normal((width, width, 3, 3), dtype=np.float32)
            yield f"conv{index}", "Convolution", [kernel, np.zeros(width, np.float32)]
            if index % 2:
                one = np.ones(width, np.float32)
                yield f"bn{index}", "BatchNorm", [one, one, np.ones(1, np.float32)]

    write_caffemodel(folder / "large.caffemodel", "large", weights())


def convert_large(folder: Path) -> None:
    """Converts the large net and prints the peak memory in bytes; runs in a process of its own."""
    convert(ConvertOptions(folder / "large.prototxt", folder / "large.caffemodel", out=folder / "out"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measure_memory(megabytes: int, folder: Path) -> bool:
    """Prints the peak memory of a conversion against the size of its weights; whether it keeps the limit."""
    # The file is made in a process of its own too.
    command = [sys.executable, __file__, "--in", str(folder), "--megabytes", str(megabytes)]
    subprocess.run([*command, "--make"], check=True)
    size = (folder / "large.caffemodel").stat().st_size
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - begin
    peak = int(done.stdout.split()[-1])
    row = [f"{size / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{peak / size:.2f}", f"{MEMORY_LIMIT:.0f}", f"{seconds:.1f}"]
    print_columns([["weights, MB", "peak memory, MB", "ratio", "limit", "s"], row], left=0)
    return peak <= MEMORY_LIMIT * size


def main() -> int:
    """The command line; 1 if a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        if options.make:
            write_large(options.folder, options.megabytes)
        else:
            convert_large(options.folder)
        return 0
    with tempfile.TemporaryDirectory() as name:
        # Memory first, while this process is small: a child starts with its parent's peak on its account.
        fine = measure_memory(options.megabytes, Path(name))
        fine = time_chains(options.layers, Path(name)) and fine
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
