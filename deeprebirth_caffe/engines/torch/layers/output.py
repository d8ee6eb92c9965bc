"""HDF5Output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deeprebirth_caffe.engines.base import EngineError
from deeprebirth_caffe.engines.torch.layers.base import Lowered, Spec, lowers
from deeprebirth_caffe.errors import RebirthError
from deeprebirth_caffe.formats.files import atomic_file
from deeprebirth_caffe.formats.hdf5 import write_hdf5

if TYPE_CHECKING:
    from torch import Tensor


@lowers("HDF5Output")
class HDF5Output(Lowered):
    """Writes its inputs as datasets `data` and `label`, of one batch: Caffe ends with an error at the second."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.path = spec.root / spec.param.hdf5_output_param.file_name
        self.written = False

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Writes the file."""
        where = f'layer "{self.spec.param.name}"'
        if self.written:
            raise EngineError(
                f"{where}: an HDF5Output layer saves one batch, and {self.path} has one: run a single iteration"
            )
        arrays = [bottom.detach().float().cpu().contiguous().numpy() for bottom in bottoms]
        if arrays[0].shape[:1] != arrays[1].shape[:1]:
            raise EngineError(f"{where}: its inputs have {arrays[0].shape[:1]} and {arrays[1].shape[:1]} items")

        def fill(out: Any) -> None:
            for name, array in zip(("data", "label"), arrays, strict=True):
                out.create_dataset(name, data=array.reshape(*array.shape, *[1] * (4 - array.ndim)))

        try:
            with atomic_file(self.path) as file:
                write_hdf5(file, fill, str(self.path))
        except RebirthError as error:
            raise EngineError(f"{where}: {error}") from error
        self.written = True
        return []
