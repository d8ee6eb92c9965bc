"""Turns a net's description into three files: train_val, deploy and solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import Message

from deeprebirth_caffe.formats.prototxt import format_message
from deeprebirth_caffe.proto import caffe_pb2 as pb
from deeprebirth_caffe.zoo.builder import Defaults, NetBuilder

#: Subtracted from blue, green and red: ImageNet's average pixel.
IMAGENET_MEAN = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class ZooNet:
    """A net of the zoo as prototxt texts.

    Attributes:
        name: the zoo's name for it.
        description: one line.
        source_paper: where the architecture comes from.
        input_shape: C, H, W of one picture.
        classes: their number.
        train_val: net with data layers (TRAIN and TEST), heads, losses and accuracies.
        deploy: net with an Input layer and a Softmax, without auxiliary heads.
        solver: its paths are relative to the directory of the three files.
    """

    name: str
    description: str
    source_paper: str
    input_shape: tuple[int, int, int]
    classes: int
    train_val: str
    deploy: str
    solver: str

    def files(self) -> dict[str, str]:
        """The texts by file name, as the solver expects to find them."""
        return {
            "train_val.prototxt": self.train_val,
            "deploy.prototxt": self.deploy,
            "solver.prototxt": self.solver,
        }


@dataclass(frozen=True)
class Data:
    """A net's data: square crops of `size` pixels out of LMDBs, with paths from the directory Caffe starts in.

    `scale` multiplies a pixel after the mean is subtracted; None: no scaling.
    """

    size: int
    train_batch: int
    test_batch: int
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    scale: float | None = None
    mirror: bool = True
    train_source: str = "data/train_lmdb"
    test_source: str = "data/val_lmdb"

    def add_layers(self, net: NetBuilder) -> str:
        """Add the TRAIN and the TEST data layer; both write ``data`` and ``label``."""
        for phase, source, batch in (
            (pb.TRAIN, self.train_source, self.train_batch),
            (pb.TEST, self.test_source, self.test_batch),
        ):
            layer = net.layer("data", "Data", ())
            layer.top.append("label")
            layer.include.add(phase=phase)
            transform = layer.transform_param
            if self.scale is not None:
                transform.scale = self.scale
            if self.mirror:
                transform.mirror = phase == pb.TRAIN
            transform.crop_size = self.size
            transform.mean_value.extend(self.mean)
            layer.data_param.source = source
            layer.data_param.batch_size = batch
            layer.data_param.backend = pb.DataParameter.LMDB
        return "data"


@dataclass(frozen=True)
class Solver:
    """Settings of SGD with momentum; times are in iterations.

    `schedule` is "step" (with `stepsize`, `gamma`), "multistep" (`stepvalues`, `gamma`) or "poly" (`power`).
    An iteration has `iter_size` batches, which gives a published batch size on a small machine.
    """

    base_lr: float
    schedule: str
    max_iter: int
    weight_decay: float
    test_iter: int
    test_interval: int
    stepsize: int | None = None
    stepvalues: tuple[int, ...] = ()
    gamma: float | None = None
    power: float | None = None
    momentum: float = 0.9
    iter_size: int = 1
    display: int = 40
    snapshot: int = 10000

    def message(self, prefix: str) -> pb.SolverParameter:
        """The solver as Caffe reads it, for ``train_val.prototxt`` in the working directory."""
        solver = pb.SolverParameter(
            net="train_val.prototxt",
            test_iter=[self.test_iter],
            test_interval=self.test_interval,
            test_initialization=False,
            base_lr=self.base_lr,
            display=self.display,
            average_loss=self.display,
            max_iter=self.max_iter,
            lr_policy=self.schedule,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            stepvalue=self.stepvalues,
            snapshot=self.snapshot,
            snapshot_prefix=prefix,
            # Works in every build of Caffe; `caffe train -gpu 0` overrides it.
            solver_mode=pb.SolverParameter.CPU,
        )
        if self.iter_size != 1:
            solver.iter_size = self.iter_size
        if self.gamma is not None:
            solver.gamma = self.gamma
        if self.power is not None:
            solver.power = self.power
        if self.stepsize is not None:
            solver.stepsize = self.stepsize
        return solver


@dataclass(frozen=True)
class NetDesign:
    """The description of a net of the zoo.

    Attributes:
        name: in the zoo.
        title: the `name` in the prototxt.
        description: one line.
        source_paper: the source of the architecture.
        body: adds every layer behind the data to the builder, given the blob of pictures and the class count.
        data: the data layers.
        solver: the training.
        classes: their number.
        defaults: fillers and multipliers.
    """

    name: str
    title: str
    description: str
    source_paper: str
    body: Callable[[NetBuilder, str, int], None]
    data: Data
    solver: Solver
    classes: int = 1000
    defaults: Defaults = field(default_factory=Defaults)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """C, H, W of a picture."""
        return self.data.channels, self.data.size, self.data.size

    def message(self, *, training: bool) -> pb.NetParameter:
        """The net as a message, in its train_val or its deploy form (batch 1)."""
        net = NetBuilder(self.title, training=training, defaults=self.defaults)
        pictures = self.data.add_layers(net) if training else net.input((1, *self.input_shape))
        self.body(net, pictures, self.classes)
        return net.message

    def build(self) -> ZooNet:
        """The net's three texts."""
        return ZooNet(
            name=self.name,
            description=self.description,
            source_paper=self.source_paper,
            input_shape=self.input_shape,
            classes=self.classes,
            train_val=self._text(self.message(training=True)),
            deploy=self._text(self.message(training=False)),
            solver=self._text(self.solver.message(self.name)),
        )

    def _text(self, message: Message) -> str:
        return f"# {self.description}\n# {self.source_paper}\n{format_message(message)}"
