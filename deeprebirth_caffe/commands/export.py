"""`rebirth export`: a net and its weights as an ONNX file, compared with real Caffe where asked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.engines.agree import Agreement, agree, first_failure
from deeprebirth_caffe.engines.libraries import need
from deeprebirth_caffe.engines.prepare import Ready, plain, random_inputs
from deeprebirth_caffe.errors import RebirthError, RefusedError, UsageError
from deeprebirth_caffe.formats.outputs import check_output, write_output
from deeprebirth_caffe.nets.check import checking
from deeprebirth_caffe.nets.load import layers_without_weights, load_net, upgrade_notes
from deeprebirth_caffe.nets.strip import strip
from deeprebirth_caffe.ops import Shape
from deeprebirth_caffe.options.export import ExportOptions
from deeprebirth_caffe.results import Signed

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Engine
    from deeprebirth_caffe.to_onnx import Exported

EXTRA = "onnx"
BATCHES = (1, 3)
"""At which batches a model that takes any is compared."""


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """An input of an ONNX model.

    Attributes:
        name: in the model, and of the blob.
        shape: at the net's own batch.
    """

    name: str
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """An output of an ONNX model.

    Attributes:
        blob: in Caffe.
        name: in the model: the same, unless an input has that name.
        shape: at the net's own batch.
    """

    blob: str
    name: str
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """An output, compared in ONNX Runtime and real Caffe.

    Attributes:
        blob: which.
        batch: at which batch; null where the net has no input.
        worst: max abs(a-b) / max abs(a).
    """

    blob: str
    batch: int | None
    worst: float


@dataclass(frozen=True, kw_only=True)
class Model(Signed):
    """What `rebirth export` wrote.

    Attributes:
        net: path.
        weights: path.
        output: path of the ONNX file.
        opset: the version of ONNX's operators.
        ir_version: the version of the ONNX file format.
        batch: the batch that the model is bound to; null where it takes any.
        inputs: what is fed.
        outputs: blobs that no layer reads.
        nodes: of the graph.
        bytes: size of the file.
        check: with `--check`: each output compared in ONNX Runtime and real Caffe.
        notes: for people: why the batch is bound, what an old form left open.
    """

    net: Path
    weights: Path
    output: Path
    opset: int
    ir_version: int
    batch: int | None
    inputs: Sequence[ModelInput]
    outputs: Sequence[ModelOutput]
    nodes: int
    bytes: int
    check: Sequence[Agreed] | None
    notes: Sequence[str]


def export(options: ExportOptions, engine: Engine | None = None) -> Model:
    """Writes an ONNX file.

    Args:
        options: what to do.
        engine: real Caffe, to compare the model in ONNX Runtime with; None: that of `options`, where they want a check.

    Raises:
        RefusedError: a layer has no ONNX form, or the comparison does not hold; nothing is written.
    """
    engine = checking(options.check, options.caffe, engine)
    check_output(options.out, options.force, (options.net, options.weights))
    onnx = need("onnx", EXTRA)
    if engine is not None:
        need("onnxruntime", EXTRA)
    opset = _opset(options.opset, onnx.defs.onnx_opset_version())
    ready, notes = _read(options)
    made = _translate(onnx, ready, opset, dynamic=options.batch is None)
    checks = compare(made, ready, engine) if engine is not None else None
    data = made.model.SerializeToString()
    write_output(options.out, data)
    shapes = ready.outputs
    return Model(
        net=options.net,
        weights=options.weights,
        output=options.out,
        opset=made.opset,
        ir_version=made.model.ir_version,
        batch=made.batch,
        inputs=[ModelInput(name=name, shape=shape) for name, shape in made.inputs.items()],
        outputs=[ModelOutput(blob=blob, name=name, shape=shapes[blob]) for blob, name in made.outputs.items()],
        nodes=len(made.model.graph.node),
        bytes=len(data),
        check=checks,
        notes=[*notes, *made.notes],
    )


def _opset(wanted: int | None, newest: int) -> int:
    from deeprebirth_caffe.to_onnx import OPSET

    if wanted is None:
        return OPSET
    if not OPSET <= wanted <= newest:
        raise UsageError(f"--opset {wanted}: the onnx installed here takes {OPSET} (the default) to {newest}")
    return wanted


def _read(options: ExportOptions) -> tuple[Ready, list[str]]:
    """The net as plain Caffe would deploy it, and what people should know."""
    net = load_net(options.net, options.weights, options.input_shapes)
    notes = upgrade_notes(net)
    if net.trains:
        net = strip(net, batch=options.batch).net
        notes.append("it trains: exported is what `rebirth deploy` makes of it")
    if missing := layers_without_weights(net):
        raise RebirthError(
            f"{options.weights}: holds nothing for {', '.join(missing)}, which would run at random; "
            "are these the weights of this net?"
        )
    return plain(net, batch=options.batch), notes


def _translate(onnx: Any, ready: Ready, opset: int, dynamic: bool) -> Exported:
    from deeprebirth_caffe.to_onnx import to_onnx

    made = to_onnx(ready.net, opset=opset, dynamic=dynamic)
    try:
        onnx.checker.check_model(made.model, full_check=True)
    except Exception as error:  # the checker's and the shape inference's errors have no common parent
        raise RebirthError(
            f"the model is not sound, which is a mistake of ours: {' '.join(str(error).split())}"
        ) from error
    return made


def compare(made: Exported, ready: Ready, engine: Engine, *, seed: int = 0) -> list[Agreed]:
    """Runs a model in ONNX Runtime and its net in real Caffe on the same random input, at each batch it should take.

    Raises:
        RefusedError: an output differs, or none of them says anything.
    """
    from deeprebirth_caffe.to_onnx import at_batch, batch_of

    found: list[tuple[int | None, Agreement]] = []
    with engine.session(), tempfile.TemporaryDirectory(prefix="rebirth-export-") as folder:
        for batch in [batch_of(ready.net)] if made.batch is not None else BATCHES:
            one = ready if batch is None or made.batch is not None else Ready(at_batch(ready.net, batch))
            inputs = random_inputs(one, seed)
            path, weights = one.write(Path(folder))
            wanted = engine.forward(path, weights, inputs, list(made.outputs))
            found += [(batch, each) for each in agree(wanted, _run_onnx(made, inputs))]
    failure = first_failure([each for _, each in found])
    if not failure and not any(each.varies for _, each in found):
        failure = "every output is constant, so that it proves nothing"
    if failure:
        raise RefusedError(f"check failed: ONNX Runtime against real Caffe: {failure}; nothing was written")
    return [Agreed(blob=each.blob, batch=batch, worst=each.worst) for batch, each in found]


def _run_onnx(made: Exported, inputs: Mapping[str, Any]) -> dict[str, Any]:
    runtime = need("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(made.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run(list(made.outputs.values()), dict(inputs))
    except Exception as error:  # its own classes derive from RuntimeError and from Exception, by version
        raise RefusedError(
            f"check failed: ONNX Runtime cannot run the model: {' '.join(str(error).split())}"
        ) from error
    return dict(zip(made.outputs, values, strict=True))
