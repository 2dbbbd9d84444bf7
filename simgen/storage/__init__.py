"""How rows lie on disk: shards, what says which there are, and files of others."""
