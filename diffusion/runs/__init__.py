"""What a run leaves: its folder, run.json and one record for each image; written and read back.

May import: stats, data, io. Read records.py first: it writes and checks a record.
"""
