"""Layer types that make no sense in the embedded engine, and why."""

from __future__ import annotations

from typing import NoReturn

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.torch.layers.base import Spec, lowers

REFUSED = {"Python": "its code is written for pycaffe's blobs and runs inside Caffe alone"}
"""By type, why it is refused."""


@lowers(*REFUSED)
def refuse(spec: Spec) -> NoReturn:
    """Says why.

    Raises:
        EngineError: always.
    """
    kind = spec.param.type
    raise EngineError(
        f'layer "{spec.param.name}": the embedded engine does not run type {kind}: {REFUSED[kind]}; use --engine caffe'
    )
