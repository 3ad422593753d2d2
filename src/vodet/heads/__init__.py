"""Detection heads: one file a head, with its targets and losses."""
