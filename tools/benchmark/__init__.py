"""Code of ``tools/benchmark.py``; not part of the installed package."""
