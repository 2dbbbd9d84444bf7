"""How far to trust an answer: what each check sees, and what it misses."""
