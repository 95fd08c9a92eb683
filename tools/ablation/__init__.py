"""Code of ``tools/ablation.py``; see docs/ablation.md."""
