"""Probes, under the name by which workflows know them; engines make them too."""

from __future__ import annotations

from deeprebirth_caffe.engines.probe import is_fed, probe_message, save_weights, write_probe

__all__ = ["is_fed", "probe_message", "save_weights", "write_probe"]
