"""What a run leaves: its record's schema, reading and writing, its identity and its provenance. No torch."""
