"""Reading and writing of files of any kind, the hub, and wording of messages.

May import: nothing of this package but paths.py. Read reading.py first.
"""
