"""What ``tools/benchmark.py`` does: our code measured, alone or in turn.

Nothing else of the package imports this one.
"""
