"""The evidence of a latent-variable model: naive Monte Carlo, ELBO and IWAE against the exact one.

`python -m studies.evidence`
"""
