"""DeepRebirth for Caffe: merge a trained net's non-tensor layers and parallel branches into its convolutions.

`import deeprebirth_caffe as rebirth` gives programs what `deeprebirth_caffe.api` has.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A name of the public API, which is imported when it is used: the command line starts without it."""
    if name == "__all__" or not name.startswith("_"):
        api = import_module("deeprebirth_caffe.api")
        if name == "__all__" or name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *import_module("deeprebirth_caffe.api").__all__]
