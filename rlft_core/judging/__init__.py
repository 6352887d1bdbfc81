"""Judges: which of two answers to the same task is the better one."""
