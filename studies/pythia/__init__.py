"""A simulator nobody here wrote: alpha_s from Pythia's events, and the trend of our shower."""
