"""Graphs held against torch, and against each other."""
