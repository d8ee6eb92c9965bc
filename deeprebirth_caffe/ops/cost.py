"""The weights of the predicted cost, in multiply-add equivalents (MACs).

One MAC is the time that a multiply-add takes inside a large single-precision matrix product. The weights come
from timing Caffe 1.0's CPU code, one layer at a time, on one core of an x86 server (OpenBLAS on one thread,
batch 1, random input, about 42 multiply-adds a nanosecond), and dividing by the elements or window taps that
each handles. They are rounded. On that machine the sums came within a fifth of the measured times of
GoogLeNet, AlexNet, SqueezeNet, ResNet-50 and MobileNet; another processor, more threads or a larger batch
shift the balance, so they rank rewrites and do not predict milliseconds.
"""

from __future__ import annotations

COPY = 10.0
"""An element copied (Concat, Slice, Dropout at TEST)."""
ELEMENT = 6.0
"""An element through simple arithmetic (ReLU, Bias, Eltwise)."""
SCALE = 12.0
"""An element through Scale without its bias; in place, Caffe first keeps a copy of its input."""
SELECT = 60.0
"""An element sorted or compared without luck for the branch predictor (ArgMax)."""
EXP = 100.0
"""An element through exp."""
LOG = 260.0
"""An element through log, or through exp on one side of 0 (ELU)."""
POWER = 300.0
"""An element through pow."""
BNLL = 420.0
"""An element through exp and log."""
SIGMOID = 650.0
"""An element through Sigmoid, TanH or Swish, which Caffe computes one at a time."""
PRELU = 230.0
"""An element through PReLU, which Caffe computes with an index division each."""
SOFTMAX = 200.0
"""An element through Softmax."""
NORMALISE = 32.0
"""An element through BatchNorm."""
MVN = 400.0
"""An element through MVN."""
LRN_ACROSS = 200.0
"""An element through LRN across channels: a running sum, whatever the window, then pow."""
LRN_WITHIN = 550.0
"""An element through LRN within channels, on top of its window's AVE_TAPs."""
MAX_TAP = 110.0
"""A tap of a max-pooling window: a comparison and a jump."""
AVE_TAP = 30.0
"""A tap of an average-pooling window."""
UNROLL = 18.0
"""An element of the column matrix that Caffe unrolls an image into, or folds back into one."""
PACK = 15.0
"""An element of the column matrix read by the product; what a depthwise convolution mostly consists of."""
STREAM = 25.0
"""A weight of an InnerProduct fetched from memory: at batch 1 it meets one multiply-add only."""
STREAM_COLUMN = 15.0
"""A weight of a Convolution that puts out one pixel, likewise, but for each picture of the batch."""
