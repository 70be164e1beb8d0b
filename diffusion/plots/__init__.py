"""Pictures of runs, one file for each kind; style.py alone imports matplotlib.

May import: matching, runs, stats, core, data, io. Read style.py first.
"""
