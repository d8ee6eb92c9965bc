"""Tells what a file is that is no caffemodel."""

from __future__ import annotations

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "this is a Git LFS pointer, not the file itself; run 'git lfs pull'"),
    (b"\x89HDF\r\n\x1a\n", "these are weights in HDF5; save them from Caffe as a .caffemodel and give that"),
    (b"PK\x03\x04", "this is a zip archive (or a PyTorch file); unpack it and give the .caffemodel inside"),
    (b"\x1f\x8b", "this is a gzip archive; unpack it and give the .caffemodel inside"),
    (b"\xfd7zXZ", "this is an xz archive; unpack it and give the .caffemodel inside"),
    (b"BZh", "this is a bzip2 archive; unpack it and give the .caffemodel inside"),
    (b"7z\xbc\xaf", "this is a 7z archive; unpack it and give the .caffemodel inside"),
    (b"Rar!", "this is a rar archive; unpack it and give the .caffemodel inside"),
    (b"\x80\x02", "this is a Python pickle, not a caffemodel; give the file with Caffe's weights"),
)


def not_weights(start: bytes, name: str) -> str:
    """Names the kind of a file that is no caffemodel, and what to do; else the empty string.

    Args:
        start: its first bytes, a thousand or so.
        name: its name.
    """
    for magic, text in _MAGIC:
        if start.startswith(magic):
            return text
    if start[257:262] == b"ustar":
        return "this is a tar archive; unpack it and give the .caffemodel inside"
    head = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "this is a web page, not a caffemodel; the download went wrong, fetch the file itself"
    # A caffemodel begins with a line feed and a length: only text without any control byte and with the marks of
    # a prototxt is taken for text.
    if not any(byte < 9 or 13 < byte < 32 for byte in start):
        if b"{" in start or b":" in start:
            return "this is text (a prototxt?), not a caffemodel; give the binary file with the weights"
        if len(start) < 1024 and start.isascii():
            return "this is a short text, not a caffemodel; the download went wrong, fetch the file itself"
    if name.endswith(".solverstate"):
        return "this is a solver's state; give the .caffemodel saved with it"
    return ""
