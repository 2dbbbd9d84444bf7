"""Solvers of diffusion models: error against the number of network evaluations.

`python -m studies.solvers`
"""
