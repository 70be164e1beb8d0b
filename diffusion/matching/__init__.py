"""Image-caption matching: benchmarks of captioned images, their scores, their tables.

May import: runs, stats, data, io. Read items.py first: one form for every benchmark.
"""
