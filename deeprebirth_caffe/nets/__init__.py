"""Nets with their files: opened, rewritten, checked, and described in a manifest."""
