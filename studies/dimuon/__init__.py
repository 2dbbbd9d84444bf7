"""Real muon pairs: where the Z appears and how sharply, learned, against the exact posterior.

`python -m studies.dimuon --data DIR`
"""
