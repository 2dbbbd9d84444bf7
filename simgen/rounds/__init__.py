"""Simulations where they are needed most, in the same dataset."""
