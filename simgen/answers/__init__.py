"""The parts of `infer`: a question, an instrument, and what is said in return."""
