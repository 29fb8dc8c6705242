"""A function as a graph of operations, and what runs it."""
