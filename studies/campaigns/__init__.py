"""Simulation campaigns under torture, timed, and on clusters."""
