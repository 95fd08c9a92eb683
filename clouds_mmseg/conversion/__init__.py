"""Conversion between the checkpoints of other projects and ours."""
