"""Reads solver files with their text, and writes them back with only the changed fields changed."""

from deeprebirth_caffe.formats.prototxt.solver import SolverSource, parse_solver, read_solver

__all__ = ["SolverSource", "parse_solver", "read_solver"]
