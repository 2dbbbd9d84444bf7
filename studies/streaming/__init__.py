"""Streaming: epochs from disk beside epochs from memory and lampe's H5Dataset."""
