"""Runs: schedules from a plan to a report."""
