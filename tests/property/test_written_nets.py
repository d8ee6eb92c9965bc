"""What deploy and convert write can be read again, by inspect, export and real Caffe, and has the same results."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from exact_tools import Shared
from nets import conv, fc, layer, parse, pool, relu

from deeprebirth_caffe.commands.convert import convert
from deeprebirth_caffe.commands.deploy import deploy
from deeprebirth_caffe.commands.inspect import inspect
from deeprebirth_caffe.engines.prepare import plain
from deeprebirth_caffe.ir.probe import save_weights
from deeprebirth_caffe.nets.check import compare_nets
from deeprebirth_caffe.nets.load import load_net
from deeprebirth_caffe.nets.strip import DEPLOY, DEPLOY_WEIGHTS
from deeprebirth_caffe.options.convert import ConvertOptions
from deeprebirth_caffe.options.deploy import DeployOptions
from deeprebirth_caffe.passes.heads import find_heads, find_results

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.caffe.client import CaffeWorker
    from deeprebirth_caffe.engines.caffe.locate import CaffeInstall

NETS = 16


def make(seed: int) -> str:
    """A net of one to three ends, each a loss of one blob or two, a Silence or an output; some parts have no reader."""
    rng = Random(seed)
    shapes = "shape { dim: 2 dim: 3 dim: 12 dim: 12 } shape { dim: 2 dim: 3 dim: 12 dim: 12 } shape { dim: 2 }"
    fed = rng.random() < 0.4
    kind, field = ("Input", "input_param") if fed else ("DummyData", "dummy_data_param")
    filler = "" if fed else ' data_filler { type: "gaussian" std: 1 }' * 2 + ' data_filler { type: "constant" }'
    text = layer(kind, "source", (), ("data", "other", "label"), f"{field} {{ {shapes}{filler} }}")
    blobs = ["data", "other"]
    for number in range(rng.randint(2, 6)):
        name, bottom = f"x{number}", rng.choice(blobs)
        what = rng.choice(["conv", "conv", "conv", "slice", "pool", "drop", "sum"])
        if what == "conv":
            text += conv(name, bottom, 4, 3, "pad: 1") + (relu(f"{name}r", name) if rng.random() < 0.5 else "")
        elif what == "pool":
            text += conv(f"{name}c", bottom, 4, 1) + pool(name, f"{name}c", 3, 1, "pad: 1 pool: AVE")
        elif what == "drop":
            text += layer("Dropout", name, bottom)
        elif what == "sum":
            text += conv(f"{name}a", bottom, 4, 1) + conv(f"{name}b", bottom, 4, 3, "pad: 1")
            text += layer("Eltwise", name, (f"{name}a", f"{name}b"))
        else:
            text += conv(f"{name}c", bottom, 4, 1)
            text += layer("Slice", f"{name}s", f"{name}c", (name, f"{name}z"), "slice_param { slice_point: 2 }")
            if rng.random() < 0.6:
                text += layer("Silence", f"{name}q", f"{name}z", ())
        blobs.append(name)
    for number in range(rng.randint(1, 3)):
        a, b = f"end{number}a", f"end{number}b"
        text += fc(a, rng.choice(blobs)) + fc(b, rng.choice(blobs))
        loss, weight = f"loss{number}", f"loss_weight: {rng.choice([1, 1, 0.3])}"
        text += {
            "softmax": layer("SoftmaxWithLoss", loss, (a, "label"), loss, weight),
            "pair": layer("EuclideanLoss", loss, (a, b), loss, weight),
            "siamese": layer("ContrastiveLoss", loss, (a, b, "label"), loss, weight),
            "silence": layer("Silence", loss, (a, b), ()),
            "open": layer("Softmax", loss, a),
            "accuracy": layer("Accuracy", loss, (a, "label"), loss, "include { phase: TEST }"),
        }[rng.choice(["softmax", "pair", "siamese", "silence", "open", "accuracy"])]
    if rng.random() < 0.3:
        unread = [value.name for value in parse(text).view("TEST").outputs]
        text += layer("Silence", "all", unread, (), "include { phase: TEST }") if unread else ""
    return text


def test_what_is_written_can_be_read(caffe: CaffeWorker, caffe_install: CaffeInstall, tmp_path: Path) -> None:
    engine = Shared(caffe_install, caffe)
    heads = silenced = 0
    for seed in range(NETS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        path, weights = folder / "net.prototxt", folder / "net.caffemodel"
        net = parse(make(seed), weights=True)
        path.write_text(net.text())
        assert net.weights is not None
        save_weights(weights, net, net.weights)
        found = find_heads(net)
        wanted = [value.name for value in find_results(net, found)]
        heads += len(found) > 1
        silenced += any(value.name in wanted for value in net.view("TEST").silenced)

        deploy(DeployOptions(path, weights, folder / "deploy"), engine)
        convert(ConvertOptions(path, weights, out=folder / "merged"), engine)
        convert(ConvertOptions(path, weights, out=folder / "exact", exact=True), engine)
        for made, learned in [
            (folder / "deploy" / DEPLOY, folder / "deploy" / DEPLOY_WEIGHTS),
            (folder / "exact" / DEPLOY, folder / "exact/init.caffemodel"),
            (folder / "merged" / DEPLOY, folder / "merged/init.caffemodel"),
            (folder / "exact/net.prototxt", folder / "exact/init.caffemodel"),
            (folder / "merged/net.prototxt", folder / "merged/init.caffemodel"),
        ]:
            assert not inspect(made, learned).uncounted, make(seed)
            again = load_net(made, learned)
            loaded = caffe.load(made, "TEST", weights=learned)
            if made.name == DEPLOY:
                view = again.view("TEST")
                assert set(wanted) <= set(loaded.blobs), make(seed)
                # Nothing is an output that is no result, or made of one.
                assert set(loaded.outputs) == {value.name for value in view.outputs}
                assert {value.name for value in view.results} == {
                    value.name for value in find_results(again, find_heads(again))
                }
                assert set(plain(again).outputs) == {value.name for value in view.results}, make(seed)
            caffe.close(loaded)
        result = compare_nets(net, load_net(folder / "deploy" / DEPLOY, folder / "deploy" / DEPLOY_WEIGHTS), engine)
        assert result.failure == "" or "is constant" in result.failure, (result.failure, make(seed))
    assert heads > 1 and silenced > 0
