"""Writing convolution parameters back, in the spelling that the file already uses."""

from __future__ import annotations

from collections.abc import Sequence

from deeprebirth_caffe.proto import caffe_pb2 as pb


def set_geometry(
    param: pb.ConvolutionParameter,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    dilation: Sequence[int] | None = None,
) -> None:
    """Sets the window of a 2-d convolution; fields that already say so are left as they are."""
    _set(param, "kernel_size", "kernel_h", "kernel_w", kernel, default=None)
    _set(param, "stride", "stride_h", "stride_w", stride, default=1)
    _set(param, "pad", "pad_h", "pad_w", pad, default=0)
    if dilation is not None and list(dilation) != list(param.dilation or [1]) * (2 if len(param.dilation) < 2 else 1):
        del param.dilation[:]
        if set(dilation) != {1}:
            param.dilation.extend(dilation if dilation[0] != dilation[1] else dilation[:1])


def _set(
    param: pb.ConvolutionParameter, both: str, name_h: str, name_w: str, values: Sequence[int], *, default: int | None
) -> None:
    high, wide = values
    repeated = getattr(param, both)
    if param.HasField(name_h) or param.HasField(name_w):
        now = (getattr(param, name_h), getattr(param, name_w))
    elif len(repeated) == 0:
        now = (default, default)
    else:
        now = (repeated[0], repeated[-1])
    if now == (high, wide):
        return
    if high == wide and not param.HasField(name_h) and not param.HasField(name_w):
        del repeated[:]
        if high != default:
            repeated.append(high)
        return
    del repeated[:]
    setattr(param, name_h, high)
    setattr(param, name_w, wide)
