"""Reward actors: groups in, scored groups out."""
