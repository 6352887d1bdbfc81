"""Evaluation: metrics of outputs, bootstrap intervals, and systems side by side on the same rows."""
