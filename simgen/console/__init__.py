"""What the `simgen` command reads and shows."""
