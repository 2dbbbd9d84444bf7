"""Simulations that joint scores save: the gap to an exact likelihood, with gold and without.

`python -m studies.gold`
"""
