"""The simulators against what is known of them: exact answers, identities, and learned models."""
