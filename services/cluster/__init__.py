"""Joining or starting a Ray cluster, and waiting with deadlines."""
