"""What can be wrong with a net, as one line that says where."""

from __future__ import annotations

from deeprebirth_caffe.errors import RebirthError


class NetError(RebirthError):
    """The net breaks one of Caffe's rules; the text starts with file:line:column where that is known."""


class AbsentStateError(NetError):
    """The file has no such state: a layer reads what only layers of other states produce."""
