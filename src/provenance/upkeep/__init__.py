"""What the tables of a trail need as the years go by."""

from provenance.upkeep.partitions import AsyncPartitions, Partitions, making_months

__all__ = ["AsyncPartitions", "Partitions", "making_months"]
