"""Foreign layouts, in and out: one file each, and what they share in base.py, taking.py and layouts.py."""
