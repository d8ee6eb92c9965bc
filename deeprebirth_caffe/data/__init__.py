"""Reads the sources of data layers (databases, lists of pictures, HDF5), and writes databases."""

from deeprebirth_caffe.data.check import check_source
from deeprebirth_caffe.data.layer import DataLayer, open_layer
from deeprebirth_caffe.data.paths import find_path

__all__ = ["DataLayer", "check_source", "find_path", "open_layer"]
