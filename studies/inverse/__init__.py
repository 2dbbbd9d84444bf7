"""Inverse problems with known answers: how far from exact each method is.

`python -m studies.inverse --gates 1,2,3,6 --seeds 20`
"""
