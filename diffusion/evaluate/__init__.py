"""From a command line to a folder of records: options, the run's configuration, the loop over images.

May import: every other folder. Read loop.py first.
"""
