"""What is classified: images and their labels, prompts, names of classes.

May import: io. Read dataset.py first: what every reader returns; then datasets.py, the table; folders.py, tables.py and
hub.py read users' data.
"""
