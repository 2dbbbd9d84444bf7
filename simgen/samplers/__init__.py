"""Samplers: draws from a density, one sampler a file; what each asks of it stands in its file."""
