"""Nets in other formats: ONNX, a pure translation of layers and weights.

One function a Caffe layer type (`table.TRANSLATORS`) writes the nodes that compute exactly what Caffe 1.0 computes in
phase TEST; a type without one is refused. Needs the `onnx` package, so import it only where a net is exported.
"""

from deeprebirth_caffe.export.model import BATCH, OPSET, Exported, at_batch, batch_of, to_onnx

__all__ = ["BATCH", "OPSET", "Exported", "at_batch", "batch_of", "to_onnx"]
