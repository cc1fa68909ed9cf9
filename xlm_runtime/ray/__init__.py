"""Answers by workers of a Ray cluster: files (`jobs`) and datasets of Ray Data."""
