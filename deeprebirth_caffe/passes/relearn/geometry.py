"""The geometry of pooling folded into a stride.

A convolution (kernel k, stride s, pad p, dilation d) followed by pooling (window m, stride q, pad r) samples, for
output o, the input around

    s * (o * q - r + (m - 1) / 2) - p + d * (k - 1) / 2

The one convolution that stands for both has stride s * q and samples around o * s * q - p' + d * (k' - 1) / 2. Caffe's
pooling rounds up where convolution rounds down, so the pad p' (and, if asked, the kernel k') must be solved for the
output to keep its size; the difference of the two centres at o = 0 is the shift of the sampling grid, in input pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class AxisPlan:
    """The merged convolution along one axis.

    Attributes:
        kernel, stride, pad: of the merged convolution.
        offset: where the first tap of the old kernel belongs in the new one.
        shift: of the sampling grid, in input pixels (a half pixel is possible).
    """

    kernel: int
    stride: int
    pad: int
    offset: int
    shift: Fraction


@dataclass(frozen=True)
class Axis:
    """A convolution and the pooling behind it along one axis.

    Attributes:
        size: of the convolution's input.
        out: of the pooling's output, which has to stay.
        kernel, stride, pad, dilation: of the convolution.
        pool_kernel, pool_stride, pool_pad: of the pooling.
    """

    size: int
    out: int
    kernel: int
    stride: int
    pad: int
    dilation: int
    pool_kernel: int
    pool_stride: int
    pool_pad: int

    def receptive_kernel(self) -> int:
        """The kernel that covers what convolution and pooling saw together."""
        grown = (self.pool_kernel - 1) * self.stride
        return self.kernel + -(-grown // self.dilation)

    def solve(self, kernel: int) -> AxisPlan | int:
        """The pad that keeps the output's size with the smallest shift, or the size that comes closest."""
        stride = self.stride * self.pool_stride
        reach = self.dilation * (kernel - 1) + 1
        old = Fraction(self.dilation * (self.kernel - 1), 2) - self.pad
        centre = old + self.stride * (Fraction(self.pool_kernel - 1, 2) - self.pool_pad)
        best: AxisPlan | None = None
        closest: int | None = None
        for pad in range(reach):
            room = self.size + 2 * pad - reach
            if room < 0:
                continue
            out = room // stride + 1
            if closest is None or abs(out - self.out) < abs(closest - self.out):
                closest = out
            if out != self.out:
                continue
            shift = Fraction(reach - 1, 2) - pad - centre
            if best is None or abs(shift) < abs(best.shift):
                # Where the old taps would lie for no shift at all, as far as they fit into the window.
                ideal = round((centre + pad - Fraction(self.dilation * (self.kernel - 1), 2)) / self.dilation)
                spare = kernel - self.kernel
                offset = max(min(0, spare), min(ideal, max(0, spare)))
                best = AxisPlan(kernel, stride, pad, offset, shift)
        return best if best is not None else (closest or 0)
