"""Calorimeter showers: how far any sampler's are from the simulator's, and what one costs."""
