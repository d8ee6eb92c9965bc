"""Schedules: a net reborn step by step as one file says, with a state on disk that survives being stopped."""
