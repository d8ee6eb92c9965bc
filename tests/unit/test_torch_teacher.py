"""What a teacher adds to the loss and to the gradients, held against autograd, plain Caffe layers and differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from closeness import assert_within, between

torch = pytest.importorskip("torch")

from deeprebirth_caffe.engines.base import EngineError  # noqa: E402
from deeprebirth_caffe.engines.lesson import Head, Lesson  # noqa: E402
from deeprebirth_caffe.engines.torch.net import TorchNet  # noqa: E402
from deeprebirth_caffe.engines.torch.teacher import Teacher, divergence, parts  # noqa: E402
from deeprebirth_caffe.ir import Net, NetState, Weights  # noqa: E402
from deeprebirth_caffe.proto import caffe_pb2 as pb  # noqa: E402

TRAIN, TEST = NetState("TRAIN"), NetState("TEST")

DATA = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 3 dim: 2 dim: 5 dim: 5 } shape { dim: 3 } } }
"""

# "c1" is overwritten in place, then read by two layers; "join" by two heads.
BODY = """
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "gaussian" std: 0.4 } } }
layer { name: "act" type: "TanH" bottom: "c1" top: "c1" }
layer { name: "left" type: "Convolution" bottom: "c1" top: "left"
  convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "gaussian" std: 0.4 } } }
layer { name: "right" type: "Convolution" bottom: "c1" top: "right"
  convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "gaussian" std: 0.4 } } }
layer { name: "rightact" type: "TanH" bottom: "right" top: "right" }
layer { name: "join" type: "Concat" bottom: "left" bottom: "right" top: "join" }
layer { name: "aux" type: "InnerProduct" bottom: "join" top: "aux"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "join" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.4 } } }
"""

LOSSES = """
layer { name: "auxloss" type: "SoftmaxWithLoss" bottom: "aux" bottom: "label" top: "auxloss" loss_weight: 0.3 }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

SOFTMAX = 'name: "x" type: "SoftmaxWithLoss"'
PLAIN = pb.LayerParameter()


def message(more: str = "") -> pb.LayerParameter:
    """A loss layer with some text in it."""
    net = Net.parse(f'layer {{ {SOFTMAX} bottom: "a" bottom: "b" {more} }}')
    return net.layers[0].param


def weighed(seed: int, text: str = DATA + BODY) -> Net:
    """The teacher, with weights of its own."""
    net = Net.parse(text)
    filled = TorchNet(Net.parse(text), TEST, seed=seed)
    net.weights = Weights(
        {name: tuple(t.detach().numpy().copy() for t in blobs) for name, blobs in filled.blobs_of.items()}
    )
    return net


def lesson(alpha: float = 0.4, blobs: tuple[str, ...] = ("c1", "join"), heads: int = 2, match: float = 0.7) -> Lesson:
    """What the small net is taught."""
    all_heads = (Head("auxloss", PLAIN, "aux", "aux", 1, 0.3), Head("loss", PLAIN, "ip", "ip", 1, 1.0))
    return Lesson(weighed(5), {"data": "data"}, all_heads[:heads], blobs, 3.0, alpha, match)


def student(told: Lesson, text: str = DATA + BODY + LOSSES, seed: int = 1) -> TorchNet:
    """A net that learns, with a batch in it."""
    net = TorchNet(Net.parse(text), TRAIN, seed=seed, entries=told.watched)
    random = np.random.default_rng(3)
    batch = {"data": random.normal(size=(3, 2, 5, 5)).astype(np.float32), "label": np.float32([0, 3, 1])}
    net.feed({name: batch[name] for name in net.inputs})
    return net


def taught(told: Lesson, net: TorchNet) -> float:
    """One pass; gives the loss."""
    net.zero_grad()
    _, verdict = Teacher(told, "cpu", "fp32", Path()).learn(net)
    return float(verdict.loss)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 7.5])
@pytest.mark.parametrize(
    ("more", "divisor"),
    [
        ("", 2 * 3 * 4),
        ("loss_param { normalization: FULL }", 2 * 3 * 4),
        ("loss_param { normalization: BATCH_SIZE }", 2),
        ("loss_param { normalization: NONE }", 1),
        ("loss_param { normalize: false }", 2),
    ],
)
def test_the_divergence_and_its_gradient(temperature: float, more: str, divisor: int) -> None:
    """Scores at 3 x 4 positions, 5 classes: as PyTorch's own KL, divided as the head divides its own loss."""
    random = torch.Generator().manual_seed(1)
    mine = torch.randn(2, 5, 3, 4, generator=random, requires_grad=True)
    its = torch.randn(2, 5, 3, 4, generator=random)
    value, diff = divergence(Head("x", message(more), "a", "b", 1, 0.3), mine.detach(), its, temperature)
    wanted = torch.nn.functional.kl_div(
        (mine / temperature).log_softmax(1), (its / temperature).softmax(1), reduction="sum"
    )
    wanted = wanted * (0.3 * temperature**2 / divisor)
    wanted.backward()
    assert mine.grad is not None
    assert_within("loss", wanted.item(), float(value), between(2 * 5 * 3 * 4))
    assert_within("diff", mine.grad.numpy(), diff.numpy(), between(5))


def test_equal_scores_are_no_loss_and_sure_ones_are_numbers() -> None:
    head = Head("x", PLAIN, "a", "b", 1, 1.0)
    scores = torch.tensor([[3.0, -2.0, 0.5]])
    value, diff = divergence(head, scores, scores.clone(), 2.0)
    assert float(value) == 0 and float(diff.abs().max()) == 0
    value, diff = divergence(head, torch.tensor([[0.0, 1e4, -1e4]]), torch.tensor([[1e4, 0.0, -1e4]]), 1.0)
    assert torch.isfinite(value) and torch.isfinite(diff).all() and float(value) == pytest.approx(1e4)


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize(
    ("heads", "blobs"),
    [(2, ()), (0, ("c1",)), (0, ("right",)), (1, ("c1", "right", "join")), (2, ("c1", "left", "join"))],
)
def test_gradients_are_those_of_the_loss(heads: int, blobs: tuple[str, ...], labels: bool) -> None:
    """Along random directions: blobs with layers in place, with several readers, heads that share a blob."""
    told = lesson(0.4 if labels else 1.0, blobs, heads)
    text = (
        DATA + BODY + LOSSES if labels else DATA.replace('top: "label"', "").replace("shape { dim: 3 } }", "}") + BODY
    )
    net = student(told, text)
    taught(told, net)
    random = torch.Generator().manual_seed(9)
    grads = [torch.zeros_like(one.tensor) if one.tensor.grad is None else one.tensor.grad for one in net.learnable]
    for _ in range(3):
        ways = [torch.randn(one.tensor.shape, generator=random) for one in net.learnable]
        steepest = sum(float((grad * way).sum()) for grad, way in zip(grads, ways, strict=True))
        losses = []
        for step in (2e-3, -4e-3):
            with torch.no_grad():
                for one, way in zip(net.learnable, ways, strict=True):
                    one.tensor += step * way
            losses.append(taught(told, net))
        with torch.no_grad():
            for one, way in zip(net.learnable, ways, strict=True):
                one.tensor += 2e-3 * way
        assert (losses[0] - losses[1]) / 4e-3 == pytest.approx(steepest, rel=1e-2, abs=1e-3)


def test_blobs_are_compared_as_an_euclidean_loss_would() -> None:
    """The same gradients as a net with both in it and one EuclideanLoss a blob, whose weight is M / (C H W)."""
    told = lesson(1.0, ("c1", "join"), 0, 0.7)
    net = student(told)
    loss = taught(told, net)
    both = Net.parse(DATA + BODY).message()
    for layer in Net.parse(BODY).layers:
        twin = both.layer.add()
        twin.CopyFrom(layer.param)
        twin.name = f"teacher/{layer.name}"
        twin.bottom[:] = [name if name == "data" else f"teacher/{name}" for name in layer.bottoms]
        twin.top[:] = [f"teacher/{name}" for name in layer.tops]
    for name, size in (("c1", 3 * 3 * 3), ("join", 5 * 3 * 3)):
        both.layer.add(
            name=f"{name}/e", type="EuclideanLoss", bottom=[name, f"teacher/{name}"], loss_weight=[0.7 / size]
        )
    from deeprebirth_caffe.formats.prototxt import format_message

    side = TorchNet(Net.parse(format_message(both)), TRAIN, seed=1)
    arrays = {f"teacher/{name}": told.net.weights[name] for name in told.net.weights} if told.net.weights else {}
    own = {name: tuple(t.detach().numpy() for t in blobs) for name, blobs in net.blobs_of.items()}
    side.load(Weights({**arrays, **own}))
    side.forward({"data": net.batch["data"]})
    assert_within("loss", float(side.loss), loss, between(1000))
    side.backward()
    for name, blobs in net.blobs_of.items():
        for mine, its in zip(blobs, side.blobs_of[name], strict=True):
            if its.grad is None:
                assert mine.grad is None, name
            else:
                assert mine.grad is not None
                assert_within(f"diff of {name}", its.grad.numpy(), mine.grad.numpy(), between(1000))


def test_the_parts_add_up_to_the_loss() -> None:
    told = lesson(0.4)
    net = student(told)
    _, verdict = Teacher(told, "cpu", "fp32", Path()).learn(net)
    found = parts([verdict, verdict])
    assert set(found.heads) == {"auxloss", "loss"} and set(found.blobs) == {"c1", "join"}
    whole = 0.6 * found.own + 0.4 * sum(found.heads.values()) + 0.7 * sum(found.blobs.values())
    assert_within("loss", whole, float(verdict.loss), between(5))
    plain = TorchNet(Net.parse(DATA + BODY + LOSSES), TRAIN, seed=1)
    plain.forward({name: net.batch[name] for name in ("data", "label")})
    assert found.own == float(plain.loss)


def test_a_net_without_losses_learns_below_its_heads_alone() -> None:
    told = lesson(1.0, (), 1)  # "aux" alone
    net = student(told, DATA + BODY)
    taught(told, net)
    moved = {name: [one.grad is not None for one in blobs] for name, blobs in net.blobs_of.items()}
    assert all(all(moved[name]) for name in ("c1", "left", "right", "aux"))
    assert not any(moved["ip"])
    # Without entries, nothing has anything to learn.
    assert not any(t.requires_grad for t in TorchNet(Net.parse(DATA + BODY), TRAIN, seed=1).blobs_of["c1"])


def test_own_losses_that_do_not_count_give_no_gradient() -> None:
    """With alpha 1 labels do not matter, not even where the own loss is no number."""
    told = lesson(1.0, (), 2)
    grads = []
    for labels in ([0, 3, 1], [2, 2, 2]):
        net = student(told)
        net.feed({"label": np.float32(labels)})
        taught(told, net)
        grads.append([t.grad.clone() for t in net.blobs_of["c1"]])
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)
    endless = """layer { name: "big" type: "Power" bottom: "data" top: "big" power_param { scale: 1e30 } }
      layer { name: "far" type: "EuclideanLoss" bottom: "big" bottom: "data" top: "far" }"""
    net = student(told, DATA + BODY + LOSSES + endless)
    assert np.isfinite(taught(told, net)) and float(net.loss) == np.inf


def test_a_layer_that_does_not_learn_hands_gradients_on_but_takes_none() -> None:
    frozen = BODY.replace('name: "left" type: "Convolution"', 'name: "left" param { lr_mult: 0 } type: "Convolution"')
    told = lesson(1.0, ("left",), 0)
    net = student(told, DATA + frozen)
    taught(told, net)
    assert net.blobs_of["left"][0].grad is None and net.blobs_of["left"][1].grad is not None
    assert net.blobs_of["c1"][0].grad is not None


def test_a_blob_that_nothing_learns_below_is_only_looked_at() -> None:
    """An entry below which all stands still: its loss counts, and no gradient enters."""
    frozen = BODY.replace('name: "c1" type', 'name: "c1" param { lr_mult: 0 } param { lr_mult: 0 } type')
    told = lesson(1.0, ("c1", "join"), 0)
    net = student(told, DATA + frozen)
    _, verdict = Teacher(told, "cpu", "fp32", Path()).learn(net)
    assert float(verdict.blobs["c1"]) > 0
    assert net.blobs_of["c1"][0].grad is None and net.blobs_of["left"][0].grad is not None


def test_shapes_that_differ_are_refused() -> None:
    told = lesson(1.0, (), 1)
    net = student(told, DATA + BODY.replace("num_output: 4", "num_output: 6"))
    with pytest.raises(EngineError, match=r'blob "aux" is 3x6 and the teacher\'s "aux" 3x4.*the same classes'):
        taught(told, net)


def test_an_entry_must_be_a_blob() -> None:
    with pytest.raises(EngineError, match="no gradient can enter at blob 'nowhere': the net does not have it"):
        TorchNet(Net.parse(DATA + BODY), TRAIN, entries=["nowhere"])


def test_the_teacher_sees_what_the_student_got_not_what_became_of_it() -> None:
    """The data are overwritten in place in the student."""
    shifted = DATA + 'layer { name: "shift" type: "Power" bottom: "data" top: "data" power_param { shift: 5 } }' + BODY
    told = lesson(1.0, (), 2)
    plain, moved = student(told, DATA + BODY), student(told, shifted)
    for net in (plain, moved):
        taught(told, net)
    assert torch.equal(plain.batch["data"], moved.batch["data"])
    made = """layer { name: "data" type: "DummyData" top: "data"
      dummy_data_param { shape { dim: 3 dim: 2 dim: 5 dim: 5 } data_filler { type: "gaussian" std: 1 } } }"""
    drawn = student(told, made + BODY)
    taught(told, drawn)
    assert drawn.batch["data"].shape == (3, 2, 5, 5) and float(drawn.batch["data"].std()) > 0.5


def test_distillation_alone_makes_a_student_like_its_teacher() -> None:
    told = lesson(1.0, (), 2)
    net = student(told, DATA + BODY)
    losses = []
    for _ in range(60):
        losses.append(taught(told, net))
        with torch.no_grad():
            for one in net.learnable:
                one.tensor -= 0.2 * one.tensor.grad
    assert losses[-1] < 0.05 * losses[0]
