"""Passes after which the rebirth layers have to be learned again."""
