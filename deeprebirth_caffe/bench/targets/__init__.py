"""Opens targets by the names of `--on`."""

from __future__ import annotations

from deeprebirth_caffe.bench.targets.base import Completed, Job, Target
from deeprebirth_caffe.errors import UsageError

__all__ = ["Completed", "Job", "Target", "open_target"]


def open_target(spec: str, *, caffe: str | None = None, timeout: float | None = None) -> Target:
    """The target of a specification; nothing starts yet.

    Args:
        spec: "local", or a device: "adb[:SERIAL]", "ssh:[USER@]HOST[:PORT]".
        caffe: the value of `--caffe`, for "local".
        timeout: the most seconds of a call.

    Raises:
        UsageError: there is no such kind of target.
    """
    if spec == "local":
        from deeprebirth_caffe.bench.targets.local import LocalTarget

        return LocalTarget(caffe, timeout)
    from deeprebirth_caffe.bench.targets.links import FORMS, link
    from deeprebirth_caffe.bench.targets.remote import RemoteTarget

    if spec.partition(":")[0] not in ("adb", "ssh"):
        raise UsageError(f"--on {spec}: there is no such place; there is local, {FORMS}")
    return RemoteTarget(spec, link(spec), timeout)
