"""Read, write, load and locate weight files."""
