"""Four families as emulators of lensing maps: what their maps get right, and what they cost."""
