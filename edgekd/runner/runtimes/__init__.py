"""Inference engines of the runner: one file each, loaded only when asked for."""
