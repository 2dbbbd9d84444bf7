"""sbibm: one flow with default settings on the public benchmark, beside sbi.

`python -m studies.sbibm --task two_moons --simulations 10000 --peer sbi`
"""
