"""Preparation and verification of data sets."""
