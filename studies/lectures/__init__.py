"""The examples of G. Louppe's lectures on deep generative models, with simgen, on real digits and
on densities in the plane.

`python -m studies.lectures` lists them.
"""
