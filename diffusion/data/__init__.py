"""What is classified: images and their labels, prompts, names of classes.

May import: io. Read datasets.py first: the table of data sets, and what a reader gives; folders.py reads users' data.
"""
