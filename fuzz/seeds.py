"""Small nets, weights and solvers to start from: pieces of the zoo's nets and old and new formats written here."""

from __future__ import annotations

import numpy as np

from deeprebirth_caffe import zoo
from deeprebirth_caffe.formats.prototxt import format_message, parse_message
from deeprebirth_caffe.ir import Net
from deeprebirth_caffe.proto import caffe_pb2 as pb

MIXED = """# a comment
name: "mixed"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { crop_size: 16 mean_value: 104 mean_value: 117 mean_value: 123 mirror: true }
  data_param { source: "none" batch_size: 8 backend: LMDB } }
layer { name: "data" type: "Input" top: "data" top: "label" include { phase: TEST not_stage: "deploy" }
  input_param { shape { dim: 2 dim: 3 dim: 16 dim: 16 } shape { dim: 2 } } }
layer { name: "data" type: "Input" top: "data" include { phase: TEST stage: "deploy" min_level: 1 }
  input_param: { shape: { dim: [1, 3, 16, 16] } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 stride: 1 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }
layer { name: "in/1x1" type: "Convolution" bottom: "norm1" top: "in/1x1"
  convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "in/relu_1x1" type: "ReLU" bottom: "in/1x1" top: "in/1x1" }
layer { name: "in/3x3_reduce" type: "Convolution" bottom: "norm1" top: "in/3x3_reduce"
  convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "in/3x3" type: "Convolution" bottom: "in/3x3_reduce" top: "in/3x3"
  convolution_param { num_output: 3 kernel_size: 3 pad: 1 } }
layer { name: "in/relu_3x3" type: "ReLU" bottom: "in/3x3" top: "in/3x3" }
layer { name: "in/pool" type: "Pooling" bottom: "norm1" top: "in/pool"
  pooling_param { kernel_size: 3 stride: 1 pad: 1 } }
layer { name: "in/pool_proj" type: "Convolution" bottom: "in/pool" top: "in/pool_proj"
  convolution_param { num_output: 1 kernel_size: 1 } }
layer { name: "in/output" type: "Concat" bottom: "in/1x1" bottom: "in/3x3" bottom: "in/pool_proj" top: "in/output" }
layer { name: "pool2" type: "Pooling" bottom: "in/output" top: "pool2"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "drop" type: "Dropout" bottom: "pool2" top: "pool2" dropout_param { dropout_ratio: 0.4 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool2" top: "fc" inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" exclude { stage: "deploy" } }
layer { name: "acc" type: "Accuracy" bottom: "fc" bottom: "label" top: "acc"
  include { phase: TEST not_stage: "deploy" } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" include { stage: "deploy" } }
"""

V1 = """name: "old" input: "data" input_dim: 1 input_dim: 3 input_dim: 12 input_dim: 12
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 blobs_lr: 2 weight_decay: 1
  convolution_param { num_output: 4 kernel_size: 3 } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { name: "norm1" type: LRN bottom: "pool1" top: "norm1" lrn_param { local_size: 3 } }
layers { name: "fc" type: INNER_PRODUCT bottom: "norm1" top: "fc" inner_product_param { num_output: 5 } }
layers { name: "prob" type: SOFTMAX bottom: "fc" top: "prob" }
"""

V0 = """name: "older" input: "data" input_dim: 1 input_dim: 3 input_dim: 12 input_dim: 12
layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 4 kernelsize: 3 biasterm: true blobs_lr: 1.
  weight_filler { type: "gaussian" std: 0.01 } } bottom: "pad1" top: "conv1" }
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: MAX kernelsize: 3 stride: 2 } bottom: "conv1" top: "pool1" }
layers { layer { name: "norm1" type: "lrn" local_size: 5 alpha: 0.0001 } bottom: "pool1" top: "norm1" }
layers { layer { name: "fc" type: "innerproduct" num_output: 5 } bottom: "norm1" top: "fc" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc" top: "prob" }
"""

SHORT = """input: "data" input_shape { dim: 1 dim: 3 dim: 9 dim: 9 }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 ceil_mode: false } }
layer { name: "f" type: "Permute" bottom: "p" top: "f" permute_param { order: 0 order: 2 } }
"""

WEIGHED = """name: "weighed"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale1" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool1" top: "fc" inner_product_param { num_output: 5 } }
"""
"""The net that the weights below belong to."""

SHAPES: dict[str, tuple[str, list[tuple[int, ...]]]] = {
    "conv1": ("Convolution", [(4, 3, 3, 3), (4,)]),
    "bn1": ("BatchNorm", [(4,), (4,), (1,)]),
    "scale1": ("Scale", [(4,), (4,)]),
    "fc": ("InnerProduct", [(5, 100), (5,)]),
}

SOLVER = """# a comment
net: "train_val.prototxt"
test_iter: 10 test_interval: 100 base_lr: 0.01 lr_policy: "step" gamma: 0.1 stepsize: 100 momentum: 0.9
weight_decay: 0.0005 display: 20 max_iter: 1000 snapshot: 500 snapshot_prefix: "snap" solver_mode: CPU type: "Adam"
"""

OLD_SOLVER = """train_net: "train.prototxt" test_net: "test.prototxt" test_iter: 10 solver_type: NESTEROV base_lr: 0.01
lr_policy: "multistep" stepvalue: 10 stepvalue: 20 gamma: 0.1 regularization_type: "L1" max_iter: 100
test_state { stage: "a" level: 1 } train_state { stage: "b" }
"""


def prototxts() -> list[bytes]:
    """Nets in all formats, and pieces of zoo nets."""
    found = [MIXED, MIXED, V1, V0, SHORT, WEIGHED]
    for name in zoo.names():
        net = parse_message(zoo.build(name).train_val, pb.NetParameter)
        del net.layer[9:]
        found.append(format_message(net))
    return [text.encode() for text in found]


def caffemodels() -> list[bytes]:
    """The weights of `WEIGHED` in today's format, in V1 and in V0, with both kinds of shapes and double data."""
    random = np.random.default_rng(0)
    today, v1, v0 = pb.NetParameter(name="weighed"), pb.NetParameter(), pb.NetParameter()
    for name, (kind, shapes) in SHAPES.items():
        new = today.layer.add(name=name, type=kind)
        old = v1.layers.add(name=name, type=pb.V1LayerParameter.CONVOLUTION)
        older = v0.layers.add()
        older.layer.name, older.layer.type = name, "conv"
        for shape in shapes:
            values = random.standard_normal(shape).astype(np.float32).ravel() ** 2
            blob = new.blobs.add(data=values)
            blob.shape.dim.extend(shape)
            dims = (1,) * (4 - len(shape)) + shape
            old.blobs.add(data=values, num=dims[0], channels=dims[1], height=dims[2], width=dims[3])
            older.layer.blobs.add(double_data=values, num=dims[0], channels=dims[1], height=dims[2], width=dims[3])
    return [message.SerializeToString() for message in (today, v1, v0)]


def solvers() -> list[bytes]:
    """Solvers, new and old, and one that holds its nets."""
    inner = Net.parse(SHORT.replace("ceil_mode: false", "")).message()
    holding = pb.SolverParameter(base_lr=0.1, max_iter=10, test_iter=[1], net_param=inner)
    holding.test_state.add(stage=["s"])
    return [
        text.encode() for text in (SOLVER, SOLVER, OLD_SOLVER, format_message(holding), zoo.build("alexnet64").solver)
    ]
