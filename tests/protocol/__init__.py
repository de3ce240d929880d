"""The protocol held against its invariants."""
