"""What each part of the collaboration is worth; see docs/ablation.md."""
