"""The parts of a fit between rows of a dataset and a trained network."""
