"""Measuring: how long nets take, on this machine and on devices, and what they cost beside time."""
