"""Faults of a net, as a line that says where."""

from __future__ import annotations

from deeprebirth_caffe.errors import RebirthError


class NetError(RebirthError):
    """The net breaks a rule of Caffe; the text starts with file:line:column if that is known."""


class AbsentStateError(NetError):
    """The file lacks this state: a layer reads a blob that only layers of other states produce."""
