"""Rewards: from a group of completions to one number per sample, with a named breakdown."""
