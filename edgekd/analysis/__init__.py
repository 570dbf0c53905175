"""Reads predictions and outputs, returns verdicts and tables."""
