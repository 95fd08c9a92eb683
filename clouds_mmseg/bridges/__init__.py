"""Bridges to tools for looking at labels and correcting them."""
