"""Tuned models behind OpenAI's protocol, on Ray Serve: the gateway, the registry of what is served, engines and reward models."""
