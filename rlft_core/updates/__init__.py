"""One optimiser step and everything it needs. Runs in any process; knows no Ray."""
