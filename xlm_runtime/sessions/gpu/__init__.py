"""Sessions on a GPU.

What can be decided without one is pure and stands in `planning`, `padding` and `cache`; what touches one is behind the
two small interfaces of `memory` (memory, copies, capture) and `executor` (what computes), so that tests run everything
above them on the CPU.
"""
