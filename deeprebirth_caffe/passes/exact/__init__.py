"""Passes that keep the function of the net."""
