"""Strong lensing as an inverse problem: exactly, and with a learned prior."""
