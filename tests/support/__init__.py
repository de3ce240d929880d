"""Tools of the suite."""
