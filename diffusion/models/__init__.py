"""What measures: from a name, a folder or a file to a loaded network.

May import: core, data, io. Read loading.py first; families.py has one adapter for each kind of pipeline, and a new kind
goes there; config.py finds out what a name stands for without loading anything.
"""
