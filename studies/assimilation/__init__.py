"""Lorenz-63 seen through sparse, noisy observations, under a prior learned from short windows."""
