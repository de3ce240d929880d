"""Applications to read and to run: they use provenance as yours would, and nothing in the library uses them."""
