"""models/mask2former: see docs/architecture.md."""
