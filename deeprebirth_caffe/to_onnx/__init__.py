"""Translates the layers and weights of a net into another format: ONNX.

A function for each Caffe layer type (`table.TRANSLATORS`) writes nodes that compute exactly what Caffe 1.0 computes in
phase TEST; a type without a function is refused. It needs the `onnx` package, so import it only to export a net.
"""

from deeprebirth_caffe.to_onnx.model import BATCH, OPSET, Exported, at_batch, batch_of, to_onnx

__all__ = ["BATCH", "OPSET", "Exported", "at_batch", "batch_of", "to_onnx"]
