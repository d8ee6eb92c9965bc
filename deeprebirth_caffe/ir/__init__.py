"""The graph: Net, Layer, Value, their views by NetState, and the rules that make a net sound."""

from deeprebirth_caffe.ir.errors import NetError
from deeprebirth_caffe.ir.graph import SILENCE, Layer, Value, View, unknown_shape
from deeprebirth_caffe.ir.net import Net
from deeprebirth_caffe.ir.state import NetState
from deeprebirth_caffe.ir.summary import LayerCost, NetCost, param_shapes, summarize
from deeprebirth_caffe.ir.weights import Weights, WeightsError

__all__ = [
    "SILENCE",
    "Layer",
    "LayerCost",
    "Net",
    "NetCost",
    "NetError",
    "NetState",
    "Value",
    "View",
    "Weights",
    "WeightsError",
    "param_shapes",
    "summarize",
    "unknown_shape",
]
