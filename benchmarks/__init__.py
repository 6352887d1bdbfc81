"""Measurements of the product against a peer and against itself: `make bench`. Nothing of the product imports this."""
