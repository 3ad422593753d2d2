"""Detection heads, with their targets and losses."""
