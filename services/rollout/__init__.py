"""Rollout engines as Ray actors, and the fleet that keeps them current."""
