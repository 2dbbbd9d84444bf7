"""An external program as a simulator: Pythia in a process of its own."""
