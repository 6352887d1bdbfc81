"""Recipes as lists of stages: what is done is not done again, what was interrupted goes on."""
