"""Running a simulator over the rows of a dataset: workers, and what is kept of how it went."""
