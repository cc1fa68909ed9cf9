"""Bundles behind HTTP: an ASGI application that speaks two protocols, and the Ray Serve deployment around it."""
