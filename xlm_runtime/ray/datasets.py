"""A dataset of Ray Data, and the same with answers."""
