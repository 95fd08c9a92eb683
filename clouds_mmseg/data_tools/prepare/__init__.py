"""Preparation of official downloads for the dataset classes."""
