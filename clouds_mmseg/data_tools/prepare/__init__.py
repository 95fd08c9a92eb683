"""From the official downloads to folders that the dataset classes read."""
