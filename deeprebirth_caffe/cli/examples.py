"""The examples at the end of each help page. A test parses every one of them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "run googlenet.yaml",
        "run googlenet.yaml -o result --until conv2   # stop after that step",
        "run googlenet.yaml -o result                 # go on where it stopped",
    ),
    "status": ("status run",),
    "report": ("report run", "report run -o page"),
    "convert": (
        "convert train_val.prototxt -w net.caffemodel",
        "convert train_val.prototxt -w net.caffemodel --init refit --calibrate own",
        "convert train_val.prototxt -w net.caffemodel --only conv1 -o step1",
        "convert deploy.prototxt -w net.caffemodel --exact --check -o folded",
    ),
    "tucker": (
        "tucker train_val.prototxt -w net.caffemodel --ratio 0.5",
        "tucker deploy.prototxt -w net.caffemodel --skip loss3 --calibrate photos -o thin",
    ),
    "refit": ("refit train_val-rebirth --calibrate own", "refit train_val-rebirth --calibrate photos --samples 1000"),
    "distil": ("distil train_val-rebirth", "distil train_val-rebirth --max-iter 10000 -o lesson"),
    "finetune": (
        "finetune train_val-rebirth/solver.prototxt",
        "finetune solver.prototxt -w net.caffemodel --engine torch --threads 2",
        "finetune solver.prototxt --resume net_iter_1000.solverstate",
        "finetune solver.prototxt --teacher original.prototxt --teacher-weights net.caffemodel",
    ),
    "deploy": (
        "deploy train_val.prototxt -w net_iter_90000.caffemodel -o phone",
        "deploy train_val.prototxt -w net_iter_90000.caffemodel -o phone --batch 1 --check",
    ),
    "test": (
        "test train_val.prototxt -w net.caffemodel",
        "test train_val.prototxt -w net.caffemodel --iterations 100 --per-image hits.csv",
    ),
    "forward": (
        "forward deploy.prototxt -w net.caffemodel cat.jpg --mean-value 104,117,123 --labels words.txt",
        "forward deploy.prototxt -w net.caffemodel cat.jpg --blob pool5 -o pool5.npz",
    ),
    "inspect": ("inspect train_val.prototxt", "inspect deploy.prototxt -w net.caffemodel --json"),
    "diff": ("diff train_val.prototxt train_val-rebirth/train_val.prototxt",),
    "time": (
        "time phone/deploy.prototxt --vs deploy.prototxt",
        "time deploy.prototxt --by stage --threads 1 --runs 10",
        "time deploy.prototxt --on adb --cpus 4-7",
        "time deploy.prototxt --engine onnxruntime --csv times.csv",
    ),
    "export": (
        "export deploy.prototxt -w net.caffemodel -o net.onnx",
        "export deploy.prototxt -w net.caffemodel -o net.onnx --opset 17 --check",
    ),
    "plan": (
        "plan train_val.prototxt -w net.caffemodel -o schedule.yaml",
        "plan train_val.prototxt -w net.caffemodel -o schedule.yaml --target speedup=2",
    ),
    "zoo": ("zoo list", "zoo googlenet -o googlenet"),
    "doctor": ("doctor", "doctor train_val.prototxt"),
    "config list": ("config list",),
    "config show": ("config show googlenet -o googlenet.yaml",),
    "docs": ("docs", "docs refit"),
    "data list": ("data list train.txt -o train_lmdb --root pictures --resize 256x256 --shuffle",),
    "data folder": ("data folder pictures -o train_lmdb --resize 64x64",),
    "data digits": ("data digits -o digits",),
    "device list": ("device list",),
    "device info": ("device info adb", "device info ssh:pi@board"),
    "device install": ("device install adb", "device install ssh:pi@board --binary out/caffe --libs out/lib"),
    "device remove": ("device remove adb",),
    "caffe install": ("caffe install", "caffe install --arch arm64"),
    "caffe info": ("caffe info",),
    "caffe remove": ("caffe remove",),
}
"""Command lines without `rebirth`, by command."""
