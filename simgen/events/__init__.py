"""Data that are sets of events: of any number, counted, seen with an efficiency."""
