"""Pantheon supernovae: dark energy from simulations, against the exact posterior.

`python -m studies.supernovae --data DIR`
"""
