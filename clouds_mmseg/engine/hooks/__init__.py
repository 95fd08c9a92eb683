"""Hooks of training and evaluation."""
