"""Measures the time of nets, on this machine and on devices, and their other costs."""
