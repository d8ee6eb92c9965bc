"""Engines run nets. Nothing outside this room knows which one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeprebirth_caffe.engines.base import EngineError

if TYPE_CHECKING:
    from deeprebirth_caffe.engines.base import Engine

__all__ = ["ENGINES", "EngineError", "engine"]

ENGINES = ("caffe", "torch")


def engine(name: str, **options: object) -> Engine:
    """Gives the engine of that name; nothing is started yet.

    Args:
        name: One of ENGINES.
        **options: The engine's own; for "caffe", those of CaffeEngine (`caffe`, `threads`, `timeout`); for "torch",
            those of TorchEngine (`device`, `precision`, `threads`).

    Raises:
        EngineError: No such engine, or what it needs is not installed.
    """
    if name == "caffe":
        from deeprebirth_caffe.engines.caffe.engine import CaffeEngine

        return CaffeEngine(**options)  # type: ignore[arg-type]
    if name == "torch":
        from deeprebirth_caffe.engines.torch.engine import TorchEngine

        return TorchEngine(**options)  # type: ignore[arg-type]
    raise EngineError(f"no engine named {name!r}: there is {', '.join(ENGINES)}")
