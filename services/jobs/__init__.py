"""Runs as jobs of a Ray cluster that others use too: submitted, listed, followed, stopped and resumed through Ray's job API."""
