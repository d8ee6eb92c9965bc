"""Prototxt, lossless: a text as typed messages, and the text itself for writing back.

An unchanged net is written byte by byte as it was read; in a changed layer only the changed tokens differ.
"""

from deeprebirth_caffe.formats.prototxt.document import PrototxtError
from deeprebirth_caffe.formats.prototxt.messages import parse_message
from deeprebirth_caffe.formats.prototxt.net import LayerSource, NetSource, parse_net, read_net
from deeprebirth_caffe.formats.prototxt.printer import format_message
from deeprebirth_caffe.formats.prototxt.solver import SolverSource, parse_solver, read_solver

__all__ = [
    "LayerSource",
    "NetSource",
    "PrototxtError",
    "SolverSource",
    "format_message",
    "parse_message",
    "parse_net",
    "parse_solver",
    "read_net",
    "read_solver",
]
