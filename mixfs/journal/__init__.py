"""Append-only segments of framed, checksummed items: the truth from which the index is made."""

from mixfs.journal.high_water import HighWater, replicas_in
from mixfs.journal.journal import START, Item, Journal, Position

__all__ = ["START", "HighWater", "Item", "Journal", "Position", "replicas_in"]
